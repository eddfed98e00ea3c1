"""The benchmark as a user runs it: killed, continued, finished."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spnpolicy.cli import main
from spnpolicy.experiments.benchmarks.results import load_results
from spnpolicy.experiments.sweeps.plan import read_plan
from spnpolicy.training.runs import load_run

PROGRAM = [sys.executable, "-c", "import sys; from spnpolicy.cli import main; sys.exit(main())"]
FLAGS = [
    "benchmark", "coverage", "--algorithms", "spn_ac", "vdn", "--seeds", "2", "--steps", "1600", "--episodes", "50",
    "--env.size", "3", "--env.agents", "2", "--env.episode_limit", "20", "--algorithm.network.hidden", "8,",
    "--workers", "1",
]  # fmt: skip
TRIALS = ("spn_ac-seed0", "vdn-seed0", "spn_ac-seed1", "vdn-seed1")
PICTURES = ("curves.png", "curves_sampled.png", "answers.png")
FILES = ("report.txt", "table.csv", "episodes.csv", *PICTURES, "animation.gif", "answers.txt")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """A benchmark that was killed when its first trial was done and the second under way, and then continued."""
    folder = tmp_path_factory.mktemp("benchmark") / "out"
    command = [*PROGRAM, *FLAGS, "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: (folder / "trials" / TRIALS[1] / "config.json").exists(), process)
        workers = children(process.pid)
        process.kill()
    killed = {name: (folder / "trials" / name / "result.json").exists() for name in TRIALS}
    orphans = [worker for worker in workers if not is_gone(worker, seconds=5)]
    finished_at = (folder / "trials" / TRIALS[0] / "result.json").stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"folder": folder, "killed": killed, "orphans": orphans, "finished_at": finished_at, "done": done}


@pytest.mark.full
def test_killing_the_driver_leaves_no_worker_behind(benchmark):
    assert benchmark["orphans"] == []


@pytest.mark.full
def test_the_same_command_continues_and_repeats_nothing(benchmark):
    assert benchmark["done"].returncode == 0, benchmark["done"].stderr
    assert benchmark["killed"][TRIALS[0]]
    assert not all(benchmark["killed"].values())
    trials = benchmark["folder"] / "trials"
    assert (trials / TRIALS[0] / "result.json").stat().st_mtime_ns == benchmark["finished_at"]
    for name in TRIALS:
        assert json.loads((trials / name / "result.json").read_text())["step"] == 1600
        assert load_run(trials / name).step == 1600


@pytest.mark.full
def test_everything_is_written_and_listed(benchmark):
    output = benchmark["done"].stdout
    listed = output.rpartition("written:")[2]
    for name in (*FILES, "trials"):
        assert (benchmark["folder"] / name).exists()
        assert str(benchmark["folder"] / name) in listed
    assert (benchmark["folder"] / "report.txt").read_text().strip() in output
    assert (benchmark["folder"] / "answers.txt").read_text().strip() in output
    assert {path.name for path in benchmark["folder"].iterdir()} == {*FILES, "attempts", "trials", "plan.json"}


@pytest.mark.full
def test_table_follows_from_the_episodes(benchmark):
    with (benchmark["folder"] / "episodes.csv").open() as file:
        episodes = list(csv.DictReader(file))
    assert len(episodes) == 4 * 50
    with (benchmark["folder"] / "table.csv").open() as file:
        table = {row["algorithm"]: row for row in csv.DictReader(file)}
    for algorithm in ("spn_ac", "vdn"):
        own = [row for row in episodes if row["algorithm"] == algorithm]
        for measure, column in (("success", "success"), ("steps", "steps"), ("fraction_of_optimum",) * 2):
            assert float(table[algorithm][measure]) == pytest.approx(np.mean([float(row[column]) for row in own]))
        assert table[algorithm]["runs"] == "2"
    # The layouts are common to all runs.
    by_trial = {}
    for row in episodes:
        by_trial.setdefault((row["algorithm"], row["seed"]), []).append(
            (row["optimal_steps"], row["fixed_assignment_steps"])
        )
    assert len(by_trial) == 4
    assert len({tuple(layouts) for layouts in by_trial.values()}) == 1
    assert all(0 <= float(row["fraction_of_optimum"]) <= 1 for row in episodes)


@pytest.mark.full
def test_sampled_curves_are_of_the_joint_policy_only(benchmark):
    folder = benchmark["folder"]
    results = load_results(read_plan(folder), folder)
    assert list(results.curves) == ["spn_ac", "vdn"]
    assert list(results.sampled_curves) == ["spn_ac"]
    for curves, measure in (
        (results.curves, "fraction_of_optimum"),
        (results.sampled_curves, "sampled_fraction_of_optimum"),
    ):
        logs = (folder / "trials" / f"spn_ac-seed{seed}" / "metrics.jsonl" for seed in range(2))
        records = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
        wanted = [[record[measure] for record in run if record["kind"] == "evaluation"] for run in records]
        assert curves["spn_ac"].values.tolist() == wanted


@pytest.mark.full
def test_pictures_open_and_are_small(benchmark):
    folder = benchmark["folder"]
    for name in PICTURES:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
    with Image.open(folder / "animation.gif") as animation:
        assert animation.n_frames > 2
    assert (folder / "animation.gif").stat().st_size < 3e6


@pytest.mark.full
def test_answers_answer_the_three_questions(benchmark):
    text = (benchmark["folder"] / "answers.txt").read_text()
    for part in ("(a) What does each agent do", "(b) Agent 1 is stuck", "with probability", "(c) How surprising",
                 "most probable joint action before", "log-likelihood", "odd one"):  # fmt: skip
        assert part in text
    assert "stay" in text.partition("most probable joint action now:")[2].partition("\n")[0]


@pytest.mark.full
def test_another_plan_leaves_the_folder_alone(benchmark, capsys):
    folder = benchmark["folder"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    flags = ["30" if word == "50" else word for word in FLAGS]
    assert main([*flags, "--out", str(folder)]) == 2
    assert "belongs to another sweep or benchmark" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_ctrl_c_stops_cleanly(tmp_path):
    folder = tmp_path / "out"
    flags = ["100000000" if word == "1600" else word for word in FLAGS]
    command = [*PROGRAM, *flags, "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (folder / "trials" / TRIALS[0] / "metrics.jsonl").exists(), process)
        workers = children(process.pid)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in output + errors
    assert f"--out {folder}" in errors
    assert all(is_gone(worker, seconds=5) for worker in workers)


def test_failed_runs_end_with_3_and_say_where_to_look(tmp_path, capsys):
    flags = ["1" if word == "2" and FLAGS[i - 1] == "--seeds" else word for i, word in enumerate(FLAGS)]
    flags.remove("spn_ac")
    spoiled = {"critic.learning_rate": "1e38", "critic.method": "adam", "rollout": "1"}
    flags += [word for name, value in spoiled.items() for word in (f"--algorithm.{name}", value)]
    assert main([*flags, "--out", str(tmp_path / "out")]) == 3
    errors = capsys.readouterr().err
    where = tmp_path / "out" / "trials" / "vdn-seed0" / "failure.txt"
    assert str(where) in errors
    assert "Traceback" not in errors
    assert "Traceback" in where.read_text()


def wait_for(condition, process, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the program ended too early"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def children(pid):
    """Return the processes that a process started; none where the system does not tell."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def is_gone(pid, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            # A dead process that nobody has collected yet counts as gone.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False
