"""Statistics over runs: estimates that resist outliers, their intervals, and how they are printed."""

from spnpolicy.experiments.statistics.bootstrap import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    interval_of_mean,
    interval_over_runs,
)
from spnpolicy.experiments.statistics.tables import interval_text

__all__ = [
    "Interval",
    "bootstrap_interval",
    "interquartile_mean",
    "interval_of_mean",
    "interval_over_runs",
    "interval_text",
]
