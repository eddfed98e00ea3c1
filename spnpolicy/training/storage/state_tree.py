"""Take nested state apart into JSON and tensors, and put it together again exactly.

What an algorithm, an optimiser or an environment calls its state is a nest of dicts (with string or integer
keys), lists and tuples around numbers, strings, tensors and arrays. Safetensors stores only named tensors,
JSON only plain values, so the nest is split: tensors move into a flat table, and the JSON keeps their names.

JSON form of what JSON cannot say, always an object with one key:
    {"$tensor": name}  {"$array": name}  {"$scalar": name}    tensor, NumPy array, NumPy scalar
    {"$float": "nan" | "inf" | "-inf" | bytes of a nan}       a number that is not finite
    {"$tuple": [...]}  {"$items": [[key, value], ...]}        tuple; dict with integer or "$" keys
"""

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spnpolicy.base.errors import CheckpointError
from spnpolicy.base.strict_json import MAX_DEPTH, is_too_deep
from spnpolicy.training.storage.tensor_files import NAME_OF_DTYPE

_ARRAY_KINDS = "biufc"


def flatten(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split a nested state into JSON values and a table of tensors.

    The tensors may share memory with the state and with each other, for a buffer of gigabytes is not copied: write
    them before the state changes.

    Raises:
        CheckpointError: something in the nest has no exact form; the message has its place and type.
    """
    tensors: dict[str, Tensor] = {}
    try:
        tree = _flatten(state, "", tensors)
    except RecursionError:
        raise CheckpointError("cannot save the state: it is nested too deeply, or contains itself.") from None
    # One level is left for the object of all parts.
    if is_too_deep([tree]):
        raise CheckpointError(f"cannot save the state: it is nested in more than {MAX_DEPTH - 1} levels.")
    return tree, tensors


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `flatten` took apart.

    Raises:
        CheckpointError: the JSON is not of the form above, or does not name every tensor exactly once.
    """
    unused = dict(tensors)
    state = _unflatten(tree, unused)
    if unused:
        raise CheckpointError(f"no place in the saved state for the tensor {next(iter(unused))[:80]!r}.")
    return state


def _unflatten(tree: Any, unused: dict[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unflatten(item, unused) for item in tree]
    if not isinstance(tree, dict):
        return tree
    marker = next(iter(tree), "")
    if not marker.startswith("$"):
        return {key: _unflatten(value, unused) for key, value in tree.items()}
    if len(tree) != 1 or marker not in _READERS:
        raise CheckpointError(f"unknown marker {marker[:80]!r} in the saved state.")
    try:
        return _READERS[marker](tree[marker], unused)
    except (KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(f"malformed {marker!r} in the saved state: {str(problem)[:200]}.") from None


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return {"$tensor": _store(value.detach(), path, tensors)}
    if isinstance(value, (np.ndarray, np.generic)):
        marker = "$array" if isinstance(value, np.ndarray) else "$scalar"
        return {marker: _store(_from_numpy(value, path), path, tensors)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": _float_text(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_flatten(item, _join(path, index), tensors) for index, item in enumerate(value)]
    if type(value) is tuple:
        return {"$tuple": [_flatten(item, _join(path, index), tensors) for index, item in enumerate(value)]}
    if isinstance(value, dict):
        return _flatten_dict(value, path, tensors)
    raise CheckpointError(f"cannot save {path or 'the state'}: type {type(value).__name__} has no exact plain form.")


def _flatten_dict(value: dict[Any, Any], path: str, tensors: dict[str, Tensor]) -> Any:
    for key in value:
        if type(key) not in (str, int):
            raise CheckpointError(f"cannot save {path or 'the state'}: key {key!r} is neither a string nor an integer.")
    items = {key: _flatten(item, _join(path, key), tensors) for key, item in value.items()}
    if all(isinstance(key, str) and not key.startswith("$") for key in items):
        return items
    return {"$items": [[key, item] for key, item in items.items()]}


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _store(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    if tensor.dtype not in NAME_OF_DTYPE or tensor.layout != torch.strided:
        raise CheckpointError(
            f"cannot save {path or 'the state'}: a tensor of {tensor.dtype}, {tensor.layout} has no exact form."
        )
    # The keys 0 and "0" give the same path, and a key may hold a slash: a suffix keeps names apart.
    name = candidate = path or "state"
    suffix = 2
    while candidate in tensors:
        candidate = f"{name}#{suffix}"
        suffix += 1
    tensors[candidate] = tensor
    return candidate


def _from_numpy(value: Any, path: str) -> Tensor:
    array = np.asarray(value, order="C")
    if array.dtype.kind not in _ARRAY_KINDS or not array.dtype.isnative:
        raise CheckpointError(f"cannot save {path or 'the state'}: an array of type {array.dtype} has no exact form.")
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except TypeError:
        raise CheckpointError(f"cannot save {path}: torch has no type for arrays of {array.dtype}.") from None


def _read_scalar(tensor: Tensor) -> Any:
    if tensor.ndim:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is not a scalar")
    return tensor.numpy()[()]


def _float_text(value: float) -> str:
    # There are many nan: one with a sign or a payload is written as its bytes.
    content = struct.pack(">d", value)
    return content.hex() if math.isnan(value) and content != struct.pack(">d", math.nan) else str(value)


def _read_float(text: Any) -> float:
    if text in ("nan", "inf", "-inf"):
        return float(text)
    content = bytes.fromhex(text) if isinstance(text, str) else b""
    value = struct.unpack(">d", content)[0] if len(content) == 8 else 0.0
    if not math.isnan(value) or _float_text(value) != text:
        raise ValueError(f"{text!r} is not one of nan, inf, -inf and the bytes of another nan")
    return value


def _read_tuple(items: Any, unused: dict[str, Tensor]) -> tuple[Any, ...]:
    if not isinstance(items, list):
        raise TypeError("it must hold a list")
    return tuple(_unflatten(items, unused))


def _read_items(items: Any, unused: dict[str, Tensor]) -> dict[str | int, Any]:
    if not isinstance(items, list):
        raise TypeError("it must hold a list")
    result: dict[str | int, Any] = {}
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or type(item[0]) not in (str, int) or item[0] in result:
            raise ValueError("each item must be a list of a key, not used before, and a value")
        result[item[0]] = _unflatten(item[1], unused)
    return result


# `pop` because each tensor has one place: two that share memory would change together.
_READERS: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "$tensor": lambda name, unused: unused.pop(name),
    "$array": lambda name, unused: unused.pop(name).numpy(),
    "$scalar": lambda name, unused: _read_scalar(unused.pop(name)),
    "$float": lambda text, unused: _read_float(text),
    "$tuple": _read_tuple,
    "$items": _read_items,
}
