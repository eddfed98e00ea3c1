"""The contract of every approximate method, one row each; the tests of test_contracts.py run over all rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Row(NamedTuple):
    """What to read off the result of `factor_q.approximate.METHODS[name]`, and what it must be."""

    says: str
    """lower, upper or estimate."""
    of: str
    """log_partition, maximum or samples."""
    number: Callable[[Any], Tensor] | None
    """result -> the number it says, shape (*batch,); None where it says none."""
    options: dict[str, Any]
    """For a short run of few variables, so that the approximation has something to lose."""
    exact_on_trees: bool = True
    """On models of pairs without loops, with its default options."""
    random: bool = False
    """Takes a generator."""
    iterates: bool = True
    """Takes steps and a tolerance."""
    most_variables: int = 99
    """In a factor."""


def bound_below(result: Any) -> Tensor:
    return result.lower_bound


def bound_above(result: Any) -> Tensor:
    return result.upper_bound


METHODS = {
    "gibbs_sample": Row("estimate", "samples", None, {"sweeps": 3}, random=True, iterates=False),
    "loopy_belief_propagation": Row("estimate", "log_partition", lambda r: r.log_partition_estimate, {}),
    "max_plus": Row("lower", "maximum", lambda r: r.value, {"steps": 5}, random=True),
    "mean_field": Row("lower", "log_partition", bound_below, {"steps": 9}, exact_on_trees=False, random=True),
    "mini_bucket_maximum": Row("upper", "maximum", lambda r: r, {"max_entries": 6}, iterates=False),
    "structured_mean_field": Row("lower", "log_partition", bound_below, {"blocks": "pairs"}, random=True),
    "tree_reweighted": Row("upper", "log_partition", bound_above, {"steps": 4, "forests": 3}, most_variables=2),
    "weighted_mini_bucket": Row("upper", "log_partition", bound_above, {"max_entries": 6, "steps": 2}),
}
