import json
import math
import sys

import pytest

from spnpolicy.base.errors import ConfigError, SpnPolicyError
from spnpolicy.experiments.sweeps.engines import make_engine
from spnpolicy.experiments.sweeps.engines.local import LocalEngine
from spnpolicy.experiments.sweeps.plan import trial_folder
from spnpolicy.experiments.sweeps.runner import TrialStatus, run_trials, seconds_left
from spnpolicy.experiments.sweeps.trials import EVALUATION_FILE, FAILURE_FILE, is_finished, read_evaluation, run_trial
from tests.spnpolicy.experiments.benchmarks.benchmark_cases import TINY_TRAIN, tiny_plan


def ends_of_tries(folder, trial):
    lines = (folder / "attempts" / f"{trial}.jsonl").read_text().splitlines()
    return [json.loads(line).get("end") for line in lines]


@pytest.mark.full
def test_a_failed_trial_keeps_its_traceback_and_the_others_go_on(tmp_path):
    plan = tiny_plan(seeds=1, own_options={"vdn": {"critic": {"learning_rate": 1e38}}})
    seen = []
    statuses = run_trials(plan, tmp_path, LocalEngine(1), on_change=lambda now: seen.append([s.state for s in now]))
    assert [status.state for status in statuses] == ["failed", "done"]
    assert ["running", "waiting"] in seen
    # The one that failed waited for the other one before it was tried again.
    assert ["waiting", "running"] in seen
    assert [(status.tries, status.failures) for status in statuses] == [(3, 3), (1, 0)]
    assert ends_of_tries(tmp_path, "vdn-seed0") == [None, "failed"] * 3
    assert ends_of_tries(tmp_path, "iql-seed0") == [None, "done"]
    assert statuses[0].problem.startswith("NonFiniteError")
    failure = (trial_folder(tmp_path, plan.trials[0]) / FAILURE_FILE).read_text()
    assert "Traceback" in failure
    assert "NonFiniteError" in failure
    assert [is_finished(config, tmp_path) for config in plan.trials] == [False, True]
    assert statuses[1].step == TINY_TRAIN.steps


def test_what_a_trial_leaves_is_repeatable_and_without_a_checkpoint_it_starts_anew(tmp_path):
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


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path):
    config = (plan := tiny_plan()).trials[0]
    assert run_trial(plan, config, tmp_path / "a")
    assert not run_trial(plan, config, tmp_path / "b", on_progress=stop_at(160))
    steps = []
    assert run_trial(plan, config, tmp_path / "b", on_progress=lambda progress: steps.append(progress.step))
    assert steps[0] == 168
    for name in (EVALUATION_FILE, "episodes.csv"):
        whole, broken = (trial_folder(tmp_path / part, config) / name for part in ("a", "b"))
        assert whole.read_bytes() == broken.read_bytes()


@pytest.mark.parametrize("damage", ["checkpoint", "settings of another size", "settings of the same size"])
def test_a_checkpoint_that_is_of_no_use_is_not_used(tmp_path, damage):
    config = (plan := tiny_plan()).trials[0]
    assert not run_trial(plan, config, tmp_path, on_progress=stop_at(160))
    own = trial_folder(tmp_path, config)
    if damage == "checkpoint":
        (own / "checkpoints" / "latest").write_text("checkpoint-00009999\n")
    else:
        path = own / "config.json"
        saved = json.loads(path.read_text())
        if damage == "settings of another size":
            saved["env_options"] = {"size": 4}
        else:  # its checkpoint would load without a complaint
            saved["algorithm_options"]["critic"]["learning_rate"] = 0.5
        path.write_text(json.dumps(saved))
    steps = []
    assert run_trial(plan, config, tmp_path, on_progress=lambda progress: steps.append(progress.step))
    assert steps[0] == 8
    assert is_finished(config, tmp_path)


def test_a_sound_run_of_other_settings_is_not_gone_on_with(tmp_path):
    config = (plan := tiny_plan()).trials[0]
    other = tiny_plan(own_options={config.algorithm: {"critic": {"learning_rate": 0.5}}})
    assert config.name == other.trials[0].name
    assert not run_trial(other, other.trials[0], tmp_path, on_progress=stop_at(160))
    steps = []
    assert run_trial(plan, config, tmp_path, on_progress=lambda progress: steps.append(progress.step))
    assert steps[0] == 8
    assert is_finished(config, tmp_path)


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


def test_an_engine_is_found_by_name():
    assert make_engine("local", workers=3).workers == 3
    assert make_engine("local").workers >= 1
    assert make_engine("local", threads=10_000).workers == 1
    with pytest.raises(ConfigError, match="'local' or 'ray'"):
        make_engine("slurm")
    with pytest.raises(ConfigError, match="only the engine 'ray' has one"):
        make_engine("local", address="10.0.0.1:6379")


def test_ray_that_is_not_installed_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "spnpolicy.experiments.sweeps.engines.cluster", raising=False)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    with pytest.raises(ConfigError, match=r"pip install 'spnpolicy\[ray\]'"):
        make_engine("ray")


def stop_at(step):
    def stop(progress):
        if progress.step >= step:
            raise KeyboardInterrupt

    return stop
