"""Checks at the door of every environment: options when it is built, actions when it is stepped, what was saved.

`owner` is the name of the environment, for messages.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from spnpolicy.base.decoding import nearest_name
from spnpolicy.base.errors import CheckpointError, ConfigError, EnvError, SpnPolicyError

T = TypeVar("T")


def whole_number(owner: str, option: str, value: object, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`, or say which option of which environment is wrong.

    Raises:
        ConfigError: `value` is a bool, a float (nan included) or text, or it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(
            f"{owner}: {option}={value!r} is a {type(value).__name__}; it must be a whole number, {minimum} or more."
        )
    if value < minimum:
        raise ConfigError(f"{owner}: {option}={value} is too small; it must be {minimum} or more.")
    return int(value)


def one_of(owner: str, option: str, value: object, known: Iterable[str]) -> str:
    """Return `value` if it is one of the known names, or name the nearest one.

    Raises:
        ConfigError: `value` is not a known name.
    """
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    nearest = nearest_name(str(value), names, cutoff=0.5)
    hint = f"did you mean {nearest!r}? Known" if nearest else "known"
    raise ConfigError(f"{owner}: unknown {option} {value!r}; {hint}: {', '.join(names)}.")


def true_or_false(owner: str, option: str, value: object) -> bool:
    """Return `value` if it is a bool.

    Raises:
        ConfigError: it is anything else, 0 and 1 included.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{owner}: {option}={value!r} must be true or false.")
    return value


def checked_discount(owner: str, discount: float) -> float:
    """Return a discount, or refuse one outside [0, 1] with a ConfigError."""
    if not 0.0 <= discount <= 1.0:
        raise ConfigError(f"{owner}: discount={discount} must be between 0 and 1.")
    return float(discount)


def checked_seed(owner: str, seed: object) -> None:
    """Refuse the seed of a reset, with a ConfigError, unless it is None or a whole number, 0 or more."""
    if seed is not None:
        whole_number(owner, "seed", seed, 0)


def begun(owner: str, shown: T | None) -> T:
    """Return what exists from the first reset on.

    Raises:
        EnvError: it does not exist yet.
    """
    if shown is None:
        raise EnvError(f"{owner}: no episode has begun; call reset() first.")
    return shown


@contextmanager
def reading_saved_state(owner: str) -> Iterator[None]:
    """Turn what goes wrong while a saved state is taken apart into a CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{owner}: the saved state is damaged: {error!r}.") from error


def check_saved_options(owner: str, saved: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse the state of an environment that was made with other options.

    Raises:
        CheckpointError: an option differs; the message has both values.
    """
    for option, value in options.items():
        if saved.get(option) != value:
            raise CheckpointError(
                f"{owner}: the saved state has {option}={saved.get(option)!r}, this environment {option}={value!r}."
            )


def check_array(
    what: str, array: np.ndarray, shape: tuple[int, ...], kinds: str, top: int, *, error: type[SpnPolicyError]
) -> None:
    """Refuse an array, which the message calls `what`, of another shape or kind or with values outside 0 .. top - 1."""
    if array.shape != shape or array.dtype.kind not in kinds:
        wanted = "truth values" if kinds == "b" else "integers"
        raise error(f"{what} has shape {array.shape} and dtype {array.dtype}; it must be {wanted} of shape {shape}.")
    if array.min() < 0 or array.max() >= top:
        raise error(f"{what} has values outside 0 .. {top - 1}.")


def checked_actions(
    owner: str, actions: object, num_envs: int, cardinalities: Int[np.ndarray, " agents"]
) -> Int[np.ndarray, "envs agents"]:
    """Return the joint actions that a user passed to `step` as intp, after checking shape, type and range.

    Raises:
        EnvError: not an integer array of that shape, or an action that its agent does not have.
    """
    expected = (num_envs, len(cardinalities))
    if not isinstance(actions, np.ndarray):
        raise EnvError(
            f"{owner}: actions are a {type(actions).__name__}; they must be a numpy integer array "
            f"of shape {expected} (envs, agents)."
        )
    if actions.shape != expected:
        raise EnvError(f"{owner}: actions have shape {actions.shape}; they must have {expected} (envs, agents).")
    if actions.dtype.kind not in "iu":
        raise EnvError(f"{owner}: actions have dtype {actions.dtype}; they must be integers.")
    if actions.min() < 0 or (actions >= cardinalities).any():
        env, agent = np.argwhere((actions < 0) | (actions >= cardinalities))[0]
        raise EnvError(
            f"{owner}[env {env}]: action of agent {agent} is {actions[env, agent]}; "
            f"it must be between 0 and {cardinalities[agent] - 1}."
        )
    return actions.astype(np.intp, copy=False)
