"""Take nested state apart into JSON and tensors, and put it together again exactly.

What an algorithm, an optimiser or an environment calls its state is a nest of dicts (with string or integer
keys), lists and tuples around numbers, strings, tensors and arrays. Safetensors stores only named tensors,
JSON only plain values, so the nest is split: tensors move into a flat table, and the JSON keeps their names.

JSON form of what JSON cannot say, always an object with one key:
    {"$tensor": name}  {"$array": name}  {"$scalar": name}    tensor, NumPy array, NumPy scalar
    {"$float": "nan" | "inf" | "-inf"}                        a number that is not finite
    {"$tuple": [...]}  {"$items": [[key, value], ...]}        tuple; dict with integer or "$" keys
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spnpolicy.errors import CheckpointError

_ARRAY_KINDS = "biufc"


def flatten(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split a nested state into JSON values and a table of tensors.

    Tensors are cloned: each entry of the table is contiguous, on the CPU and shares memory with nothing.

    Raises:
        CheckpointError: something in the nest has no exact form; the message has its place and type.
    """
    tensors: dict[str, Tensor] = {}
    return _flatten(state, "", tensors), tensors


def unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Put together what `flatten` took apart.

    Raises:
        CheckpointError: the JSON names a tensor that is not there, or is not of the form above.
    """
    if isinstance(tree, list):
        return [unflatten(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    marker = next(iter(tree), "")
    if not marker.startswith("$"):
        return {key: unflatten(value, tensors) for key, value in tree.items()}
    if len(tree) != 1 or marker not in _READERS:
        raise CheckpointError(f"unknown marker {marker!r} in the saved state.")
    try:
        return _READERS[marker](tree[marker], tensors)
    except (KeyError, TypeError, ValueError, IndexError) as problem:
        raise CheckpointError(f"malformed {marker!r} in the saved state: {problem}.") from None


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return {"$tensor": _store(value.detach().cpu().clone(memory_format=torch.contiguous_format), path, tensors)}
    if isinstance(value, (np.ndarray, np.generic)):
        marker = "$array" if isinstance(value, np.ndarray) else "$scalar"
        return {marker: _store(_from_numpy(value, path), path, tensors)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
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
    # The keys 0 and "0" give the same path, and a key may hold a slash: a suffix keeps names apart.
    name = candidate = path or "state"
    suffix = 2
    while candidate in tensors:
        candidate = f"{name}#{suffix}"
        suffix += 1
    tensors[candidate] = tensor
    return candidate


def _from_numpy(value: Any, path: str) -> Tensor:
    array = np.array(value, order="C")
    if array.dtype.kind not in _ARRAY_KINDS or not array.dtype.isnative:
        raise CheckpointError(f"cannot save {path or 'the state'}: an array of type {array.dtype} has no exact form.")
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise CheckpointError(f"cannot save {path}: torch has no type for arrays of {array.dtype}.") from None


def _read_float(text: Any) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(f"{text!r} is not one of nan, inf, -inf")
    return float(text)


_READERS: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "$tensor": lambda name, tensors: tensors[name],
    "$array": lambda name, tensors: tensors[name].numpy(),
    "$scalar": lambda name, tensors: tensors[name].numpy()[()],
    "$float": lambda text, tensors: _read_float(text),
    "$tuple": lambda items, tensors: tuple(unflatten(item, tensors) for item in items),
    "$items": lambda items, tensors: {key: unflatten(value, tensors) for key, value in items},
}
