"""Environments by name. To add one: its own file, a line in `ENVIRONMENTS`, a row in the contract tests."""

import inspect
from importlib import import_module
from typing import Any

from spnpolicy.envs.checks import one_of
from spnpolicy.envs.protocol import BatchedEnv, EnvSpec, Step

__all__ = ["ENVIRONMENTS", "BatchedEnv", "EnvSpec", "Step", "environment_class", "make_env"]

ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "coverage": (
        "spnpolicy.envs.coverage:Coverage",
        "agents on a grid share one reward when together they have reached all goals",
    ),
    "matrix_game": (
        "spnpolicy.envs.matrix_games:MatrixGame",
        "one joint action, one common payoff from a table (climbing, penalty, ...)",
    ),
}
"""Name -> (module:class, one-line description). Classes are imported when they are first made."""


def environment_class(name: str) -> type[BatchedEnv]:
    """Import and return the class of a registered environment.

    Raises:
        ConfigError: there is no such environment; the message names the nearest one.
    """
    module, _, attribute = ENVIRONMENTS[one_of("make_env", "environment", name, ENVIRONMENTS)][0].partition(":")
    return getattr(import_module(module), attribute)


def make_env(name: str, **options: Any) -> BatchedEnv:
    """Make a batch of environments by name.

    Args:
        name: one of `ENVIRONMENTS`.
        options: what the class of that environment takes, `num_envs` among them.

    Returns:
        The environment, not yet reset.

    Raises:
        ConfigError: unknown name or option (the message names the nearest one), or an option out of range.

    Example:
        >>> env = make_env("coverage", agents=2, size=4, num_envs=8)
        >>> env.reset(seed=0).observation.shape
        (8, 2, 12)
    """
    make = environment_class(name)
    known = list(inspect.signature(make).parameters)
    for option in options:
        one_of(name, "option", option, known)
    return make(**options)
