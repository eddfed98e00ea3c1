"""The log-likelihood in machine code, for float32 on the CPU: optional, and the same numbers to rounding.

`pip install` compiles `kernels.c` where it finds a C compiler. Without it everything works through torch, several
times slower for small batches, where the cost of calling each tensor operation decides.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit, ProductLayer

__all__ = [
    "applies_to",
    "disabled",
    "gradients",
    "is_available",
    "load",
    "log_likelihood",
    "log_likelihood_and_gradients",
]


class _Task(ctypes.Structure):
    """The struct of this name in kernels.c."""

    _fields_ = (
        ("plan", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("logits", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("to_logits", ctypes.c_void_p),
        ("to_values", ctypes.c_void_p),
    )


def load(name: str, *doors: str) -> ctypes.CDLL | None:
    """Return a library of ours if it was built here with these functions, which take one struct and return a status."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        functions = [getattr(library, door) for door in doors]
    except (OSError, AttributeError):  # built for another system, or from other source: install again to build it anew
        return None
    for function in functions:
        function.argtypes = [ctypes.c_void_p]
        function.restype = ctypes.c_int
    return library


_library = load("circuits.engine.native._kernels", "spn_batched", "spn_shared")
_enabled = True


def is_available() -> bool:
    """Return whether the machine code was built and is not switched off."""
    return _library is not None and _enabled


@contextmanager
def disabled() -> Iterator[None]:
    """Use torch alone inside a `with` block, to compare the two."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def applies_to(*tensors: Tensor, library: ctypes.CDLL | None = _library) -> bool:
    """Return whether the functions of a library, this one or another of ours, can take these tensors."""
    return (
        _enabled and library is not None and all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    )


def _plan_of(compiled: CompiledCircuit) -> tuple[np.ndarray, np.ndarray]:
    """Return the layers, as kernels.c tells, and layers, rows, values, parameters, root, most fan-in, most width."""
    if "native" not in compiled.cache:
        parts: list[np.ndarray] = []
        for layer in compiled.layers:
            if isinstance(layer, ProductLayer):
                header = (0, layer.start, layer.stop - layer.start)
                parts += [np.array(header), layer.left.positions, layer.right.positions]
            else:
                header = (1, layer.start, layer.blocks, layer.width, layer.fan_in, layer.first_edge)
                parts += [np.array(header), layer.inputs.positions]
        fan_in = max((layer.fan_in for layer in compiled.sum_layers), default=1)
        sizes = (
            len(compiled.layers),
            compiled.num_rows,
            compiled.num_values,
            compiled.num_parameters,
            compiled.root,
            fan_in,
            max((layer.width for layer in compiled.sum_layers), default=1),
        )
        # 64 bits wherever numpy's integers are narrower. The cache keeps both arrays alive; their addresses do not.
        plan = np.concatenate([np.empty(0, dtype=np.int64), *parts]).astype(np.int64)
        compiled.cache["native"] = plan, np.array(sizes, dtype=np.int64)
    return compiled.cache["native"]  # type: ignore[return-value]


def log_likelihood(compiled: CompiledCircuit, logits: Tensor, values: Tensor) -> Tensor | None:
    """Return the log value of the root, shape (entries,), or None where single precision would lose digits.

    Args:
        compiled: the circuit.
        logits: shape (parameters,), or (entries, parameters) for a set per entry; float32.
        values: shape (values, entries); float32.
    """
    result = values.new_empty(values.shape[1])
    return result if _call(compiled, logits, values, result, None, None, None) else None


def log_likelihood_and_gradients(
    compiled: CompiledCircuit, logits: Tensor, values: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return `log_likelihood` and the gradients to logits and values, given that of the result, (entries,)."""
    result, to_logits, to_values = values.new_empty(values.shape[1]), torch.empty_like(logits), torch.empty_like(values)
    # An expanded gradient, as sum() gives, has one number for all entries.
    exact = _call(compiled, logits, values, result, gradient.contiguous(), to_logits, to_values)
    return (result, to_logits, to_values) if exact else None


def gradients(compiled: CompiledCircuit, logits: Tensor, values: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients alone, where `log_likelihood` has found a value."""
    found = log_likelihood_and_gradients(compiled, logits, values, gradient)
    assert found is not None
    return found[1:]


def _call(compiled: CompiledCircuit, logits: Tensor, values: Tensor, *others: Tensor | None) -> bool:
    assert _library is not None
    plan, sizes = _plan_of(compiled)
    run = _library.spn_shared if logits.dim() == 1 else _library.spn_batched
    # An address knows no strides: every caller makes its tensors contiguous first.
    pointers = [None if x is None else x.data_ptr() for x in (logits, values, *others)]
    task = _Task(plan.ctypes.data, sizes.ctypes.data, values.shape[1], *pointers)
    status: int = run(ctypes.byref(task))
    if status == 2:
        raise MemoryError(f"no memory for a circuit of {compiled.num_rows:,} rows")
    return status == 0
