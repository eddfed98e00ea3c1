"""Tractable joint policies for many agents: a sum-product network over their actions, trained on an exact objective.

Names are loaded on first use, so that the command line can print its help without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spnpolicy.algorithms import make_algorithm
    from spnpolicy.base.seeding import Streams
    from spnpolicy.envs import check_env, make_env
    from spnpolicy.maths.objective import elbo
    from spnpolicy.networks.policy import SPNPolicy
    from spnpolicy.training.config import Curriculum, RunConfig, TrainConfig
    from spnpolicy.training.evaluation import evaluate
    from spnpolicy.training.learning import Learning
    from spnpolicy.training.loop import Progress, resume, train
    from spnpolicy.training.metrics import read_metrics
    from spnpolicy.training.runs import load_run

_HOME = {
    "Curriculum": "spnpolicy.training.config",
    "Learning": "spnpolicy.training.learning",
    "Progress": "spnpolicy.training.loop",
    "RunConfig": "spnpolicy.training.config",
    "SPNPolicy": "spnpolicy.networks.policy",
    "Streams": "spnpolicy.base.seeding",
    "TrainConfig": "spnpolicy.training.config",
    "check_env": "spnpolicy.envs.checks.door",
    "elbo": "spnpolicy.maths.objective",
    "evaluate": "spnpolicy.training.evaluation",
    "load_run": "spnpolicy.training.runs",
    "make_algorithm": "spnpolicy.algorithms",
    "make_env": "spnpolicy.envs",
    "read_metrics": "spnpolicy.training.metrics",
    "resume": "spnpolicy.training.loop",
    "train": "spnpolicy.training.loop",
}

__all__ = [
    "Curriculum",
    "Learning",
    "Progress",
    "RunConfig",
    "SPNPolicy",
    "Streams",
    "TrainConfig",
    "check_env",
    "elbo",
    "evaluate",
    "load_run",
    "make_algorithm",
    "make_env",
    "read_metrics",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spnpolicy' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
