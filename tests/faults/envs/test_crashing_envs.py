"""Environments that raise, die or hang: their episodes are dropped, the others notice nothing, the run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from broken_envs import AT_ENV, AT_STEP, ENVS, Broken

from spnpolicy.base.errors import EnvError
from spnpolicy.envs import make_env
from spnpolicy.envs.checks.guard import guarded
from spnpolicy.envs.pettingzoo.share import episode_seed

NAME = "pettingzoo:broken_envs.Broken"
ZEROS = np.zeros((ENVS, 2), int)
TESTS = os.path.join("faults", "envs")


def make(fault, workers, **options):
    return make_env(NAME, num_envs=ENVS, workers=workers, fault=fault, seed=episode_seed(7, AT_ENV, 0), **options)


@pytest.fixture
def opened():
    """Make environments that are closed in any case."""
    kept = []

    def keep(env):
        kept.append(env)
        return env

    yield keep
    for env in kept:
        env.close()


def play(env, steps):
    return [env.reset(seed=7), *(env.step(ZEROS) for _ in range(steps))]


@pytest.mark.parametrize("policy", ["raise", "drop-episode"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_crash_is_survived_under_any_policy(workers, policy, opened):
    reported = []
    env = opened(guarded(make("raises", workers), on_fault=policy, report=reported.append))
    steps = play(env, 30)
    assert [n for n, step in enumerate(steps) if step.discarded is not None] == [AT_STEP]
    assert steps[AT_STEP].discarded.tolist() == [False, False, True, False]
    assert steps[AT_STEP + 3].observation[:, 0, 0].tolist() == [8, 8, 3, 8]
    assert env.faults_total == {"crash": 1}
    (fault,) = reported
    assert (fault.env, fault.episode, fault.step, fault.agent) == (AT_ENV, 0, AT_STEP, None)
    assert fault.message.startswith(f"{NAME}[env 2, episode 0, step 5]: step() raised ValueError: boom.")
    # the environment's own traceback: its file, its function, its line
    assert "broken_envs.py" in fault.traceback
    assert "in misbehave" in fault.traceback
    assert fault.traceback.rstrip().endswith("ValueError: boom")


def test_crashes_do_not_depend_on_the_number_of_workers(opened):
    runs = []
    for workers in (0, 1, 3):
        reported = []
        env = opened(guarded(make("none", workers, chance=0.2), report=reported.append))
        runs.append((play(env, 60), [fault[:5] for fault in reported]))
    assert len(runs[0][1]) > 10
    for steps, faults in runs[1:]:
        assert sorted(faults) == sorted(runs[0][1])
        for step, want in zip(steps, runs[0][0], strict=True):
            for field, a, b in zip(step._fields, step, want, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=field)


@pytest.mark.parametrize("workers", [0, 1])
def test_exit_in_an_environment_is_a_crash(workers, opened):
    env = opened(guarded(make("exits", workers)))
    assert play(env, 10)[AT_STEP].discarded.tolist() == [False, False, True, False]
    assert env.faults_total == {"crash": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failed_reset_takes_the_next_seed(workers, opened):
    reported = []
    env = opened(guarded(make("reset", workers), report=reported.append))
    step = play(env, 3)[-1]
    assert step.discarded is None
    assert env.faults_total == {"reset": 1}
    assert reported[0].message.startswith(f"{NAME}[env 2, episode 0, step 0]: reset() raised RuntimeError: no start.")
    assert env.unguarded.state_dict()["episodes"].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("fault", "what", "words"),
    [
        ("never starts", "resets", "RuntimeError: never again"),
        ("first step", "first steps", "RuntimeError: never gets going"),
        ("first step or reset", "starts", "RuntimeError: neither"),
    ],
)
def test_three_failed_starts_in_a_row_are_the_end(fault, what, words, workers, opened, monkeypatch):
    monkeypatch.setattr(Broken, "next_reset_fails", False)
    env = opened(guarded(make(fault, workers)))
    with pytest.raises(EnvError, match=f"3 {what} in a row failed") as error:
        play(env, 3)
    assert words in str(error.value)
    assert "broken_envs.py" in str(error.value)
    assert error.value.exit_code == 5


def test_an_environment_that_dies_takes_its_process_only(opened):
    reported = []
    env = opened(guarded(make("dies", 2), report=reported.append))
    steps = play(env, 30)
    assert [n for n, step in enumerate(steps) if step.discarded is not None] == [AT_STEP]
    assert steps[AT_STEP].discarded.tolist() == [False, False, True, True]
    assert steps[AT_STEP + 1].observation[:, 0, 0].tolist() == [6, 6, 1, 1]
    (fault,) = reported
    assert (fault.env, fault.episode, fault.step, fault.field) == (AT_ENV, 0, AT_STEP, "death")
    assert "the worker process died (exit status 7) during step(); it was started anew" in fault.message
    assert "this episode and those of 1 more in that process dropped" in fault.message


def test_an_environment_that_hangs_is_ended(opened):
    reported = []
    env = opened(guarded(make("hangs", 2, timeout=1.0), report=reported.append))
    steps = play(env, 8)
    assert steps[AT_STEP].discarded.tolist() == [False, False, True, True]
    (fault,) = reported
    assert (fault.env, fault.episode, fault.step, fault.field) == (AT_ENV, 0, AT_STEP, "hang")
    assert "gave no answer for 1 s and was ended" in fault.message
    # where it hung
    assert "broken_envs.py" in fault.traceback
    assert "in misbehave" in fault.traceback


def test_killed_workers_are_replaced(opened):
    reported = []
    env = opened(guarded(make("none", 2), report=reported.append))
    play(env, 3)
    for number in range(4):
        hand = env.unguarded._hands[number % 2]
        os.kill(hand._process.popen.pid, signal.SIGKILL)
        step = env.step(ZEROS)
        assert step.discarded.tolist() == [number % 2 == 0] * 2 + [number % 2 == 1] * 2
        assert env.step(ZEROS).discarded is None
    assert env.faults_total == {"death": 4}
    assert all("killed by SIGKILL" in fault.message for fault in reported)


def test_workers_leave_ctrl_c_to_their_parent(opened, capfd):
    env = opened(guarded(make("none", 2)))
    play(env, 2)
    pids = [hand._process.popen.pid for hand in env.unguarded._hands]
    # not in the terminal's group, which Ctrl-C reaches, and deaf to it in any case
    assert all(os.getpgid(pid) != os.getpgid(0) for pid in pids)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    assert env.step(ZEROS).discarded is None
    env.close()
    assert capfd.readouterr().err == ""


def test_an_interrupted_question_is_not_answered_late(opened):
    """After an exception between question and answer (Ctrl-C, say) the next answer belongs to the next question."""
    env = opened(make("none", 2))
    play(env, 3)
    for hand in env._hands:
        hand.send("step", ZEROS[:2])
    step = env.reset(seed=7)
    assert step.observation[:, 0, 0].tolist() == [0, 0, 0, 0]
    assert env.step(ZEROS).observation[:, 0, 0].tolist() == [1, 1, 1, 1]


def test_a_process_that_dies_again_and_again_is_given_up(opened):
    env = opened(guarded(make_env(NAME, num_envs=2, workers=1, fault="dies", at=1)))
    env.reset(seed=7)
    for _ in range(2):
        assert env.step(ZEROS[:2]).discarded.all()
    with pytest.raises(EnvError, match=r"died \(exit status 7\).*3rd time without a step in between"):
        env.step(ZEROS[:2])


def test_a_worker_that_cannot_import_says_why(opened, monkeypatch):
    env = opened(make("none", 1))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.endswith(TESTS)])
    with pytest.raises(EnvError, match="there is no module 'broken_envs'"):
        env.reset(seed=7)


def test_restarted_rows_are_those_that_were_asked_for(opened):
    for workers in (0, 3):
        env = opened(make("none", workers))
        play(env, 4)
        step = env.restart([1, 3])
        assert step.observation.shape == (2, 2, 3)
        assert step.observation[:, 0, 0].tolist() == [0, 0]
        assert env.step(ZEROS).observation[:, 0, 0].tolist() == [5, 1, 5, 1]
        assert env.state_dict()["episodes"].tolist() == [0, 1, 0, 1]


ORPHANING = """
import os, sys
import numpy as np
from spnpolicy.envs import make_env
env = make_env("pettingzoo:broken_envs.Broken", num_envs=2, workers=2, fault="hangs once", file=sys.argv[1])
env.reset(seed=7)
print(*(hand._process.popen.pid for hand in env._hands), flush=True)
while True:
    env.step(np.zeros((2, 2), int))
"""


def is_alive(pid):
    try:
        # a zombie is dead, and only waits for its parent to notice
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_their_parent_even_while_they_hang(tmp_path):
    file = tmp_path / "hangs"
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())])
    command = [sys.executable, "-c", ORPHANING, str(file)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        wait_for(file.exists)
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        parent.kill()
    wait_for(lambda: not any(map(is_alive, pids)))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_no_main_guard_is_needed_and_nothing_is_printed(tmp_path):
    """A plain script with workers: it is not run again in them, and its end is silent."""
    script = tmp_path / "script.py"
    script.write_text(
        "from spnpolicy.envs import make_env\n"
        "env = make_env('pettingzoo:broken_envs.Broken', num_envs=2, workers=2)\n"
        "print(env.reset(seed=7).observation.shape)\n",
        encoding="utf-8",
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())])
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.stdout == "(2, 2, 3)\n"
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.slow
def test_crashes_in_one_percent_of_steps_for_1e5_steps(opened):
    reported = []
    env = opened(guarded(make_env(NAME, num_envs=50, workers=2, chance=0.01), report=reported.append))
    env.reset(seed=7)
    actions = np.zeros((50, 2), int)
    dropped = ended = 0
    for _ in range(2000):
        step = env.step(actions)
        dropped += 0 if step.discarded is None else int(step.discarded.sum())
        ended += int(step.terminated.sum())
    # 1e5 steps at 1 %: 1000 expected, standard deviation 31
    assert 840 < dropped < 1160
    assert len(reported) == dropped
    assert ended > 3000
    assert all("RuntimeError: by chance" in fault.traceback for fault in reported)
