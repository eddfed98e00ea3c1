"""Environments named by where they are: "package.module:Class" and "pettingzoo:package.module"."""

import difflib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from pettingzoo import ParallelEnv

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.envs.checks.options import one_of
from spnpolicy.envs.pettingzoo.turns import lean

ADAPTER_OPTIONS = ("num_envs", "workers", "bins", "episode_limit", "agents_stay", "own_state", "timeout", "render_mode")
"""Options of the batch itself; an environment's own options of the same names cannot be reached."""
MEMBERS = (
    "name",
    "num_envs",
    "spec",
    "episode_limit",
    "action_names",
    "reset",
    "step",
    "state_dict",
    "load_state_dict",
)
"""What `spnpolicy.envs.BatchedEnv` asks for."""


def find_module(owner: str, name: str) -> ModuleType | None:
    """Import a module by name; None if its parent exists and has no such module.

    Raises:
        ConfigError: the package is not installed, or importing it fails.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == name and "." in name:
            return None
        if not name.startswith(missing):
            raise ConfigError(
                f"{owner}: importing {name!r} needs the package {missing!r}, which is not installed."
            ) from error
        raise ConfigError(
            f"{owner}: there is no module {missing!r}. Install its package, or start where Python can find it."
        ) from None
    except Exception as error:
        raise ConfigError(f"{owner}: importing {name!r} failed: {type(error).__name__}: {error}") from error


def find_object(owner: str, module_name: str, attribute: str) -> Any:
    """Import a module and return one of its attributes.

    Raises:
        ConfigError: there is no such module or attribute; the message names the nearest one.
    """
    module = find_module(owner, module_name)
    if module is None:
        parent = module_name.rpartition(".")[0]
        raise ConfigError(f"{owner}: {parent!r} has no module {module_name.rpartition('.')[2]!r}.")
    found = getattr(module, attribute, None)
    if found is None:
        raise ConfigError(f"{owner}: {module_name!r} has no {attribute!r}{_nearest(module, attribute)}")
    return found


def env_class(owner: str) -> Callable[..., Any]:
    """Return the maker of batched environments that "package.module:Class" names.

    Raises:
        ConfigError: there is no such thing, or it cannot be called.
    """
    module_name, _, attribute = owner.partition(":")
    make = find_object(owner, module_name, attribute)
    if not callable(make):
        raise ConfigError(f"{owner}: it is a {type(make).__name__}; name a class or function that makes a BatchedEnv.")
    return make


def missing_members(env: object) -> list[str]:
    """Return the names that a `BatchedEnv` must have and this object has not."""
    return [name for name in MEMBERS if not hasattr(env, name)]


def check_members(owner: str, env: object) -> None:
    """Refuse what is no batch of environments.

    Raises:
        EnvError: something that the protocol asks for is missing.
    """
    missing = missing_members(env)
    if missing:
        raise EnvError(
            f"{owner}: a {type(env).__name__} without {', '.join(missing)} is no BatchedEnv "
            "(see spnpolicy.data.env). A PettingZoo environment is named 'pettingzoo:package.module'."
        )


def parallel_maker(owner: str, target: str, options: Mapping[str, Any]) -> Callable[[], ParallelEnv]:
    """Return a function that makes one PettingZoo environment.

    Args:
        owner: name of the environment, for messages.
        target: a module with a function `parallel_env`, or module.name of a class or function.
        options: keyword arguments of that function.

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
    """Return the parameters of the function that makes a PettingZoo environment.

    Args:
        owner: name of the environment, for messages.
        target: as in `parallel_maker`.

    Raises:
        ConfigError: there is no such module or function.
    """
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


def _nearest(module: ModuleType, attribute: str) -> str:
    names = [name for name in dir(module) if not name.startswith("_")]
    names += [info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))]
    nearest = difflib.get_close_matches(attribute, names, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else "."
