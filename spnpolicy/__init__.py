"""Tractable joint policies for many agents: a sum-product network over their actions, trained on an exact objective.

Names are loaded on first use, so that the command line can print its help without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spnpolicy.algorithms import make_algorithm
    from spnpolicy.envs import make_env
    from spnpolicy.objective import elbo
    from spnpolicy.policy import SPNPolicy
    from spnpolicy.training.config import RunConfig, TrainConfig
    from spnpolicy.training.loop import Progress, train
    from spnpolicy.training.runs import load_run

_HOME = {
    "Progress": "spnpolicy.training.loop",
    "RunConfig": "spnpolicy.training.config",
    "SPNPolicy": "spnpolicy.policy",
    "TrainConfig": "spnpolicy.training.config",
    "elbo": "spnpolicy.objective",
    "load_run": "spnpolicy.training.runs",
    "make_algorithm": "spnpolicy.algorithms",
    "make_env": "spnpolicy.envs",
    "train": "spnpolicy.training.loop",
}

__all__ = [
    "Progress",
    "RunConfig",
    "SPNPolicy",
    "TrainConfig",
    "elbo",
    "load_run",
    "make_algorithm",
    "make_env",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spnpolicy' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
