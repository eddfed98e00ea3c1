"""Our statistics against rliable 1.2.0; `make_rliable_reference.py` made the file with its numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from spnpolicy.experiments.statistics import bootstrap
from spnpolicy.experiments.statistics.profiles import performance_profile, probability_of_improvement

REFERENCE = json.loads(Path(__file__).with_name("rliable_reference.json").read_text())
# 95 % bounds from 50,000 draws there and 20,000 here: their standard error is below 0.0006 for aggregates, whose
# bootstrap distributions have a deviation near 0.03, so 0.004 is more than five of them.
NOISE = 0.004
# The comparison was drawn only 2,000 times there (deviation 0.05, standard error of a bound near 0.003).
NOISE_OF_COMPARISON = 0.015
AGGREGATES = {
    "iqm": bootstrap.aggregate_iqm,
    "mean": bootstrap.aggregate_mean,
    "median": bootstrap.aggregate_median,
    "optimality_gap": bootstrap.optimality_gap,
}


def tasks(name):
    return list(np.array(REFERENCE["scores"][name]).T)


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("measure", list(AGGREGATES))
def test_aggregates(name, measure):
    estimate, low, high = REFERENCE["aggregates"][name][measure]
    interval = bootstrap.bootstrap_interval(
        tasks(name), generator=np.random.default_rng(0), statistic=AGGREGATES[measure], resamples=20_000
    )
    assert interval.estimate == pytest.approx(estimate, abs=1e-12)
    assert interval.low == pytest.approx(low, abs=NOISE)
    assert interval.high == pytest.approx(high, abs=NOISE)


def test_probability_of_improvement():
    estimate, low, high = REFERENCE["probability_of_improvement"]
    interval = bootstrap.bootstrap_interval(
        tasks("first"), tasks("second"), generator=np.random.default_rng(0), statistic=probability_of_improvement,
        resamples=20_000,
    )  # fmt: skip
    assert interval.estimate == pytest.approx(estimate, abs=1e-12)
    assert interval.low == pytest.approx(low, abs=NOISE_OF_COMPARISON)
    assert interval.high == pytest.approx(high, abs=NOISE_OF_COMPARISON)


@pytest.mark.parametrize("name", ["first", "second"])
def test_performance_profiles(name):
    estimate, low, high = map(np.array, REFERENCE["profiles"][name])
    thresholds = np.array(REFERENCE["thresholds"])
    band = bootstrap.bootstrap_band(
        tasks(name), generator=np.random.default_rng(0), resamples=20_000,
        statistic=lambda drawn: performance_profile(drawn, thresholds),
    )  # fmt: skip
    np.testing.assert_allclose(band.estimate, estimate, rtol=0, atol=1e-12)
    # A profile of 50 scores moves in steps of 0.02: a bound may fall on the neighbouring step.
    np.testing.assert_allclose(band.low, low, rtol=0, atol=0.02 + 1e-9)
    np.testing.assert_allclose(band.high, high, rtol=0, atol=0.02 + 1e-9)
