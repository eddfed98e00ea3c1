import numpy as np
import pytest
import scipy.stats
from report_cases import write_evaluation, write_run, write_runs

from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.reports.folder import make_report
from spnpolicy.experiments.reports.numbers import choose_measure, compare
from spnpolicy.experiments.reports.runs import GREEDY, read_run
from spnpolicy.experiments.statistics.tables import chance_of_separation, digits_for
from spnpolicy.training.config import Curriculum

GOOD, POOR = [0.8, 0.9, 0.85, 0.95, 0.7], [0.3, 0.4, 0.2, 0.75, 0.5]


@pytest.fixture
def report(tmp_path):
    write_runs(tmp_path / "poor", POOR, algorithm="iql")
    write_runs(tmp_path / "good", GOOD, algorithm="vdn")
    return make_report([tmp_path])


def test_the_numbers_of_a_task(report):
    (task,) = report.comparison.tasks
    assert report.comparison.measure == "fraction_of_optimum"
    assert list(task.aggregates) == ["vdn", "iql"]  # best first
    row = task.aggregates["vdn"]
    assert row["iqm"].estimate == pytest.approx(scipy.stats.trim_mean(GOOD, 0.25))
    assert row["mean"].estimate == pytest.approx(np.mean(GOOD))
    assert row["median"].estimate == pytest.approx(np.median(GOOD))
    assert row["optimality_gap"].estimate == pytest.approx(1 - np.mean(GOOD))
    # Straight lines from 0 over half the value to the value: half of it on average.
    assert row["area"].estimate == pytest.approx(scipy.stats.trim_mean(GOOD, 0.25) / 2)
    (pair,) = task.pairs
    won = np.mean([good > poor for good in GOOD for poor in POOR])
    assert (pair.first, pair.second, pair.probability.estimate) == ("vdn", "iql", pytest.approx(won))
    assert report.comparison.overall is None  # one task needs no summary over tasks


def test_the_same_runs_give_the_same_numbers(report):
    again = compare(report.tasks, "fraction_of_optimum")
    assert again.tasks[0].aggregates == report.comparison.tasks[0].aggregates
    assert again.tasks[0].pairs == report.comparison.tasks[0].pairs


def test_curves_and_profiles_belong_to_the_runs(report):
    (task,) = report.comparison.tasks
    curve, band = task.curves["vdn"]
    assert curve.steps.tolist() == [0, 200, 400]
    assert band.estimate == pytest.approx(scipy.stats.trim_mean(GOOD, 0.25) * np.array([0, 0.5, 1]))
    profile = task.profiles.bands["iql"].estimate
    assert profile[0] == 1
    assert profile[-1] == 0
    index = np.searchsorted(task.profiles.thresholds, 0.45)
    assert profile[index] == pytest.approx(2 / 5)


def test_stages_of_a_curriculum_are_told_and_make_another_algorithm(tmp_path):
    staged = {"curriculum": Curriculum(({"size": 3}, {"size": 4})), "changes": [50, 120]}
    write_run(tmp_path / "plain")
    write_run(tmp_path / "staged" / "a", **staged)
    write_run(tmp_path / "staged" / "b", seed=1, **(staged | {"changes": [90]}))
    assert read_run(tmp_path / "staged" / "a").stage_changes == (50, 120)
    (task,) = make_report([tmp_path]).comparison.tasks
    assert task.stage_changes == {"vdn curriculum=size=3,4": [50, 90, 120]}
    assert set(task.scores) == {"vdn curriculum=size=3,4", "vdn curriculum=none"}
    path = tmp_path / "plain" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 100', '"step": 100, "stage": "first"'))
    with pytest.raises(ConfigError, match=r"metrics.jsonl: a record has a stage or a step that is no whole number"):
        make_report([tmp_path])


def test_length_is_better_when_it_is_less(tmp_path):
    write_runs(tmp_path / "good", GOOD)
    write_runs(tmp_path / "poor", POOR, algorithm="iql")
    found = make_report([tmp_path], measure="length")
    (task,) = found.comparison.tasks
    assert list(task.aggregates) == ["vdn", "iql"]
    assert task.aggregates["vdn"]["iqm"].estimate < task.aggregates["iql"]["iqm"].estimate
    assert task.pairs[0].probability.estimate > 0.9
    assert "optimality_gap" not in task.aggregates["vdn"]
    assert "vdn is better than iql" in found.text


def test_final_evaluations_count_where_all_runs_of_a_task_have_one(tmp_path):
    folders = write_runs(tmp_path / "a", [0.5, 0.5])
    write_evaluation(folders[0], [0.9, 0.7])
    mixed = make_report([tmp_path])
    assert mixed.comparison.tasks[0].aggregates["vdn"]["mean"].estimate == pytest.approx(0.5)
    assert "only some runs have a final evaluation" in mixed.text
    write_evaluation(folders[1], [0.6, 0.4])
    (task,) = make_report([tmp_path]).comparison.tasks
    assert task.aggregates["vdn"]["mean"].estimate == pytest.approx((0.8 + 0.5) / 2)
    assert "2 episodes" in task.source
    # The final evaluation has no undiscounted return, so that one is judged by the last evaluation in training.
    (task,) = make_report([tmp_path], measure="return").comparison.tasks
    assert task.aggregates["vdn"]["mean"].estimate == pytest.approx(5.0)


def test_several_tasks_have_a_summary_if_scores_are_normalised(tmp_path):
    write_runs(tmp_path / "a5", GOOD)
    write_runs(tmp_path / "b5", POOR, algorithm="iql")
    write_runs(tmp_path / "a8", POOR[:3], env_options={"size": 8})
    write_runs(tmp_path / "b8", POOR[:3], algorithm="iql", env_options={"size": 8})
    write_run(tmp_path / "only-here", algorithm="mean_field")
    found = make_report([tmp_path])
    overall = found.comparison.overall
    assert overall is not None
    assert list(overall.aggregates) == ["vdn", "iql"]
    row = overall.aggregates["vdn"]
    assert row["iqm"].estimate == pytest.approx(scipy.stats.trim_mean(GOOD + POOR[:3], 0.25))
    assert row["mean"].estimate == pytest.approx((np.mean(GOOD) + 0.3) / 2)
    won = np.mean([good > poor for good in GOOD for poor in POOR])
    ties = np.mean([(a > b) + (a == b) / 2 for a in POOR[:3] for b in POOR[:3]])
    assert overall.pairs[0].probability.estimate == pytest.approx((won + ties) / 2)
    assert "Not every algorithm has runs in every task" in found.text
    assert "numbers of runs differ" in found.text
    returns = make_report([tmp_path], measure="return")
    assert returns.comparison.overall is None
    assert "no summary over tasks, because return is not on the same scale" in returns.text


def test_no_algorithm_in_all_tasks_means_no_summary(tmp_path):
    write_runs(tmp_path / "a", GOOD)
    write_runs(tmp_path / "b", POOR, algorithm="iql", env_options={"size": 8})
    found = make_report([tmp_path])
    assert found.comparison.overall is None
    assert "because no algorithm has runs in all of them" in found.text


def test_the_measure_is_the_first_that_all_runs_have(tmp_path):
    first = read_run(write_run(tmp_path / "a"))
    second = read_run(write_run(tmp_path / "b", normalised=False, algorithm="iql"))
    assert choose_measure([first], None) == "fraction_of_optimum"
    assert choose_measure([first, second], None) == "return"
    assert [choose_measure([first], measure) for measure in GREEDY] == list(GREEDY)
    with pytest.raises(ConfigError, match="b has no fraction_of_optimum; it has return"):
        choose_measure([first, second], "fraction_of_optimum")


def test_different_lengths_are_not_averaged_and_said(tmp_path):
    write_runs(tmp_path / "a", GOOD)
    write_runs(tmp_path / "b", GOOD, train={"steps": 800})
    found = make_report([tmp_path])
    (task,) = found.comparison.tasks
    assert set(task.aggregates) == {"vdn steps=400", "vdn steps=800"}
    assert "the training lengths differ (400, 800 env steps)" in found.text
    # Up to step 400 the longer runs are at half of their value, after a quarter of it on average.
    assert task.aggregates["vdn steps=800"]["area"].estimate == pytest.approx(scipy.stats.trim_mean(GOOD, 0.25) / 4)


def test_one_run_claims_nothing(tmp_path):
    write_run(tmp_path / "a", 0.9)
    write_run(tmp_path / "b", 0.1, algorithm="iql")
    found = make_report([tmp_path])
    assert np.isnan(found.comparison.tasks[0].aggregates["vdn"]["iqm"].low)
    assert "0.9000 (one run)" in found.text
    assert "vdn scored more than iql, but one run shows no variation: no verdict." in found.text
    assert "vdn is better than" not in found.text
    assert "there is no interval for vdn, iql" in found.text


def test_few_runs_are_warned_about_even_when_they_are_far_apart(tmp_path):
    write_runs(tmp_path / "a", [0.9, 0.8, 0.85])
    write_runs(tmp_path / "b", [0.1, 0.2, 0.15], algorithm="iql")
    text = make_report([tmp_path]).text
    assert "vdn is better than iql: the intervals do not overlap." in text
    assert "in 1 of 10 comparisons" in text
    assert chance_of_separation(3, 3) == pytest.approx(0.1)
    assert chance_of_separation(5, 5) == pytest.approx(2 / 252)


def test_overlapping_intervals_give_no_verdict_and_equal_runs_are_noticed(tmp_path):
    write_runs(tmp_path / "a", [0.5, 0.9, 0.7, 0.6])
    write_runs(tmp_path / "b", [0.55, 0.8, 0.6, 0.65], algorithm="iql")
    write_runs(tmp_path / "c", [0.5, 0.9, 0.7, 0.6], algorithm="mean_field")
    text = make_report([tmp_path]).text
    assert "the intervals overlap: no verdict" in text
    assert not any(f"{name} is better than" in text for name in ("vdn", "iql", "mean_field"))
    assert "vdn and mean_field have the same numbers in every evaluation of every run" in text
    assert "It scored the same as mean_field." in text or "It scored the same as vdn." in text


def test_many_algorithms_are_compared_with_the_best_only(tmp_path):
    for number in range(8):
        write_runs(tmp_path / f"a{number}", [0.1 * number, 0.1 * number + 0.05], options={"labels": number})
    found = make_report([tmp_path])
    (task,) = found.comparison.tasks
    assert [pair.first for pair in task.pairs] == ["vdn labels=7"] * 7
    assert "only the best one is compared with each of the others" in found.text


@pytest.mark.parametrize(
    ("values", "digits"),
    [([0.97], 4), ([5.0, 0.1], 3), ([-123.4], 1), ([1e5], 0), ([0.0], 4), ([float("nan")], 4), ([1e-9], 6)],
)
def test_four_digits_are_shown(values, digits):
    assert digits_for(values) == digits
