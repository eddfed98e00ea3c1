"""Tensors in the safetensors format, written and read in one pass, each without a second copy in memory.

The format: the length of a header in 8 bytes, a JSON header with type, shape and place of every tensor, and the bytes
of the tensors. We read it with a few lines of our own because a replay buffer may have gigabytes: each tensor goes
straight into its memory while its SHA-256 is computed, after every number of the header has been checked against the
size of the file.
"""

import hashlib
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from circuits.files import FileFacts
from spnpolicy.base.errors import CheckpointError
from spnpolicy.base.strict_json import dump_json, is_too_crowded, parse_json

MAX_HEADER = 4 << 20
"""Longest header in bytes; with MAX_CONTAINERS that is enough for 20,000 tensors, and less than 200 MB to parse."""
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "C64": torch.complex64},
}
NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}
_MAX_DIMENSIONS = 32
_CHUNK = 1 << 22


def tensor_pieces(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """Give the content of a safetensors file piece by piece, for `write_durably`.

    Raises:
        CheckpointError: there are too many tensors for one file.
    """
    # Wide types first, so that every tensor lies at a multiple of its item size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAME_OF_DTYPE[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = dump_json(header, compact=True).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER or is_too_crowded(text):
        raise CheckpointError(f"cannot save {len(tensors)} tensors in one part: put numbers of a kind into one array.")
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        # Conjugates and negatives are lazy in torch: their bytes are not yet what they stand for.
        yield _bytes_of(tensor.cpu().resolve_conj().resolve_neg().contiguous())


def read_tensors(file: io.BufferedReader, path: Path, facts: FileFacts) -> dict[str, Tensor]:
    """Read the tensors of an open safetensors file; they are on the CPU and share no memory.

    Args:
        file: the file, at its start.
        path: its name, for messages.
        facts: the size and SHA-256 it must have.

    Raises:
        CheckpointError: it is another kind of file, or damaged; the message has its path.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(16)
    _check_first_bytes(path, start, size)
    if size != facts.bytes:
        _refuse(path, f"has {size} bytes, but {facts.bytes} were written")
    file.seek(0)
    digest = hashlib.sha256()
    header = bytearray(8 + int.from_bytes(start[:8], "little"))
    _fill(file, path, memoryview(header), digest)
    entries = _parse_header(path, bytes(header[8:]), size - len(header))
    tensors: dict[str, Tensor] = {}
    for name, dtype, shape in entries:
        tensors[name] = torch.empty(shape, dtype=dtype)
        _fill(file, path, _bytes_of(tensors[name]), digest)
    if digest.hexdigest() != facts.sha256:
        _refuse(path, "does not match its SHA-256: it was changed or damaged after it was written")
    for name, tensor in tensors.items():
        # Any other byte in a truth value has no defined meaning.
        if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            _refuse(path, f"holds truth values in {name[:80]!a} that are neither 0 nor 1")
    return tensors


def _check_first_bytes(path: Path, start: bytes, size: int) -> None:
    if start[:4] == b"PK\x03\x04":
        _refuse(path, "is a zip archive (as torch.save writes), which can run code when opened; it was not read")
    if start[:1] == b"\x80" and start[8:9] != b"{":
        _refuse(path, "looks like a pickle, which can run code when opened; it was not read")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > size - 8:
        _refuse(path, "is not a safetensors file, or its start is damaged")
    if length > MAX_HEADER:
        _refuse(path, f"has a header of {length} bytes, more than the {MAX_HEADER} that are allowed")


def _parse_header(path: Path, text: bytes, data_size: int) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Return name, type and shape of every tensor in the order of their bytes, which they fill without a gap."""
    if is_too_crowded(text):
        _refuse(path, "has a header of too many lists and objects")
    header = parse_json(text, source=f"{path} (header)", error=CheckpointError)
    entries: list[tuple[int, int, str, torch.dtype, tuple[int, ...]]] = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            _refuse(path, f"describes the tensor {name[:80]!a} in an unknown way")
        dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        shape, offsets = _sizes(entry["shape"]), _sizes(entry["data_offsets"])
        if dtype is None or shape is None or len(shape) > _MAX_DIMENSIONS or offsets is None or len(offsets) != 2:
            _refuse(path, f"gives the tensor {name[:80]!a} a type, shape or place that does not exist")
        start, end = offsets
        if end - start != math.prod(shape) * dtype.itemsize or math.prod(n for n in shape if n) >= 1 << 62:
            _refuse(path, f"gives the tensor {name[:80]!a} a place that does not fit its shape")
        entries.append((start, end, name, dtype, shape))
    entries.sort(key=lambda entry: entry[:2])
    ends = [0, *(end for _, end, *_ in entries)]
    if ends[-1] != data_size or any(entry[0] != end for entry, end in zip(entries, ends, strict=False)):
        _refuse(path, "has tensors that overlap, leave gaps or do not end with the file")
    return [(name, dtype, shape) for _, _, name, dtype, shape in entries]


def _sizes(values: Any) -> tuple[int, ...] | None:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        return None
    return tuple(values)


def _bytes_of(tensor: Tensor) -> memoryview:
    # A dimension of size 1 may have any stride and the tensor still counts as contiguous: the stride is given anew.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


def _fill(file: io.BufferedReader, path: Path, view: memoryview, digest: "hashlib._Hash") -> None:
    while len(view):
        count = file.readinto(view[:_CHUNK])
        if not count:
            _refuse(path, "ended while it was read")
        digest.update(view[:count])
        view = view[count:]


def _refuse(path: Path, problem: str) -> NoReturn:
    raise CheckpointError(f"{path} {problem}.")
