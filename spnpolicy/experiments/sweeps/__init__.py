"""Sweeps: many runs by a plan, on this machine or a cluster, and none of them lost."""

from spnpolicy.experiments.sweeps.engines import make_engine
from spnpolicy.experiments.sweeps.plan import Environment, Plan, Trial, cross, open_folder, trial_folder
from spnpolicy.experiments.sweeps.runner import TrialStatus, run_trials
from spnpolicy.experiments.sweeps.trials import is_finished

__all__ = [
    "Environment",
    "Plan",
    "Trial",
    "TrialStatus",
    "cross",
    "is_finished",
    "make_engine",
    "open_folder",
    "run_trials",
    "trial_folder",
]
