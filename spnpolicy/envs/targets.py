"""Classes and functions named by where they are, and whether what they make is a batch of environments."""

import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from spnpolicy.base.decoding import nearest_name
from spnpolicy.base.errors import ConfigError, EnvError, SpnPolicyError
from spnpolicy.data.env import BatchedEnv
from spnpolicy.envs.names import hint

T = TypeVar("T")
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
        if not f"{name}.".startswith(f"{missing}."):
            raise ConfigError(
                f"{owner}: importing {name!r} needs the package {missing!r}, which is not installed{_extra(name)}."
            ) from error
        remedy = hint(owner) or "Install its package, or start where Python can find it."
        raise ConfigError(f"{owner}: there is no module {missing!r}. {remedy}") from None
    except Exception as error:
        what = f"{owner}: importing {name!r} failed: {type(error).__name__}: {error}"
        raise ConfigError(f"{what} {hint(owner)}".rstrip()) from error


def find_object(owner: str, module_name: str, attribute: str) -> Any:
    """Import a module and return one of its attributes.

    Raises:
        ConfigError: there is no such module or attribute; the message names the nearest one.
    """
    module = find_module(owner, module_name)
    if module is None:
        parent = module_name.rpartition(".")[0]
        raise ConfigError(f"{owner}: {parent!r} has no module {module_name.rpartition('.')[2]!r}.")
    try:
        found = getattr(module, attribute)
    except AttributeError as error:
        # PettingZoo says of games that it gave up where they are now, in an error of its own kind.
        reason = "" if type(error) is AttributeError else f": {error}"
        nearest = hint(owner) or _nearest(module, attribute)
        raise ConfigError(f"{owner}: {module_name!r} has no {attribute!r}{reason or '.'} {nearest}".rstrip()) from None
    if type(found).__name__ == "DeprecatedModule":
        raise ConfigError(f"{owner}: {attribute!r} is an old version, which {module_name!r} has no more. {hint(owner)}")
    return found


def env_class(owner: str) -> Callable[..., Any]:
    """Return the maker of batched environments that "package.module:Class" names.

    Raises:
        ConfigError: there is no such thing, or it cannot be called.
    """
    module_name, _, attribute = owner.partition(":")
    make = find_object(owner, module_name, attribute)
    if not callable(make):
        remedy = hint(owner) or "Name a class or function that makes a BatchedEnv."
        raise ConfigError(f"{owner}: it is a {type(make).__name__}. {remedy}")
    return make


def made_of(owner: str, make: Callable[..., T], options: Mapping[str, Any], *, remedy: str = "") -> T:
    """Return what somebody's function or class makes of its options.

    Raises:
        ConfigError: it fails; the message has the options and ends with the remedy.
    """
    try:
        return make(**options)
    except SpnPolicyError:
        raise
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no options"
        what = f"{owner}: it cannot be made with {given}: {type(error).__name__}: {error}"
        raise ConfigError(f"{what}. {remedy}" if remedy else what) from error


def as_pettingzoo(owner: str) -> str:
    """Return what to write where a PettingZoo environment was named like a batch of environments."""
    return f"A PettingZoo environment is named 'pettingzoo:{owner.replace(':', '.')}'."


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
            f"(see spnpolicy.data.env). {as_pettingzoo(owner)}"
        )


def _nearest(module: ModuleType, attribute: str) -> str:
    names = [name for name in dir(module) if not name.startswith("_")]
    names += [info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))]
    nearest = nearest_name(attribute, names, cutoff=0.5)
    return f"Did you mean {nearest!r}?" if nearest else ""


def _extra(module: str) -> str:
    """Return how to install what a game of PettingZoo needs; its families are extras of the package."""
    package, _, rest = module.partition(".")
    return f"; run `pip install 'pettingzoo[{rest.partition('.')[0]}]'`" if package == "pettingzoo" else ""
