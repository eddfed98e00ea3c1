"""Shapes and joint values at the door: what a user gives is checked before anything is computed."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from circuits.errors import EvidenceError, NotTractableError, StructureError
from circuits.variables import as_tuple

MOST_NUMBERS = 2**30
"""Integers that one call may draw: 8 GiB."""


def common_shape(shapes: Sequence[torch.Size], what: str) -> torch.Size:
    """Return the common shape, or raise with all of them."""
    # The usual case; the first call of torch.broadcast_shapes in a process takes a fifth of a second: it imports sympy.
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        listed = ", ".join(str(tuple(shape)) for shape in shapes)
        raise StructureError(f"{what}: the batch shapes {listed} do not broadcast to one shape.") from None


def check_values(values: Tensor, cardinalities: Sequence[int], limits: Tensor | None = None) -> None:
    """Raise unless values are integers of shape (*batch, variables), each inside the range of its variable.

    Args:
        values: joint values.
        cardinalities: number of values of each variable.
        limits: the same as a tensor on the device of the values, where it is at hand.

    Raises:
        EvidenceError: they are no tensor of integers, have another shape, or one of them is out of range.
    """
    if not isinstance(values, Tensor):
        raise EvidenceError(f"values are a {type(values).__name__}; pass a tensor of integers (torch.as_tensor).")
    if values.ndim == 0 or values.shape[-1] != len(cardinalities):
        raise EvidenceError(
            f"values have shape {tuple(values.shape)}, but the last axis must hold {len(cardinalities)} variables."
        )
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise EvidenceError(f"values have dtype {values.dtype}, but the value of a variable is an integer index.")
    # A value out of range would silently read a number of another variable.
    limits = torch.as_tensor(cardinalities, device=values.device) if limits is None else limits
    outside = (values < 0) | (values >= limits)
    if bool(outside.any()):
        where = tuple(outside.nonzero()[0].tolist())
        variable = where[-1]
        raise EvidenceError(
            f"values{list(where)} is {int(values[where])}, but variable {variable} takes the values "
            f"0 to {cardinalities[variable] - 1}."
        )


def check_count(query: str, count: object) -> None:
    """Refuse what is no number of things to list."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{query} needs a count of at least 1, a whole number, not {count!r}.")


def check_sample_shape(shape: Any, numbers: int) -> torch.Size:
    """Return how many draws are wanted as a shape, or refuse what is negative or would not fit into memory.

    Args:
        shape: of the draws.
        numbers: that each of them has, over all batch rows and variables.
    """
    shape = as_tuple(shape, "sample: the shape", "(5,)")
    if any(isinstance(size, bool) or not hasattr(size, "__index__") or size < 0 for size in shape):
        raise EvidenceError(f"sample: the shape is {shape}; give integers of at least 0.")
    # Counted in Python's integers: torch's overflow.
    if (total := prod(int(size) for size in shape) * numbers) > MOST_NUMBERS:
        raise NotTractableError(
            f"sample: {shape} draws of {numbers:,} numbers each are {total:,}, more than {MOST_NUMBERS:,}; "
            "draw them in parts."
        )
    return torch.Size(shape)
