"""Packages that only some flags and environments need."""

from importlib.util import find_spec

from spnpolicy.base.errors import ConfigError

EXTRAS = {
    "ray": "ray",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "av": "video",
    "mpe2": "environments",
    "lbforaging": "environments",
}
"""Package -> the extra of spnpolicy that installs it."""


def require_extra(flag: str, package: str) -> None:
    """Refuse a flag whose package is not installed.

    Raises:
        ConfigError: it is not; the message says how to install it.
    """
    if find_spec(package) is None:
        raise ConfigError(f"{flag} needs {package}, which is not installed: pip install 'spnpolicy[{EXTRAS[package]}]'")
