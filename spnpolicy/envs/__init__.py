"""Environments: batches of games of our own, and those of others behind one adapter; see `registry` for their names.

What is not a list of names is imported when it is first asked for, because it loads NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spnpolicy.envs.registry import ENVIRONMENTS, PETTINGZOO, PREFIXES

if TYPE_CHECKING:
    from spnpolicy.data.env import BatchedEnv, EnvSpec, Step
    from spnpolicy.envs.checks.door import check_env
    from spnpolicy.envs.checks.guard import guarded
    from spnpolicy.envs.make import environment_class, make_env

__all__ = [
    "ENVIRONMENTS",
    "PETTINGZOO",
    "PREFIXES",
    "BatchedEnv",
    "EnvSpec",
    "Step",
    "check_env",
    "environment_class",
    "guarded",
    "make_env",
]

_HOME = {
    "BatchedEnv": "spnpolicy.data.env",
    "EnvSpec": "spnpolicy.data.env",
    "Step": "spnpolicy.data.env",
    "check_env": "spnpolicy.envs.checks.door",
    "environment_class": "spnpolicy.envs.make",
    "guarded": "spnpolicy.envs.checks.guard",
    "make_env": "spnpolicy.envs.make",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spnpolicy.envs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
