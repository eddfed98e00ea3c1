from itertools import product

import numpy as np
import pytest
import scipy.stats

from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.statistics.bootstrap import (
    aggregate_iqm,
    aggregate_mean,
    aggregate_median,
    bootstrap_band,
    bootstrap_interval,
    interquartile_mean,
    interval_of_mean,
    optimality_gap,
)
from spnpolicy.experiments.statistics.curves import History, area_under_curve, common_curve, curve_band, latest
from spnpolicy.experiments.statistics.profiles import performance_profile, probability_of_improvement


def generator(seed=0):
    return np.random.default_rng(seed)


def history(steps, values):
    return History(np.array(steps), np.array(values, dtype=float))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 50, 101])
def test_interquartile_mean_equals_scipy(count):
    values = generator(count).normal(size=(3, count))
    expected = scipy.stats.trim_mean(values, 0.25, axis=1)
    np.testing.assert_allclose(interquartile_mean(values), expected, rtol=1e-12)


def test_aggregates_of_a_matrix_done_by_hand():
    # Two tasks with 4 and 2 runs: pooled 0 1 2 3 5 7, of which one is cut at each end; means of tasks 1.5 and 6.
    tasks = [np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([[5.0, 7.0]])]
    assert aggregate_iqm(tasks) == pytest.approx([11 / 4])
    assert aggregate_mean(tasks) == pytest.approx([3.75])
    assert aggregate_median([*tasks, np.array([[100.0]])]) == pytest.approx([6.0])
    # Short of 2: by 2, 1, 0, 0 in the first task and never in the second.
    assert optimality_gap(tasks, target=2.0) == pytest.approx([0.75 / 2])


def test_probability_of_improvement_counts_pairs():
    first, second = np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 0.0]])
    # 1: loses, wins; 2: ties, wins; 3: wins, wins.
    assert probability_of_improvement([first], [second]) == pytest.approx([4.5 / 6])
    assert probability_of_improvement([second], [first]) == pytest.approx([1.5 / 6])
    everything_equal = np.zeros((1, 4))
    assert probability_of_improvement([first, everything_equal], [second, everything_equal]) == pytest.approx(
        [(4.5 / 6 + 0.5) / 2]
    )


def test_probability_of_improvement_is_mann_and_whitneys():
    rng = generator(2)
    first, second = rng.integers(0, 6, size=(1, 9)).astype(float), rng.integers(1, 7, size=(1, 7)).astype(float)
    expected = scipy.stats.mannwhitneyu(first[0], second[0]).statistic / (9 * 7)
    assert probability_of_improvement([first], [second]) == pytest.approx([expected])


def test_a_profile_falls_from_one_to_zero_and_its_area_is_the_mean():
    tasks = [generator(1).uniform(0.2, 0.8, size=(1, 6)), generator(2).uniform(0.2, 0.8, size=(1, 3))]
    thresholds = np.linspace(0, 1, 20_001)
    (profile,) = performance_profile(tasks, thresholds)
    assert profile[0] == 1
    assert profile[-1] == 0
    assert (np.diff(profile) <= 0).all()
    # The mean of a score between 0 and 1 is the integral of P(score > threshold).
    assert np.trapezoid(profile, thresholds) == pytest.approx(aggregate_mean(tasks)[0], abs=1e-4)


def test_a_profile_counts_only_what_exceeds_the_threshold():
    assert performance_profile([np.array([[0.5, 1.0]])], np.array([0.4, 0.5, 1.0])).tolist() == [[1.0, 0.5, 0.0]]


def test_bootstrap_equals_a_slow_loop():
    rng = generator(0)
    tasks = [rng.normal(size=(4, 3)), rng.normal(size=(5, 2))]
    source = generator(7)
    rows = [source.integers(4, size=(50, 4)), source.integers(5, size=(50, 5))]
    samples = []
    for index in range(50):
        pooled = [score for task, draw in zip(tasks, rows, strict=True) for run in draw[index] for score in task[run]]
        samples.append(scipy.stats.trim_mean(pooled, 0.25))
    interval = bootstrap_interval(tasks, generator=generator(7), resamples=50, confidence=0.9)
    assert interval.low == pytest.approx(np.quantile(samples, 0.05))
    assert interval.high == pytest.approx(np.quantile(samples, 0.95))
    assert interval.estimate == pytest.approx(scipy.stats.trim_mean(np.concatenate([t.ravel() for t in tasks]), 0.25))


@pytest.mark.parametrize("statistic", [aggregate_iqm, aggregate_mean, aggregate_median, optimality_gap])
def test_the_bootstrap_approaches_the_enumeration_of_all_draws(statistic):
    # Two tasks with 3 and 2 runs: 27 x 4 equally likely draws, all of which can be written down.
    tasks = [np.array([0.1, 0.5, 0.6]), np.array([0.3, 0.9])]
    draws = [np.array(list(product(task, repeat=len(task)))) for task in tasks]
    pairs = list(product(draws[0], draws[1]))
    exact = statistic([np.array([first for first, _ in pairs]), np.array([second for _, second in pairs])])
    assert exact.shape == (108,)
    confidence = 0.7  # its bounds lie inside a step of the distribution, where 200,000 draws cannot miss them
    interval = bootstrap_interval(
        tasks, generator=generator(3), statistic=statistic, resamples=200_000, confidence=confidence
    )
    assert interval.low == pytest.approx(np.quantile(exact, 0.15, method="inverted_cdf"), abs=1e-12)
    assert interval.high == pytest.approx(np.quantile(exact, 0.85, method="inverted_cdf"), abs=1e-12)


def test_the_bootstrap_of_a_comparison_draws_both_sides():
    # 2 runs each: a side is (low, low), (low, high) twice or (high, high); all 16 combinations by hand.
    first, second = np.array([1.0, 3.0]), np.array([2.0, 2.5])
    pairs = list(product(product(first, repeat=2), product(second, repeat=2)))
    exact = [np.mean([a > b for a in ours for b in theirs]) for ours, theirs in pairs]
    band = bootstrap_band(
        [first], [second], generator=generator(1), statistic=probability_of_improvement, resamples=50_000
    )
    assert band.estimate == pytest.approx(0.5)
    assert (band.low, band.high) == (min(exact), max(exact)) == (0.0, 1.0)


def test_bootstrap_of_the_mean_agrees_with_scipy():
    runs = generator(3).normal(size=30)
    ours = bootstrap_interval([runs], generator=generator(), statistic=aggregate_mean, resamples=5000)
    theirs = scipy.stats.bootstrap(
        (runs,), np.mean, method="percentile", n_resamples=5000, rng=generator(1)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_episodes_of_a_run_are_not_independent():
    # Runs differ, episodes within a run do not: more episodes must not make the interval narrower.
    runs = generator(4).normal(size=(10, 1))
    few = bootstrap_interval([runs], generator=generator(), statistic=aggregate_mean)
    many = bootstrap_interval([np.repeat(runs, 100, axis=1)], generator=generator(), statistic=aggregate_mean)
    assert many.high - many.low == pytest.approx(few.high - few.low)


def test_more_confidence_and_fewer_runs_widen_the_interval():
    runs = generator(5).normal(size=16)

    def width(values, confidence):
        found = bootstrap_interval([values], generator=generator(), confidence=confidence, resamples=5_000)
        return found.high - found.low

    assert width(runs, 0.5) < width(runs, 0.8) < width(runs, 0.99)
    assert width(np.tile(runs, 4), 0.95) < width(runs, 0.95)


def test_one_run_has_no_interval_and_no_run_is_an_error():
    estimate, low, high = bootstrap_interval([np.ones((1, 5))], generator=generator())
    assert estimate == 1.0
    assert np.isnan([low, high]).all()
    for empty in ([], [np.ones((0, 3))], [np.ones((2, 0))]):
        with pytest.raises(ConfigError, match="at least one run"):
            bootstrap_interval(empty, generator=generator())
    with pytest.raises(ConfigError, match="at least one run"):
        bootstrap_interval([np.ones(2)], [], generator=generator(), statistic=probability_of_improvement)


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "least", "most"), [(3, 0.65, 0.80), (10, 0.86, 0.94), (30, 0.91, 0.96)])
def test_how_often_the_interval_covers_the_truth(runs, least, most):
    # The interquartile mean of a symmetric distribution is its centre, 0. What few runs do to percentile intervals
    # is written in the docstring of `bootstrap_band`; the bounds here are what makes those words true.
    rng = generator(runs)
    covered = 0
    for _ in range(2_000):
        interval = bootstrap_interval([rng.normal(size=runs)], generator=rng, resamples=1_000)
        covered += interval.low <= 0 <= interval.high
    assert least <= covered / 2_000 <= most, covered / 2_000


@pytest.mark.slow
def test_how_often_the_interval_over_tasks_covers_the_truth():
    rng = generator(0)
    levels = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    covered = 0
    for _ in range(1_000):
        interval = bootstrap_interval([level + rng.normal(size=10) for level in levels], generator=rng, resamples=1_000)
        covered += interval.low <= 0 <= interval.high
    assert 0.91 <= covered / 1_000 <= 0.97, covered / 1_000


def test_a_curve_has_the_latest_evaluation_and_no_more():
    run = history([10, 20, 40], [1, 2, 3])
    known = latest(run, np.array([5, 10, 19, 20, 39, 40, 99]))
    np.testing.assert_array_equal(known, [np.nan, 1, 1, 2, 2, 3, 3])


def test_curves_with_different_grids_meet_where_both_are_known():
    curve = common_curve([history([0, 10, 20, 30], [0, 1, 2, 3]), history([5, 15, 25], [10, 11, 12])])
    assert curve.steps.tolist() == [5, 10, 15, 20, 25]
    assert curve.values.tolist() == [[0, 1, 1, 2, 2], [10, 10, 11, 11, 12]]
    same = common_curve([history([0, 10], [1, 2]), history([0, 10], [3, 4])])
    assert same.steps.tolist() == [0, 10]
    assert same.values.tolist() == [[1, 2], [3, 4]]


def test_curves_without_common_steps_are_refused():
    with pytest.raises(ConfigError, match="first evaluated at step 50, when another had ended at step 20"):
        common_curve([history([0, 20], [1, 2]), history([50, 60], [1, 2])])
    with pytest.raises(ConfigError, match="must rise"):
        common_curve([history([0, 20, 20], [1, 2, 3])])
    for nothing in ([], [history([], [])]):
        with pytest.raises(ConfigError, match="at least one evaluation"):
            common_curve(nothing)


def test_the_band_of_a_curve_is_the_interval_at_each_point():
    values = generator(6).normal(size=(7, 3))
    band = curve_band(common_curve([history([0, 5, 9], row) for row in values]), generator=generator())
    np.testing.assert_allclose(band.estimate, scipy.stats.trim_mean(values, 0.25, axis=0), rtol=1e-12)
    rows = generator().integers(7, size=(2_000, 7))
    samples = scipy.stats.trim_mean(values[rows], 0.25, axis=1)
    np.testing.assert_allclose(band.low, np.quantile(samples, 0.025, axis=0), rtol=1e-12)
    np.testing.assert_allclose(band.high, np.quantile(samples, 0.975, axis=0), rtol=1e-12)


def test_areas_by_hand():
    run = history([0, 10, 40], [0, 1, 1])
    assert area_under_curve(run) == pytest.approx((5 + 30) / 40)
    assert area_under_curve(run, end=5) == pytest.approx(0.25)
    assert area_under_curve(run, end=20) == pytest.approx((5 + 10) / 20)
    assert area_under_curve(history([7], [0.3])) == pytest.approx(0.3)
    assert area_under_curve(history([30, 50], [1, 1])) == pytest.approx(1.0)  # from its first evaluation on
    assert area_under_curve(run, end=0) == pytest.approx(0.0)
    for outside in (-1, 41):
        with pytest.raises(ConfigError, match="from 0 to 40"):
            area_under_curve(run, end=outside)


def test_an_interval_of_a_mean_holds_it_and_shrinks_with_more_episodes():
    values = np.random.default_rng(1).random(400)
    wide, narrow = interval_of_mean(values[:100]), interval_of_mean(values)
    for found, seen in ((wide, values[:100]), (narrow, values)):
        assert found.estimate == pytest.approx(seen.mean())
        # A mean of uniform numbers has the standard error 0.289 / sqrt(count).
        assert found.high - found.low == pytest.approx(2 * 1.96 * 0.289 / len(seen) ** 0.5, rel=0.2)
    assert narrow.high - narrow.low < wide.high - wide.low
    assert narrow.columns("x") == {"x": narrow.estimate, "x low": narrow.low, "x high": narrow.high}
