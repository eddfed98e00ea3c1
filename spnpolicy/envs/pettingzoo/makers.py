"""The functions that make PettingZoo environments, found by the name of their module, and what they take."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pettingzoo import ParallelEnv

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.options import one_of
from spnpolicy.envs.pettingzoo.turns import lean
from spnpolicy.envs.targets import find_module, find_object

ADAPTER_OPTIONS = ("num_envs", "workers", "bins", "episode_limit", "agents_stay", "own_state", "timeout", "render_mode")
"""Options of the batch itself; an environment's own options of the same names cannot be reached."""


def parallel_maker(owner: str, target: str, options: Mapping[str, Any]) -> Callable[[], ParallelEnv]:
    """Return a function that makes one PettingZoo environment.

    The target is a module with a function `parallel_env`, or module.name of a class or function, and the options are
    its keyword arguments. Messages begin with the name of the environment, its owner.

    Raises:
        ConfigError: no such module, function or option; the function fails, or makes something else.
    """
    make, known = _maker(owner, target)
    _check_options(owner, known, options)

    def made() -> ParallelEnv:
        try:
            env = make(**options)
        except ConfigError:
            raise
        except Exception as error:
            given = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no options"
            raise ConfigError(f"{owner}: it cannot be made with {given}: {type(error).__name__}: {error}") from error
        wanted = ("possible_agents", "reset", "step", "action_space", "observation_space")
        missing = [name for name in wanted if not hasattr(env, name)]
        if missing:
            raise ConfigError(
                f"{owner}: it makes a {type(env).__name__} without {', '.join(missing)}; "
                "it must make a PettingZoo ParallelEnv."
            )
        return lean(env)

    return made


def maker_parameters(owner: str, target: str) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the function that makes a PettingZoo environment; see `parallel_maker`."""
    return inspect.signature(_maker(owner, target)[1]).parameters


def _maker(owner: str, target: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the function that makes environments, and the one whose parameters are its options."""
    if not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"{owner}: write it like pettingzoo:mpe2.simple_spread_v3, with the name of a module.")
    module = find_module(owner, target)
    if module is None:
        parent, _, attribute = target.rpartition(".")
        make = find_object(owner, parent, attribute)
        if not callable(make):
            raise ConfigError(f"{owner}: {target!r} is a {type(make).__name__}; name a module, class or function.")
        return make, make
    make = getattr(module, "parallel_env", None)
    if make is None:
        raise ConfigError(
            f"{owner}: the module {target!r} has no parallel_env; name a class in it, such as "
            f"'pettingzoo:{target}.MyEnv'."
        )
    # PettingZoo's usual parallel_env(**kwargs) hands everything on to raw_env, which alone knows the names.
    hides_names = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(make).parameters.values())
    return make, getattr(module, "raw_env", make) if hides_names else make


def _check_options(owner: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(make).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option, value in options.items():
        one_of(owner, "option", option, [*parameters, *ADAPTER_OPTIONS])
        default = parameters[option].default
        # Types of options are seldom declared; a word for a number, or a number for a word, is wrong for sure.
        if isinstance(default, int | float) and isinstance(value, str | list | dict):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise ConfigError(f"{owner}: {option}={value!r} must be {kind}; the default is {default!r}.")
        if isinstance(default, str) and not isinstance(value, str | None):
            raise ConfigError(f"{owner}: {option}={value!r} must be a word; the default is {default!r}.")
