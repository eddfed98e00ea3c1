"""Environments by name."""

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from spnpolicy.base.errors import ConfigError
from spnpolicy.data.env import BatchedEnv
from spnpolicy.envs.names import hint
from spnpolicy.envs.options import one_of
from spnpolicy.envs.registry import ENVIRONMENTS, PETTINGZOO
from spnpolicy.envs.targets import as_pettingzoo, check_members, env_class, made_of


def environment_class(name: str) -> Callable[..., BatchedEnv]:
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
            # PettingZoo takes longer to import than all the rest.
            from spnpolicy.envs.pettingzoo.adapter import ParallelBatch

            return partial(ParallelBatch, name.removeprefix(PETTINGZOO))
        return env_class(name)
    if isinstance(name, str) and name not in ENVIRONMENTS and (right := hint(name)):
        raise ConfigError(f"make_env: unknown environment {name!r}. {right}")
    module, _, attribute = ENVIRONMENTS[one_of("make_env", "environment", name, ENVIRONMENTS)][0].partition(":")
    return getattr(import_module(module), attribute)


def make_env(name: str, **options: Any) -> BatchedEnv:
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
    make = environment_class(name)
    parameters = inspect.signature(make).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        if "num_envs" in options and "num_envs" not in parameters:
            raise ConfigError(f"{name}: it takes no num_envs, and a batch of environments must. {as_pettingzoo(name)}")
        for option in options:
            one_of(name, "option", option, parameters)
    if name in ENVIRONMENTS or name.startswith(PETTINGZOO):
        return make(**options)
    env = made_of(name, make, options, remedy=as_pettingzoo(name))
    check_members(name, env)
    return env
