"""Sweeps that are hurt while they run end like sweeps that nobody disturbed."""

import importlib.util
import json
import subprocess
import threading

import kill_sweep
import pytest
import restart_sweep
from sweep_faults import (
    PROGRAM,
    InlineEngine,
    descendants,
    differences,
    ends,
    finished_count,
    is_alive,
    kill,
    read_attempts,
    wait_until,
    workers_at_work,
)

from spnpolicy.cli import main
from spnpolicy.experiments.sweeps.attempts import Outcome
from spnpolicy.experiments.sweeps.engines.local import LocalEngine
from spnpolicy.experiments.sweeps.plan import open_folder, read_plan, trial_folder
from spnpolicy.experiments.sweeps.runner import MOST_LOSSES, MOST_TRIES, run_trials
from spnpolicy.experiments.sweeps.sweep import read_sweep, sweep_plan
from spnpolicy.experiments.sweeps.trials import FAILURE_FILE, run_trial
from spnpolicy.training.metrics import read_metrics

TRAIN = kill_sweep.TRAIN | {"steps": 4800, "checkpoint_every": 240, "evaluate_every": 2400}
"""Long enough for a try to be seen and killed before it ends."""


def write_sweep(folder, algorithms, **train):
    path = folder / "plan.json"
    environments = {"small": {"env": "coverage", "size": 3, "agents": 2, "episode_limit": 15}}
    content = {"algorithms": algorithms, "environments": environments, "seeds": 1, "train": TRAIN | train}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A sweep of two tiny trials, and the folder where nobody disturbed it."""
    folder = tmp_path_factory.mktemp("calm")
    path = write_sweep(folder, {"vdn": {"network": {"hidden": [8]}}, "iql": {"network": {"hidden": [8]}}})
    plan = sweep_plan(read_sweep(path))
    with open_folder(folder / "out", plan):
        assert [status.state for status in run_trials(plan, folder / "out", InlineEngine())] == ["done", "done"]
    return path, folder / "out"


@pytest.mark.full
def test_a_killed_worker_is_replaced_and_nothing_is_lost(calm, tmp_path):
    path, undisturbed = calm
    plan = sweep_plan(read_sweep(path))
    folder = tmp_path / "out"
    killed = []

    def kill_once_it_has_a_checkpoint(statuses):
        for name, pid in workers_at_work(folder).items():
            step = next(status.step for status in statuses if status.name == name)
            if name not in killed and step >= 240 and kill(pid):
                killed.append(name)

    with open_folder(folder, plan):
        statuses = run_trials(plan, folder, LocalEngine(1), on_change=kill_once_it_has_a_checkpoint)
    assert [status.state for status in statuses] == ["done", "done"]
    # A try may be too short to be caught; one of the two always is not.
    assert killed
    assert [status.losses for status in statuses] == [int(status.name in killed) for status in statuses]
    assert [status.failures for status in statuses] == [0, 0]
    assert differences(undisturbed, folder) == []
    for name in killed:
        assert [record.get("end") for record in read_attempts(folder, name)] == [None, None, "done"]


@pytest.mark.full
def test_a_killed_driver_is_replaced_and_nothing_is_lost(calm, tmp_path):
    path, undisturbed = calm
    folder = tmp_path / "out"
    command = [*PROGRAM, "sweep", str(path), "--out", str(folder), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: workers_at_work(folder), "a worker")
        workers = descendants(driver.pid)
        driver.kill()
    assert workers
    wait_until(lambda: not any(map(is_alive, workers)), "the workers to leave")
    assert finished_count(folder) < 2
    with open_folder(folder, plan := sweep_plan(read_sweep(path))):
        assert [status.state for status in run_trials(plan, folder, InlineEngine())] == ["done", "done"]
    assert differences(undisturbed, folder) == []
    assert [ends(folder, trial.name) for trial in read_plan(folder).trials] == [["done"], ["done"]]


@pytest.mark.full
def test_ctrl_c_saves_and_the_next_driver_goes_on_from_there(calm, tmp_path):
    path, undisturbed = calm
    folder = tmp_path / "out"
    plan = sweep_plan(read_sweep(path))
    interrupt = threading.Event()

    class Stopped(LocalEngine):
        """As after Ctrl-C: the driver asks its engine to stop."""

        def collect(self, seconds):
            outcomes = super().collect(seconds)
            if interrupt.is_set() and workers_at_work(folder):
                raise KeyboardInterrupt
            return outcomes

    interrupt.set()
    with open_folder(folder, plan), pytest.raises(KeyboardInterrupt):
        run_trials(plan, folder, Stopped(2))
    assert finished_count(folder) < 2
    assert not workers_at_work(folder)
    with open_folder(folder, plan):
        assert [status.state for status in run_trials(plan, folder, InlineEngine())] == ["done", "done"]
    assert differences(undisturbed, folder) == []


@pytest.mark.full
def test_a_worker_lost_before_its_first_step_changes_no_bit(calm, tmp_path):
    """The checkpoint that every run begins with is as good as any other."""
    path, undisturbed = calm
    folder = tmp_path / "out"
    plan = sweep_plan(read_sweep(path))

    def lose(progress):
        raise RuntimeError("lost")

    with open_folder(folder, plan):
        for trial in plan.trials:
            with pytest.raises(RuntimeError, match="lost"):
                run_trial(plan, trial, folder, on_progress=lose)
        run_trials(plan, folder, InlineEngine())
    assert differences(undisturbed, folder) == []


@pytest.mark.full
def test_two_drivers_do_not_share_a_folder(calm, tmp_path, capsys):
    path, _ = calm
    folder = tmp_path / "out"
    command = ["sweep", str(path), "--out", str(folder)]
    with open_folder(folder, sweep_plan(read_sweep(path))):
        assert main(command) == 2
    assert "another process is at work" in capsys.readouterr().err
    assert not (folder / "trials").exists()


def test_a_failed_trial_is_tried_three_times_and_again_by_the_next_driver(tmp_path):
    network = {"hidden": [8]}
    algorithms = {"vdn": {"network": network, "critic": {"learning_rate": 1e38}}, "iql": {"network": network}}
    plan = sweep_plan(read_sweep(write_sweep(tmp_path, algorithms, steps=160)))
    folder = tmp_path / "out"
    for drivers in (1, 2):
        with open_folder(folder, plan):
            statuses = run_trials(plan, folder, InlineEngine())
        assert [status.state for status in statuses] == ["failed", "done" if drivers == 1 else "kept"]
        assert [status.failures for status in statuses] == [MOST_TRIES, 0]
        assert ends(folder, "vdn-seed0") == ["failed"] * MOST_TRIES * drivers
        assert ends(folder, "iql-seed0") == ["done"]
        failure = (trial_folder(folder, plan.trials[0]) / FAILURE_FILE).read_text()
        assert "Traceback" in failure
        assert "NonFiniteError" in failure


@pytest.mark.full
def test_a_trial_that_kills_every_worker_is_given_up(calm, tmp_path):
    plan = sweep_plan(read_sweep(calm[0]))
    folder = tmp_path / "out"

    class Deadly(InlineEngine):
        """Loses every worker of vdn, as if memory were too small for it."""

        def collect(self, seconds):
            lost = {trial.name: Outcome("lost", "gone") for _, trial, _ in self._waiting if trial.algorithm == "vdn"}
            self._waiting = [entry for entry in self._waiting if entry[1].name not in lost]
            return lost | super().collect(seconds)

    with open_folder(folder, plan):
        statuses = run_trials(plan, folder, Deadly())
    assert [(status.state, status.losses) for status in statuses] == [("failed", MOST_LOSSES + 1), ("done", 0)]
    assert "lost 11 workers" in (trial_folder(folder, plan.trials[0]) / FAILURE_FILE).read_text()


def test_finished_trials_are_left_alone(tmp_path, capfd):
    command = restart_sweep.make_finished_sweep(tmp_path, 100)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert subprocess.run(command, check=False).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "vdn        5.0000" in capfd.readouterr().out


@pytest.mark.slow
def test_ten_thousand_finished_trials_are_left_alone(tmp_path):
    command = restart_sweep.make_finished_sweep(tmp_path, 10_000)
    assert subprocess.run(command, check=False).returncode == 0
    assert not (tmp_path / "out" / "attempts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_sixty_trials_survive_everything(tmp_path, engine, monkeypatch):
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        pytest.fail("this test needs Ray: pip install 'spnpolicy[ray]', as `make test-slow` does")
    monkeypatch.setattr("sys.argv", ["kill_sweep", "--engine", engine, "--out", str(tmp_path / "out")])
    assert kill_sweep.main() == 0


@pytest.mark.full
def test_metrics_have_no_record_twice(calm):
    """The comparison above would also see this; here it is said plainly."""
    _, folder = calm
    for trial in read_plan(folder).trials:
        records = read_metrics(trial_folder(folder, trial) / "metrics.jsonl").records
        keys = [(record["kind"], record["step"]) for record in records]
        assert len(set(keys)) == len(keys)
