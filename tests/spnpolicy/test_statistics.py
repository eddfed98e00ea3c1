import numpy as np
import pytest
import scipy.stats

from spnpolicy.errors import ConfigError
from spnpolicy.experiments.statistics import bootstrap_interval, interquartile_mean


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 50, 101])
def test_interquartile_mean_equals_scipy(count):
    values = np.random.default_rng(count).normal(size=(3, count))
    expected = scipy.stats.trim_mean(values, 0.25, axis=1)
    np.testing.assert_allclose(interquartile_mean(values), expected, rtol=1e-12)


def test_bootstrap_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    tasks = [rng.normal(size=(4, 3)), rng.normal(size=(5, 2))]
    generator = np.random.default_rng(7)
    rows = [generator.integers(4, size=(50, 4)), generator.integers(5, size=(50, 5))]
    samples = []
    for index in range(50):
        pooled = [score for task, draw in zip(tasks, rows, strict=True) for run in draw[index] for score in task[run]]
        samples.append(scipy.stats.trim_mean(pooled, 0.25))
    interval = bootstrap_interval(tasks, generator=np.random.default_rng(7), resamples=50, confidence=0.9)
    assert interval.low == pytest.approx(np.quantile(samples, 0.05))
    assert interval.high == pytest.approx(np.quantile(samples, 0.95))
    assert interval.estimate == pytest.approx(scipy.stats.trim_mean(np.concatenate([t.ravel() for t in tasks]), 0.25))


def test_bootstrap_of_the_mean_agrees_with_scipy():
    runs = np.random.default_rng(3).normal(size=(30, 1))
    ours = bootstrap_interval(
        [runs], generator=np.random.default_rng(0), statistic=lambda v: v.mean(-1), resamples=5000
    )
    theirs = scipy.stats.bootstrap(
        (runs.ravel(),), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_episodes_of_a_run_are_not_independent():
    # Runs differ, episodes within a run do not: more episodes must not make the interval narrower.
    runs = np.random.default_rng(4).normal(size=(10, 1))
    few = bootstrap_interval([runs], generator=np.random.default_rng(0), statistic=lambda v: v.mean(-1))
    many = bootstrap_interval(
        [np.repeat(runs, 100, axis=1)], generator=np.random.default_rng(0), statistic=lambda v: v.mean(-1)
    )
    assert many.high - many.low == pytest.approx(few.high - few.low)


def test_one_run_has_no_interval_and_no_run_is_an_error():
    estimate, low, high = bootstrap_interval([np.ones((1, 5))], generator=np.random.default_rng(0))
    assert estimate == 1.0
    assert np.isnan([low, high]).all()
    for empty in ([], [np.ones((0, 3))], [np.ones((2, 0))]):
        with pytest.raises(ConfigError, match="at least one run"):
            bootstrap_interval(empty, generator=np.random.default_rng(0))
