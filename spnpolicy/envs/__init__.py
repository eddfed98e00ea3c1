"""Environments by name. To add one: its own file, a line in `ENVIRONMENTS`, a row in the contract tests."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spnpolicy.data.env import BatchedEnv, EnvSpec, Step
    from spnpolicy.envs.checks.check import check_env
    from spnpolicy.envs.checks.guard import guarded

__all__ = [
    "ENVIRONMENTS",
    "PREFIXES",
    "BatchedEnv",
    "EnvSpec",
    "Step",
    "check_env",
    "environment_class",
    "guarded",
    "make_env",
]

ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "assignment_game": (
        "spnpolicy.envs.games.assignment_game:AssignmentGame",
        "agents divide tasks among themselves, a task pays once; exact optimum, 100 agents and more",
    ),
    "coverage": (
        "spnpolicy.envs.coverage.coverage:Coverage",
        "agents on a grid share one reward when together they have reached all goals",
    ),
    "foraging": (
        "spnpolicy.envs.foraging.package:Foraging",
        "agents collect food that is too heavy for one of them (package lbforaging)",
    ),
    "foraging_arrays": (
        "spnpolicy.envs.foraging.arrays:ForagingArrays",
        "the same rules as array operations, for long training; needs no other package",
    ),
    "matrix_game": (
        "spnpolicy.envs.games.matrix_games:MatrixGame",
        "joint actions paid from a table, once or in rounds (climbing, penalty, stag_hunt, ...)",
    ),
    "two_step": (
        "spnpolicy.envs.games.two_step:TwoStep",
        "a first action chooses which of two tables is played; the better one needs coordination",
    ),
}
"""Name -> (module:class, one-line description). Classes are imported when they are first made."""

PETTINGZOO = "pettingzoo:"
PREFIXES: dict[str, str] = {
    PETTINGZOO: "any PettingZoo ParallelEnv by its module, such as pettingzoo:mpe2.simple_spread_v3",
}
"""Beginnings of names that are not registered -> one-line description."""

_PROTOCOL = "spnpolicy.data.env"
_HOME = {"check_env": "spnpolicy.envs.checks.check", "guarded": "spnpolicy.envs.checks.guard"} | dict.fromkeys(
    ("BatchedEnv", "EnvSpec", "Step"), _PROTOCOL
)
"""Where the names live that are imported when they are first asked for: a list of names must not load NumPy."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spnpolicy.envs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def environment_class(name: str) -> "Callable[..., BatchedEnv]":
    """Import and return the class of an environment.

    Args:
        name: one of `ENVIRONMENTS`, a PettingZoo environment ("pettingzoo:mpe2.simple_spread_v3", whose options are
            those of `spnpolicy.envs.pettingzoo.adapter.ParallelBatch` and its own), or a class of your own
            ("my_package.my_module:MyEnv").

    Raises:
        ConfigError: there is no such environment; the message names the nearest one.
    """
    if isinstance(name, str) and name not in ENVIRONMENTS and ":" in name:
        if name.startswith(PETTINGZOO):
            from functools import partial

            from spnpolicy.envs.pettingzoo.adapter import ParallelBatch

            return partial(ParallelBatch, name.removeprefix(PETTINGZOO))
        from spnpolicy.envs.targets import env_class

        return env_class(name)
    from spnpolicy.envs.checks.options import one_of

    module, _, attribute = ENVIRONMENTS[one_of("make_env", "environment", name, ENVIRONMENTS)][0].partition(":")
    return getattr(import_module(module), attribute)


def make_env(name: str, **options: Any) -> "BatchedEnv":
    """Make a batch of environments by name.

    Args:
        name: one of `ENVIRONMENTS`, or what `environment_class` takes besides.
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
    from spnpolicy.envs.checks.options import one_of

    make = environment_class(name)
    parameters = inspect.signature(make).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            one_of(name, "option", option, parameters)
    env = make(**options)
    if name not in ENVIRONMENTS:
        from spnpolicy.envs.targets import check_members

        check_members(name, env)
    return env
