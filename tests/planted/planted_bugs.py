"""The list of planted bugs; each real bug that is found adds one, beside the test that would have found it."""

from tests.planted import (
    bugs_in_algorithms,
    bugs_in_approximate,
    bugs_in_baselines,
    bugs_in_bounds,
    bugs_in_choices,
    bugs_in_circuits,
    bugs_in_curricula,
    bugs_in_factor_q,
    bugs_in_learning,
    bugs_in_parts,
    bugs_in_runs,
    bugs_in_structures,
    bugs_in_tools,
)
from tests.planted.bug import Bug

BUGS: tuple[Bug, ...] = (
    *bugs_in_circuits.BUGS,
    *bugs_in_structures.BUGS,
    *bugs_in_factor_q.BUGS,
    *bugs_in_approximate.BUGS,
    *bugs_in_learning.BUGS,
    *bugs_in_parts.BUGS,
    *bugs_in_algorithms.BUGS,
    *bugs_in_runs.BUGS,
    *bugs_in_curricula.BUGS,
    *bugs_in_tools.BUGS,
    *bugs_in_baselines.BUGS,
    *bugs_in_bounds.BUGS,
    *bugs_in_choices.BUGS,
)
