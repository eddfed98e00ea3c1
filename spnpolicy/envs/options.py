"""Checks at the door of every environment: options when it is built, actions when it is stepped."""

import difflib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from spnpolicy.base.errors import ConfigError, EnvError


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
    nearest = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ConfigError(f"{owner}: unknown {option} {value!r}; {hint}Known: {', '.join(names)}.")


def checked_actions(
    owner: str, actions: object, num_envs: int, cardinalities: Int[np.ndarray, " agents"]
) -> Int[np.ndarray, "envs agents"]:
    """Return joint actions as intp after checking shape, type and range.

    Args:
        owner: name of the environment, for the message.
        actions: what the user passed to `step`.
        num_envs: number of environments in the batch.
        cardinalities: number of actions of each agent, shape (agents,).

    Returns:
        The actions, shape (num_envs, agents), dtype intp.

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
