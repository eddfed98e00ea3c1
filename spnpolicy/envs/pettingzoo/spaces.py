"""Gymnasium spaces as this project sees them: actions are indices, observations are vectors."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from jaxtyping import Float, Int

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.faults import BadValueError
from spnpolicy.envs.options import whole_number

MOST_ACTIONS = 10_000
"""Joint actions of one agent that are still taken one by one."""
MASK = "action_mask"
"""Key of a dictionary space that says which actions are allowed, and is no part of the vector."""


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
    low: float
    """Least number of a vector, by what the space says; -inf where it says nothing."""
    high: float
    """Largest number of a vector."""


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
            f"{owner}: {agent} has continuous actions, {space}; give bins=5 (--env.bins 5), for example, to choose "
            "from 5 values per dimension."
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
    """Return how the observations of a space become vectors: as `gymnasium.spaces.flatten` does it, in float32.

    Parts of a `Dict` or `Tuple` stand side by side, choices are one-hot. An "action_mask" beside others is left out.

    Raises:
        ConfigError: another kind of space.
    """
    if isinstance(space, Dict) and len(space.spaces) > 1:
        space = Dict({key: part for key, part in space.spaces.items() if key != MASK})
        if list(space.spaces) == ["observation"]:
            inner = _encoder(owner, agent, space["observation"])
            return inner._replace(encode=lambda value: inner.encode(_part(value, "observation", dict)))
    return _encoder(owner, agent, space)


def _encoder(owner: str, agent: str, space: Space[Any]) -> Encoder:
    if isinstance(space, Dict):
        return _side_by_side(dict, {key: _encoder(owner, agent, part) for key, part in space.spaces.items()})
    if isinstance(space, Tuple):
        return _side_by_side(tuple, {index: _encoder(owner, agent, part) for index, part in enumerate(space.spaces)})
    if isinstance(space, Box):
        # beyond what float32 holds lies infinity
        with np.errstate(over="ignore"):
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        bounds = float(low.min(initial=np.inf)), float(high.max(initial=-np.inf))
        return Encoder(prod(space.shape), lambda value: _vector(value, space.shape), *bounds)
    if isinstance(space, Discrete):
        return _choices(np.array(space.n), np.array(space.start))
    if isinstance(space, MultiDiscrete):
        return _choices(space.nvec, np.asarray(space.start))
    if isinstance(space, MultiBinary):
        return Encoder(prod(space.shape), lambda value: _bits(value, space.shape), 0.0, 1.0)
    raise ConfigError(
        f"{owner}: the observation space of {agent} has a part that is {space}; it must be made of Box, Discrete, "
        "MultiDiscrete, MultiBinary, Tuple and Dict. Wrap the environment so that it is."
    )


def _side_by_side(kind: type, encoders: Mapping[Any, Encoder]) -> Encoder:
    def encode(value: Any) -> Float[np.ndarray, " features"]:
        if kind is tuple and isinstance(value, tuple | list) and len(value) != len(encoders):
            raise BadValueError("observation", f"has {len(value)} parts; its space says {len(encoders)}")
        vectors = []
        for key, encoder in encoders.items():
            part = _part(value, key, kind)
            try:
                vectors.append(encoder.encode(part))
            except BadValueError as error:
                raise BadValueError(error.field, f"[{key!r}] {error.text}") from None
        return np.concatenate([np.zeros(0, np.float32), *vectors])

    sizes = [encoder.size for encoder in encoders.values()]
    low = min((encoder.low for encoder in encoders.values()), default=np.inf)
    high = max((encoder.high for encoder in encoders.values()), default=-np.inf)
    return Encoder(sum(sizes), encode, low, high)


def _part(value: Any, key: Any, kind: type) -> Any:
    if kind is tuple and not isinstance(value, tuple | list):
        raise BadValueError("observation", f"is a {type(value).__name__}; its space says a tuple")
    if kind is dict and (not isinstance(value, dict) or key not in value):
        raise BadValueError("observation", f"is a {type(value).__name__} without the key {key!r}")
    return value[key]


def _vector(value: Any, shape: tuple[int, ...]) -> Float[np.ndarray, " features"]:
    return _numbers(value, shape, "fiub").astype(np.float32, copy=False).ravel()


def _numbers(value: Any, shape: tuple[int, ...], kinds: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise BadValueError("observation", f"is not an array: {error}") from None
    if array.shape != shape:
        raise BadValueError("observation", f"has shape {array.shape}; its space says {shape}")
    if array.dtype.kind not in kinds:
        wanted = "numbers" if "f" in kinds else "whole numbers"
        raise BadValueError("observation", f"has dtype {array.dtype}; it must be {wanted}")
    return array


def _bits(value: Any, shape: tuple[int, ...]) -> Float[np.ndarray, " features"]:
    array = _numbers(value, shape, "iub")
    if ((array != 0) & (array != 1)).any():
        raise BadValueError("observation", "holds other numbers than 0 and 1")
    return array.astype(np.float32).ravel()


def _choices(counts: Int[np.ndarray, "*shape"], starts: Int[np.ndarray, "*shape"]) -> Encoder:
    """Return the encoder of whole numbers, each from its start on and so many of them: one-hot, side by side."""
    shape, sizes = counts.shape, counts.ravel()
    size = int(sizes.sum())
    first_columns = np.cumsum(sizes) - sizes

    def encode(value: Any) -> Float[np.ndarray, " features"]:
        array = _numbers(value, shape, "iu")
        choice = (array.astype(np.int64) - starts).ravel()
        wrong = np.flatnonzero((choice < 0) | (choice >= sizes))
        if len(wrong):
            start = int(starts.ravel()[wrong[0]])
            rule = f"a whole number, {start} .. {start + int(sizes[wrong[0]]) - 1}"
            raise BadValueError("observation", f"is {array.ravel()[wrong[0]]}; its space says {rule}")
        vector = np.zeros(size, np.float32)
        vector[first_columns + choice] = 1.0
        return vector

    return Encoder(size, encode, 0.0, 1.0)
