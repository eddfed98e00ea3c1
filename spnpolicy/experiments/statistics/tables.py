"""Parts that all reports share: numbers with intervals, and what two intervals say."""

import math
from collections.abc import Iterable
from math import comb
from typing import Literal

from spnpolicy.experiments.statistics.bootstrap import Interval

_FEW_RUNS = 5


def interval_text(interval: Interval, digits: int) -> str:
    """Return "0.951 [0.912, 0.970]", or "0.951 (one run)" where there is no interval."""
    if math.isnan(interval.low):
        return f"{interval.estimate:.{digits}f} (one run)"
    return f"{interval.estimate:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def digits_for(values: Iterable[float]) -> int:
    """Return how many decimals show four significant digits of the largest of some numbers."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 4 if largest == 0 else min(max(3 - math.floor(math.log10(largest)), 0), 6)


def exact_number(value: float) -> str:
    """Return a number for a table that programs read; nothing for nan."""
    return "" if math.isnan(value) else f"{value:.9g}"


def verdict(first: Interval, second: Interval) -> Literal["same", "one run", "better", "open"]:
    """Return what two intervals say about two algorithms, the first of which has the better estimate."""
    if first.estimate == second.estimate:
        return "same"
    if math.isnan(first.low) or math.isnan(second.low):
        return "one run"
    return "better" if first.low > second.high or first.high < second.low else "open"


def compared(better: str, first: Interval, worse: str, second: Interval) -> str:
    """Return in words what two intervals of a fraction of the optimum say, the better algorithm first."""
    numbers = f"{first.estimate:.4f} against {second.estimate:.4f}"
    return {
        "same": f"{better} and {worse} earned the same ({numbers}).",
        "one run": f"{better} earned more than {worse} ({numbers}), but one run shows no variation.",
        "better": f"{better} is better than {worse} ({numbers}): the intervals do not overlap.",
        "open": f"{better} earned more than {worse} ({numbers}), but the intervals overlap: no verdict.",
    }[verdict(first, second)]


def few_runs_note(counts: Iterable[int]) -> str | None:
    """Return a warning if some algorithm has more than one run and fewer than five."""
    if not 1 < min(counts) < _FEW_RUNS:
        return None
    return "With so few runs an interval is hardly more than their range: more seeds make it trustworthy."


def chance_of_separation(first: int, second: int) -> float:
    """Return how probable it is that all runs of one of two equal algorithms are better than all of the other's."""
    return min(1.0, 2 / comb(first + second, first))
