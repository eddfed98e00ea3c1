import csv
from dataclasses import replace

import numpy as np
import pytest
from benchmark_cases import tiny_plan

from spnpolicy.envs import make_env
from spnpolicy.experiments.benchmarks.report import _notes, statements, table, write_report
from spnpolicy.experiments.benchmarks.results import References, Results, Score, _references, _score
from spnpolicy.experiments.media.lines import _LABEL_GAP, _TOP, _spread
from spnpolicy.experiments.statistics.bootstrap import interval_over_runs
from spnpolicy.experiments.sweeps.trials import FinalEvaluation


def results(fractions, fixed=0.9):
    """Results whose runs earned these fractions of the optimum, in every episode the same."""
    scores, evaluations = [], {}
    for algorithm, runs in fractions.items():
        fraction = interval_over_runs(runs)
        scores.append(
            Score(algorithm, len(runs), {"success": fraction, "steps": fraction, "fraction_of_optimum": fraction})
        )
        evaluations[algorithm] = {
            seed: FinalEvaluation(np.full(2, run), np.array([3, 4]), np.array([True, False]), np.full(2, run))
            for seed, run in enumerate(runs)
        }
    references = References(np.array([2, 3]), np.array([3, 5]), np.full(2, fixed))
    return Results(tiny_plan(), evaluations, scores, {}, references)


def test_a_clear_winner_is_called_one():
    text = " ".join(statements(results({"iql": [0.5, 0.52], "vdn": [0.95, 0.97]})))
    assert "vdn is better than iql" in text
    assert "the intervals do not overlap" in text
    assert "Above it with the whole interval: vdn; below it with the whole interval: iql." in text


def test_overlapping_intervals_give_no_verdict():
    text = " ".join(statements(results({"vdn": [0.85, 0.97], "iql": [0.8, 0.95]})))
    assert "vdn earned more than iql" in text
    assert "no verdict" in text
    assert "not to be told from it (inside the interval): vdn, iql" in text.lower()


def test_one_run_claims_nothing():
    found = results({"vdn": [0.95], "iql": [0.5]})
    text = " ".join(statements(found))
    assert "one run shows no variation" in text
    assert "above it in a single run: vdn" in text.lower()
    assert any("0.9500 (one run)" in line for line in table(found))


def test_drawn_play_stands_beside_greedy_play_and_is_explained():
    found = results({"spn_ac": [0.95, 0.96], "iql": [0.5, 0.6]})
    found = replace(found, drawn=[replace(found.scores[0], algorithm="spn_ac, sampled")])
    lines = table(found)
    names = [line.split("  ")[0] for line in lines]
    assert names.index("iql") < names.index("spn_ac, sampled") < names.index("exact optimum")
    assert sum(set(line) == {"-"} for line in lines) == 3
    assert '"sampled" draws joint actions' in " ".join(_notes(found))
    assert '"sampled"' not in " ".join(_notes(replace(found, drawn=[])))
    assert not any("sampled" in line for line in statements(found)), "verdicts are about greedy play"


def test_equal_results_are_called_equal():
    text = " ".join(statements(results({"vdn": [0.0], "iql": [0.0]})))
    assert "vdn and iql earned the same" in text
    assert "more" not in text


def test_missing_runs_are_counted():
    assert "2 of 4 runs are missing" in " ".join(statements(results({"vdn": [0.5], "iql": [0.5]})))
    assert "missing" not in " ".join(statements(results({"vdn": [0.5, 0.6], "iql": [0.5, 0.6]})))


def test_a_fixed_goal_that_comes_too_late_is_no_success():
    found = results({"vdn": [0.95, 0.97]})
    references = replace(found.references, fixed_fraction=np.array([0.9, 0.0]))
    row = next(line for line in table(replace(found, references=references)) if "fixed goal" in line)
    assert "0.500" in row


def test_files(tmp_path):
    found = results({"vdn": [0.5, 0.7], "iql": [0.25, 0.25]})
    text = write_report(found, tmp_path / "report.txt", tmp_path / "table.csv", tmp_path / "episodes.csv")
    assert (tmp_path / "report.txt").read_text() == text
    with (tmp_path / "table.csv").open() as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["vdn", "iql", "a fixed goal per agent", "exact optimum"]
    assert float(rows["vdn"]["fraction_of_optimum"]) == pytest.approx(0.6)
    assert float(rows["vdn"]["fraction_of_optimum_low"]) == pytest.approx(0.5)
    assert float(rows["vdn"]["fraction_of_optimum_high"]) == pytest.approx(0.7)
    assert float(rows["a fixed goal per agent"]["fraction_of_optimum"]) == pytest.approx(0.9)
    assert float(rows["exact optimum"]["steps"]) == pytest.approx(2.5)
    with (tmp_path / "episodes.csv").open() as file:
        episodes = list(csv.DictReader(file))
    assert len(episodes) == 2 * 2 * 2
    assert episodes[3] == {
        "algorithm": "vdn", "seed": "1", "layout": "1", "success": "0", "steps": "4", "discounted_return": "0.7",
        "fraction_of_optimum": "0.7", "optimal_steps": "3", "fixed_assignment_steps": "5",
    }  # fmt: skip


def test_references_are_those_of_the_evaluation_layouts():
    plan = tiny_plan(env_options={"size": 5, "agents": 3, "episode_limit": 200}, evaluation_episodes=4_000)
    found = _references(plan)
    # Known from 20,000 layouts: 3.36 (sd 0.97) steps, and 4.7 with a fixed goal per agent.
    assert found.optimal_steps.mean() == pytest.approx(3.36, abs=0.07)
    assert found.fixed_steps.mean() == pytest.approx(4.7, abs=0.1)
    gained = 0.95 ** (found.fixed_steps - found.optimal_steps).astype(float)
    assert found.fixed_fraction == pytest.approx(gained)
    env = make_env("coverage", agents=3, size=5, num_envs=4_000)
    env.reset(seed=plan.evaluation_seed)
    assert (env.optimal_steps() == found.optimal_steps).all()


def test_a_run_counts_with_its_mean_not_with_its_best_episodes():
    # The interquartile mean of single episodes would drop the failing fifth and call this policy perfect.
    success = np.arange(100) >= 20
    run = FinalEvaluation(success * 0.9, np.where(success, 3, 15), success, success * 1.0)
    score = _score("vdn", [run] * 8)
    assert score.measures["success"] == pytest.approx((0.8, 0.8, 0.8))
    assert score.measures["fraction_of_optimum"].estimate == pytest.approx(0.8)
    assert score.measures["steps"].estimate == pytest.approx(0.8 * 3 + 0.2 * 15)
    # One run out of eight that failed for good is an outlier among runs, and does count as one.
    lost = FinalEvaluation(success * 0.0, np.full(100, 15), success & False, success * 0.0)
    assert _score("vdn", [run] * 7 + [lost]).measures["success"].estimate == pytest.approx(0.8)


@pytest.mark.parametrize("levels", [[0.0, 0.0, 0.01], [0.93, 0.96, 0.965, 0.97, 0.98, 1.0], [0.2, 0.5, 0.9], [0.5]])
def test_labels_do_not_overlap_and_stay_inside(levels):
    places = _spread(np.array(levels))
    assert (np.diff(places) >= _LABEL_GAP - 1e-12).all()
    assert places[0] >= 0
    assert places[-1] <= _TOP
