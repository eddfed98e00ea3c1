"""Save and load a circuit and its logits: one safetensors file, never a pickle.

The file holds the tensor `logits`, in the order of the nodes and their children, which does not depend on how this
program folds a circuit into layers; its metadata holds `format`, `version`, the structure as strict JSON and a SHA-256
digest of structure and numbers.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NoReturn, cast

import safetensors
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from circuits.circuit import Circuit
from circuits.errors import CircuitError, FormatError, StructureError
from circuits.files import replace_file
from circuits.nodes import Input, Node, Product, Sum

_FORMAT = "circuits"
_VERSION = "2"
_MAX_VALUES = 1 << 24
"""Most values of all variables together that a file may ask for; each costs memory before any number is read."""


def save(path: str | os.PathLike[str], circuit: Circuit, logits: Tensor) -> None:
    """Write a circuit and its logits to one file; a crash leaves the old file or the new one, never a part.

    Args:
        path: the file; it is replaced if it exists.
        circuit: the structure.
        logits: floating point, shape (*batch, circuit.num_parameters).

    Raises:
        StructureError: the logits do not fit the circuit.
    """
    if logits.shape[-1:] != (circuit.num_parameters,) or not logits.is_floating_point():
        raise StructureError(
            f"logits have shape {tuple(logits.shape)} and type {logits.dtype}; a circuit with {circuit.num_parameters} "
            "parameters needs floating-point logits with that last dimension."
        )
    numbers = logits.detach().cpu()[..., _by_node(circuit)].contiguous()
    structure = json.dumps(_structure_of(circuit), allow_nan=False, separators=(",", ":"))
    metadata = {"format": _FORMAT, "version": _VERSION, "structure": structure, "sha256": _digest(structure, numbers)}
    replace_file(Path(path), to_bytes({"logits": numbers}, metadata))


def load(path: str | os.PathLike[str]) -> tuple[Circuit, Tensor]:
    """Read a circuit and its logits from a file that `save` wrote.

    Returns:
        The circuit and its logits, shape (*batch, circuit.num_parameters), on the CPU.

    Raises:
        FormatError: the file is a pickle or an archive, is damaged, has an unknown version, or its parts do not fit
            together; the message names the file. Nothing in the file is ever executed.
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        start = file.read(9)
    # The first eight bytes of a safetensors file are a length, which may begin like a pickle; then comes a brace.
    if start[8:] != b"{" and (start[:1] == b"\x80" or start[:2] == b"PK"):
        raise FormatError(f"{name}: this is a pickle or a zip archive, which can run code; it was not opened.")
    try:
        with safetensors.safe_open(name, "pt") as file:
            metadata = cast(dict[str, str], file.metadata() or {})
            tensors = {key: cast(Tensor, file.get_tensor(key)) for key in file.keys()}
    except OSError:
        raise
    except Exception as problem:
        raise FormatError(f"{name}: not a whole safetensors file: {problem}.") from None
    _check_metadata(name, metadata, tensors)
    circuit = _read_structure(name, metadata["structure"])
    logits = tensors["logits"]
    if logits.shape[-1:] != (circuit.num_parameters,) or not logits.is_floating_point():
        raise FormatError(
            f"{name}: logits have shape {tuple(logits.shape)} and type {logits.dtype}, but the circuit has "
            f"{circuit.num_parameters} parameters."
        )
    return circuit, torch.empty_like(logits).index_copy_(-1, _by_node(circuit), logits)


def _by_node(circuit: Circuit) -> Tensor:
    """Return the positions of the logits, node by node, shape (parameters,)."""
    # Logits are numbered as layers are folded, which may change from version to version; a file must outlive that.
    positions = torch.arange(circuit.num_parameters)
    return torch.cat([positions[:0], *(positions[circuit.parameters_of(i)] for i in range(circuit.num_nodes))])


def _check_metadata(name: str, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    if metadata.get("format") != _FORMAT:
        raise FormatError(f"{name}: not written by circuits.save (its format is {metadata.get('format')!r}).")
    if metadata.get("version") != _VERSION:
        raise FormatError(f"{name}: version {metadata.get('version')!r} is unknown; this program reads {_VERSION!r}.")
    if set(tensors) != {"logits"} or set(metadata) != {"format", "version", "structure", "sha256"}:
        raise FormatError(f"{name}: holds tensors {sorted(tensors)} and metadata {sorted(metadata)}; parts are wrong.")
    if metadata["sha256"] != _digest(metadata["structure"], tensors["logits"]):
        raise FormatError(f"{name}: the content does not match its digest; the file is damaged.")


def _digest(structure: str, logits: Tensor) -> str:
    digest = hashlib.sha256(f"{structure}\n{logits.dtype} {tuple(logits.shape)}\n".encode())
    digest.update(logits.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _structure_of(circuit: Circuit) -> dict[str, Any]:
    nodes = [
        ["input", node.variable, node.values]
        if isinstance(node, Input)
        else [type(node).__name__.lower(), node.children]
        for node in circuit.nodes
    ]
    return {"name": circuit.name, "cardinalities": circuit.cardinalities, "nodes": nodes}


def _read_structure(name: str, text: str) -> Circuit:
    try:
        # Python's reader keeps the last of two equal keys and takes NaN for a number; no file of ours needs either.
        structure = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse, parse_float=_refuse)
        if not isinstance(structure, dict) or set(structure) != {"name", "cardinalities", "nodes"}:
            raise ValueError("the structure must be an object with name, cardinalities and nodes")
        if not isinstance(structure["name"], str):
            raise ValueError(f"name is {structure['name']!r}; it must be a text")
        cardinalities = _integers(structure["cardinalities"], "cardinalities")
        if sum(cardinalities) > _MAX_VALUES:
            raise ValueError(f"the variables have {sum(cardinalities):,} values, more than {_MAX_VALUES:,}")
        if not isinstance(structure["nodes"], list):
            raise ValueError("nodes must be a list")
        nodes = [_read_node(index, node) for index, node in enumerate(cast(list[Any], structure["nodes"]))]
        return Circuit(cardinalities, nodes, name=structure["name"])
    except (CircuitError, ValueError, RecursionError) as problem:
        raise FormatError(f"{name}: the structure is not valid: {problem}") from None


def _read_node(index: int, node: Any) -> Node:
    match node:
        case ["input", int(variable), values] if not isinstance(variable, bool):
            return Input(variable, _integers(values, f"node {index}"))
        case ["product", children]:
            return Product(_integers(children, f"node {index}"))
        case ["sum", children]:
            return Sum(_integers(children, f"node {index}"))
        case _:
            raise ValueError(f"node {index} is not an input, product or sum")


def _integers(values: Any, where: str) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in cast(list[Any], values)):
        raise ValueError(f"{where} must hold a list of integers")
    return tuple(cast(list[int], values))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key appears twice in {keys}")
    return dict(pairs)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not an integer")
