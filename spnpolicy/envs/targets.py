"""Classes and functions named by where they are, and whether what they make is a batch of environments."""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from spnpolicy.base.decoding import nearest_name
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.data.env import BatchedEnv

MEMBERS = (*BatchedEnv.__annotations__, "reset", "step", "state_dict", "load_state_dict")
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


def _nearest(module: ModuleType, attribute: str) -> str:
    names = [name for name in dir(module) if not name.startswith("_")]
    names += [info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))]
    nearest = nearest_name(attribute, names, cutoff=0.5)
    return f"; did you mean {nearest!r}?" if nearest else "."
