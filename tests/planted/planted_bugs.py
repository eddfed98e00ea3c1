"""The list of planted bugs; each real bug that is found adds one, beside the test that would have found it."""

from tests.planted import bugs_in_baselines, bugs_in_circuits, bugs_in_factor_q, bugs_in_learning, bugs_in_runs
from tests.planted.bug import Bug

BUGS: tuple[Bug, ...] = (
    *bugs_in_circuits.BUGS,
    *bugs_in_factor_q.BUGS,
    *bugs_in_learning.BUGS,
    *bugs_in_runs.BUGS,
    *bugs_in_baselines.BUGS,
)
