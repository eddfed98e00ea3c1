import json
import math

import pytest
from benchmark_cases import TINY_TRAIN, tiny_plan

from spnpolicy.errors import SpnPolicyError
from spnpolicy.experiments.plan import trial_folder
from spnpolicy.experiments.runner import TrialStatus, run_trials, seconds_left
from spnpolicy.experiments.trials import EVALUATION_FILE, FAILURE_FILE, is_finished, read_evaluation, run_trial


def test_a_failed_trial_keeps_its_traceback_and_the_others_go_on(tmp_path):
    plan = tiny_plan(seeds=1, own_options={"vdn": {"learning_rate": 1e38}})
    seen = []
    statuses = run_trials(plan, tmp_path, workers=1, on_change=lambda now: seen.append([s.state for s in now]))
    assert [status.state for status in statuses] == ["failed", "done"]
    assert ["running", "waiting"] in seen
    assert statuses[0].problem.startswith("NonFiniteError")
    failure = (trial_folder(tmp_path, plan.trials[0]) / FAILURE_FILE).read_text()
    assert "Traceback" in failure
    assert "NonFiniteError" in failure
    assert [is_finished(config, tmp_path) for config in plan.trials] == [False, True]
    assert statuses[1].step == TINY_TRAIN.steps


def test_what_a_trial_leaves_is_repeatable_and_an_unfinished_one_starts_anew(tmp_path):
    config = (plan := tiny_plan()).trials[0]
    assert run_trial(plan, config, tmp_path / "a")
    half = trial_folder(tmp_path / "b", config)
    half.mkdir(parents=True)
    (half / "metrics.jsonl").write_text("torn")
    assert run_trial(plan, config, tmp_path / "b")
    files = [trial_folder(tmp_path / name, config) / EVALUATION_FILE for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    evaluation = read_evaluation(files[0])
    assert len(evaluation.length) == plan.evaluation_episodes
    assert set(evaluation.length[~evaluation.success]) <= {15}


def test_only_the_evaluation_is_repeated_if_only_that_is_missing(tmp_path):
    config = (plan := tiny_plan()).trials[0]
    run_trial(plan, config, tmp_path)
    own = trial_folder(tmp_path, config)
    before = (own / "result.json").stat().st_mtime_ns
    (own / EVALUATION_FILE).unlink()
    assert not is_finished(config, tmp_path)
    run_trial(plan, config, tmp_path)
    assert is_finished(config, tmp_path)
    assert (own / "result.json").stat().st_mtime_ns == before


def test_a_finished_trial_of_other_settings_is_refused(tmp_path):
    config = (plan := tiny_plan()).trials[0]
    run_trial(plan, config, tmp_path)
    path = trial_folder(tmp_path, config) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"env_options": {"size": 4}}))
    with pytest.raises(SpnPolicyError, match="other settings"):
        is_finished(config, tmp_path)


def test_a_damaged_evaluation_is_named(tmp_path):
    (tmp_path / "evaluation.csv").write_text("layout,discounted_return,length,success,fraction_of_optimum\n0,1\n")
    with pytest.raises(SpnPolicyError, match=r"evaluation\.csv is damaged"):
        read_evaluation(tmp_path / "evaluation.csv")


def test_time_left():
    fast, slow, other, last = (TrialStatus(config) for config in tiny_plan().trials)
    assert math.isinf(seconds_left([fast, slow, other, last], 2))
    steps = TINY_TRAIN.steps
    fast.state, fast.step, fast.seconds = "done", steps, 10.0
    slow.state, slow.step, slow.seconds = "running", steps // 2, 20.0
    # Left: 20 s of `slow`, another 10 s like `fast`, another 40 s like `slow`; the last alone takes 40 s.
    assert seconds_left([fast, slow, other, last], 1) == pytest.approx(70.0)
    assert seconds_left([fast, slow, other, last], 4) == pytest.approx(40.0)
    assert seconds_left([fast], 2) == 0.0
