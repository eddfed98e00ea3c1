"""Gymnasium spaces as this project sees them: actions are indices, observations are vectors."""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from jaxtyping import Float

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.faults import BadValueError
from spnpolicy.envs.options import whole_number

MOST_ACTIONS = 10_000
"""Joint actions of one agent that are still taken one by one."""
MASKED = ("observation", "action_mask")
"""Keys of the one dictionary space that is understood."""


class ActionSet(NamedTuple):
    """The actions of one agent, counted from 0."""

    count: int
    """How many there are."""
    names: tuple[str, ...]
    """A readable name of each."""
    decode: Callable[[int], Any]
    """From the index to what the environment wants."""


class Encoder(NamedTuple):
    """How the observations of one agent become vectors."""

    size: int
    """Length of the vector."""
    encode: Callable[[Any], Float[np.ndarray, " features"]]
    """From what the environment shows to the vector; raises BadValueError if the space does not allow it."""


def action_set(owner: str, agent: str, space: Space[Any], bins: int | None) -> ActionSet:
    """Return the actions that a space holds.

    A `MultiDiscrete` space counts as the product of its parts. A `Box` becomes a grid of `bins` equally
    spaced values per dimension, 2 or more, both bounds included. Messages name environment (owner) and agent.

    Raises:
        ConfigError: another kind of space, a `Box` without `bins` or without bounds, or too many actions.
    """
    if isinstance(space, Discrete):
        start, count = int(space.start), int(space.n)
        return ActionSet(count, tuple(map(str, range(start, start + count))), lambda index: start + index)
    if isinstance(space, MultiDiscrete):
        counts, starts = space.nvec.ravel(), np.ravel(space.start)
        parts = [start + np.arange(count) for start, count in zip(starts, counts, strict=True)]
        return _product(owner, agent, parts, space.shape, space.dtype, "ask for fewer choices")
    if not isinstance(space, Box):
        raise ConfigError(
            f"{owner}: the action space of {agent} is {space}; it must be Discrete, MultiDiscrete or Box. "
            "Wrap the environment so that it has one of these."
        )
    if bins is None:
        raise ConfigError(
            f"{owner}: {agent} has continuous actions, {space}; give bins=5, for example, to choose from 5 values "
            "per dimension."
        )
    whole_number(owner, "bins", bins, 2)
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ConfigError(f"{owner}: the actions of {agent} have no bounds, {space}; bins need finite ones.")
    grid = [np.linspace(low, high, bins) for low, high in zip(space.low.ravel(), space.high.ravel(), strict=True)]
    return _product(owner, agent, grid, space.shape, space.dtype, "use fewer bins")


def _product(
    owner: str, agent: str, parts: list[np.ndarray], shape: tuple[int, ...], dtype: Any, remedy: str
) -> ActionSet:
    """Return all combinations of one value of each part, the last part changing fastest."""
    sizes = [len(part) for part in parts]
    count = prod(sizes)
    if count > MOST_ACTIONS:
        raise ConfigError(
            f"{owner}: {agent} would have {' x '.join(map(str, sizes))} = {count:,} actions, more than "
            f"{MOST_ACTIONS:,}; {remedy}."
        )
    corners = np.meshgrid(*parts, indexing="ij")
    table = np.stack([corner.ravel() for corner in corners], axis=1).astype(dtype)
    names = tuple("(" + ", ".join(f"{value:.4g}" for value in row) + ")" for row in table)
    table = table.reshape(count, *shape)
    # a copy, because an environment may change in place what it is given
    return ActionSet(count, names, lambda index: table[index].copy())


def observation_encoder(owner: str, agent: str, space: Space[Any]) -> Encoder:
    """Return how the observations of a space become vectors: a `Box` flattened, a `Discrete` space as one-hot.

    Raises:
        ConfigError: another kind of space.
    """
    if isinstance(space, Dict) and set(space.spaces) == set(MASKED):
        inner = observation_encoder(owner, agent, space["observation"])
        return Encoder(inner.size, lambda value: inner.encode(_unmasked(value)))
    if isinstance(space, Box):
        shape = space.shape
        return Encoder(prod(shape), lambda value: _vector(value, shape))
    if isinstance(space, Discrete):
        start, count = int(space.start), int(space.n)
        return Encoder(count, lambda value: _one_hot(value, start, count))
    raise ConfigError(
        f"{owner}: the observation space of {agent} is {space}; it must be Box, Discrete, or a Dict of "
        "'observation' and 'action_mask'. Wrap the environment so that it has one of these."
    )


def _unmasked(value: Any) -> Any:
    if not isinstance(value, dict) or "observation" not in value:
        raise BadValueError("observation", f"is a {type(value).__name__} without the key 'observation'")
    return value["observation"]


def _vector(value: Any, shape: tuple[int, ...]) -> Float[np.ndarray, " features"]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise BadValueError("observation", f"is not an array: {error}") from None
    if array.shape != shape:
        raise BadValueError("observation", f"has shape {array.shape}; its space says {shape}")
    if array.dtype.kind not in "fiub":
        raise BadValueError("observation", f"has dtype {array.dtype}; it must be numbers")
    return array.astype(np.float32, copy=False).ravel()


def _one_hot(value: Any, start: int, count: int) -> Float[np.ndarray, " features"]:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not start <= value < start + count:
        raise BadValueError(
            "observation", f"is {value!r}; its space says a whole number, {start} .. {start + count - 1}"
        )
    vector = np.zeros(count, np.float32)
    vector[int(value) - start] = 1.0
    return vector
