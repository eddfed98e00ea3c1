"""Sweeps: many runs by a plan, on this machine or a cluster, and none of them lost."""

from spnpolicy.experiments.presets import COVERAGE, Preset
from spnpolicy.experiments.sweeps.engines import make_engine
from spnpolicy.experiments.sweeps.plan import Environment, Plan, Trial, cross, make_plan, open_folder, trial_folder
from spnpolicy.experiments.sweeps.runner import TrialStatus, run_trials
from spnpolicy.experiments.sweeps.trials import is_finished

__all__ = [
    "COVERAGE",
    "Environment",
    "Plan",
    "Preset",
    "Trial",
    "TrialStatus",
    "cross",
    "is_finished",
    "make_engine",
    "make_plan",
    "open_folder",
    "run_trials",
    "trial_folder",
]
