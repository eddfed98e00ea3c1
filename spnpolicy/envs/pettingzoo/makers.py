"""The functions that make PettingZoo environments, found by the name of their module, and what they take."""

import inspect
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from pettingzoo import AECEnv, ParallelEnv

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.names import games_in, hint
from spnpolicy.envs.options import one_of
from spnpolicy.envs.pettingzoo.turns import lean
from spnpolicy.envs.targets import find_module, find_object, made_of

ADAPTER_OPTIONS = ("num_envs", "workers", "bins", "episode_limit", "agents_stay", "own_state", "timeout", "render_mode")
"""Options of the batch itself; an environment's own options of the same names cannot be reached."""

TURNS = (
    "its agents take turns (AECEnv), and here all act at once. Where the game has a parallel_env, name that; otherwise "
    "write a ParallelEnv around it in which those who wait have one action, and name that, 'pettingzoo:my_module.MyEnv'"
)


def parallel_maker(owner: str, target: str, options: Mapping[str, Any]) -> Callable[[], ParallelEnv]:
    """Return a function that makes one PettingZoo environment.

    The target is a module with a function `parallel_env`, or module.name of a class or function, and the options are
    its keyword arguments. Messages begin with the name of the environment, its owner.

    Raises:
        ConfigError: no such module, function or option; the function fails, or makes something else.
    """
    make, known = _maker(owner, target)
    options = _checked_options(owner, known, options)

    def made() -> ParallelEnv:
        env = made_of(owner, make, options)
        if isinstance(env, AECEnv):
            raise ConfigError(f"{owner}: it makes no ParallelEnv but a {type(env).__name__}; {TURNS}.")
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
        right = hint(owner) or "Write it like pettingzoo:mpe2.simple_spread_v3."
        raise ConfigError(f"{owner}: {target!r} is no name of a module. {right}")
    module = find_module(owner, target)
    if module is None:
        parent, _, attribute = target.rpartition(".")
        make = find_object(owner, parent, attribute)
        if not callable(make):
            raise ConfigError(f"{owner}: {target!r} is a {type(make).__name__}; name a module, class or function.")
        return make, make
    make = getattr(module, "parallel_env", None)
    if make is None:
        raise ConfigError(f"{owner}: the module {target!r} has no parallel_env{_way_out(owner, target, module)}")
    # PettingZoo's usual parallel_env(**kwargs) hands everything on to raw_env, which alone knows the names.
    hides_names = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(make).parameters.values())
    return make, getattr(module, "raw_env", make) if hides_names else make


def _way_out(owner: str, target: str, module: Any) -> str:
    """Say what to name in place of a module without parallel_env."""
    if hasattr(module, "env"):
        return f"; {TURNS}."
    if right := hint(owner):
        return f". {right}"
    games = games_in(target)
    return f"; name {'a game' if games else 'a class'} in it, such as 'pettingzoo:{target}.{(games or ['MyEnv'])[0]}'."


def _checked_options(owner: str, make: Callable[..., Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = inspect.signature(make).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    checked = dict(options)
    for option, value in options.items():
        one_of(owner, "option", option, [*parameters, *ADAPTER_OPTIONS])
        default = parameters[option].default
        # Types of options are seldom declared; a word for a number, or a number for a word, is wrong for sure.
        if isinstance(default, int | float) and isinstance(value, str | list | dict):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise ConfigError(f"{owner}: {option}={value!r} must be {kind}; the default is {default!r}.")
        if isinstance(default, str) and isinstance(value, float) and not isfinite(value):
            # on the command line "nan" and "inf" are numbers, and here the words were meant
            checked[option] = str(value)
        elif isinstance(default, str) and not isinstance(value, str | None):
            raise ConfigError(f"{owner}: {option}={value!r} must be a word; the default is {default!r}.")
    return checked
