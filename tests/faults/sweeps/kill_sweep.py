"""Hurt a sweep in every way we know and compare it with one that nobody disturbed.

    python -m tests.faults.sweeps.kill_sweep --engine ray --trials 60 --out /tmp/kill --record FILE

In the disturbed sweep 30 % of the trials lose their worker to kill -9 at a random moment, the driver is killed with -9
twice, and the disk is full for one trial. Afterwards every trial must be finished exactly once, with results that are
equal bit for bit to those of the calm sweep, which local processes ran.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import platform
import random
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sweep_faults import (
    PROGRAM,
    descendants,
    differences,
    ends,
    fill_disk,
    finished_count,
    free_disk,
    is_alive,
    kill,
    read_attempts,
    wait_until,
    workers_at_work,
)

from spnpolicy.experiments.sweeps.plan import read_plan

ALGORITHMS = ("spn_ac", "mean_field", "vdn", "iql")
ENVIRONMENTS = {
    "grid": {"env": "coverage", "size": 3, "agents": 2, "episode_limit": 15},
    "climbing": {"env": "matrix_game", "game": "climbing"},
    "penalty": {"env": "matrix_game", "game": "penalty"},
}
TRAIN = {
    "steps": 1600, "num_envs": 8, "batch_size": 16, "warmup_steps": 40, "log_every": 80, "evaluate_every": 400,
    "evaluation_episodes": 8, "checkpoint_every": 160, "replay_capacity": 800, "updates": 1,
}  # fmt: skip
SHARE_KILLED = 0.3
DRIVER_KILLS = 2
MOST_SECONDS_TO_LIVE = 1.5


def main():
    """Run both sweeps and say whether they agree; the exit code is 0 if they do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--trials", type=int, default=60, help="a multiple of 12")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed when")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--calm", type=Path, help="calm sweep of an earlier call, to be compared with")
    parser.add_argument("--record", type=Path, help="file for the figures; written if all is well")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    plan = options.out / "plan.json"
    plan.write_text(json.dumps(sweep(options.trials)))
    calm, start = options.calm or options.out / "calm", time.monotonic()
    # Run again where it is there already: it then costs nothing, and is known to belong to the same plan.
    if subprocess.run([*PROGRAM, "sweep", str(plan), "--out", str(calm)], check=False).returncode:
        raise SystemExit("the calm sweep failed")
    calm_seconds = time.monotonic() - start
    names = [trial.name for trial in read_plan(calm).trials]
    counts = disturb(plan, options.out / "disturbed", names, options)
    if options.calm is None:
        counts["seconds undisturbed"] = round(calm_seconds)
    figures, is_well = judge(calm, options.out / "disturbed", counts)
    text = report(options, figures, is_well)
    print(text)
    if is_well and options.record is not None:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(text)
    return 0 if is_well else 1


def sweep(trials):
    """Return the file of a sweep of so many tiny trials."""
    pairs = len(ALGORITHMS) * len(ENVIRONMENTS)
    if trials % pairs:
        raise SystemExit(f"--trials must be a multiple of {pairs}")
    return {
        "name": "kill-sweep",
        "algorithms": {name: {"network": {"hidden": [8]}} for name in ALGORITHMS},
        "environments": ENVIRONMENTS,
        "seeds": trials // pairs,
        "train": TRAIN,
        "evaluation_episodes": 20,
    }


def disturb(plan, folder, names, options):
    """Run a sweep under faults until a driver ends by itself; return what was done to it."""
    command = [*PROGRAM, "sweep", str(plan), "--out", str(folder), "--engine", options.engine]
    command += ["--workers", str(options.workers)]
    counts = {"workers killed": 0, "drivers killed": 0, "disks full": 0, "orphans": 0, "driver exit codes": []}
    attacker = Attacker(folder, names, options)
    start = time.monotonic()
    left_behind = []
    # The next driver comes at once, when workers of the last one may still be there.
    while True:
        with subprocess.Popen(command) as driver:
            while driver.poll() is None:
                attacker.act(counts)
                due = (counts["drivers killed"] + 1) * options.trials // (DRIVER_KILLS + 1)
                if counts["drivers killed"] < DRIVER_KILLS and finished_count(folder) >= due:
                    counts["drivers killed"] += 1
                    left_behind += descendants(driver.pid)
                    kill(driver.pid)
                time.sleep(0.02)
        counts["driver exit codes"].append(driver.returncode)
        if driver.returncode != -9:
            break
    attacker.end()
    counts["seconds disturbed"] = round(time.monotonic() - start)
    # Two helpers of Ray notice only after a minute that theirs is gone.
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(map(is_alive, left_behind)), "what killed drivers left behind", seconds=120)
    return counts | {"orphans": sum(map(is_alive, left_behind))}


class Attacker:
    """Kills the workers of some trials a random time after they were first seen, and fills the disk of another one."""

    def __init__(self, folder, names, options):
        self._random = random.Random(options.seed)
        self._folder = folder
        # In random order; whoever comes later takes the place of one that was finished before its time had come.
        self._victims = self._random.sample(names, len(names))
        self._disk_trial = self._victims.pop()
        self._disk_pid = None
        self._wanted = round(SHARE_KILLED * len(names))
        self._times = {}
        self._killed = set()

    def act(self, counts):
        """Do what is due."""
        now = time.monotonic()
        at_work = workers_at_work(self._folder)
        for trial, pid in at_work.items():
            due = self._times.setdefault(trial, now + self._random.uniform(0.0, MOST_SECONDS_TO_LIVE))
            if trial in self._current_victims() and now >= due and kill(pid):
                self._killed.add(trial)
                counts["workers killed"] += 1
            if trial == self._disk_trial and self._disk_pid is None and fill_disk(pid):
                self._disk_pid = pid
                counts["disks full"] += 1
        if self._disk_pid and ("failed" in ends(self._folder, self._disk_trial) or not is_alive(self._disk_pid)):
            self.end()

    def end(self):
        """Make room on the disk again."""
        if self._disk_pid:
            free_disk(self._disk_pid)
            self._disk_pid = 0

    def _current_victims(self):
        escaped = {name for name in self._victims if "done" in ends(self._folder, name)} - self._killed
        return {name for name in self._victims if name not in escaped and name not in self._killed}.intersection(
            [name for name in self._victims if name not in escaped][: self._wanted]
        )


def judge(calm, disturbed, counts):
    """Compare both sweeps; return the figures and whether everything that was promised was kept."""
    trials = read_plan(calm).trials
    different = differences(calm, disturbed)
    done = {trial.name: ends(disturbed, trial.name).count("done") for trial in trials}
    figures = counts | {
        "trials": len(trials),
        "finished": finished_count(disturbed),
        "lost": len(trials) - finished_count(disturbed),
        "trained to the end twice": sum(count > 1 for count in done.values()),
        "tries": sum(sum("end" not in record for record in read_attempts(disturbed, trial.name)) for trial in trials),
        "tries that raised": sum(ends(disturbed, trial.name).count("failed") for trial in trials),
        "still at work": len(workers_at_work(disturbed)),
        "differences from the calm sweep": len(different),
    }
    for line in different[:20]:
        print("DIFFERENT", line)
    promised = ("lost", "trained to the end twice", "orphans", "still at work", "differences from the calm sweep")
    is_well = not any(figures[name] for name in promised) and counts["driver exit codes"][-1] == 0
    was_hurt = counts["drivers killed"] == DRIVER_KILLS and counts["disks full"] == 1
    return figures, is_well and was_hurt and counts["workers killed"] == round(SHARE_KILLED * len(trials))


def report(options, figures, is_well):
    """Return the figures as text."""
    words = f"--engine {options.engine} --trials {options.trials} --seed {options.seed} --workers {options.workers}"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("spnpolicy", "torch", "numpy"))
    if options.engine == "ray":
        versions += f", ray {importlib.metadata.version('ray')}"
    lines = [
        f"python -m tests.faults.sweeps.kill_sweep {words} --out DIR",
        f"{datetime.date.today()}; Python {platform.python_version()}, {versions}; {platform.system()}",
        "",
        *(f"{name:32}  {value}" for name, value in figures.items()),
        "",
        "every trial finished exactly once, equal bit for bit" if is_well else "NOT AS PROMISED",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
