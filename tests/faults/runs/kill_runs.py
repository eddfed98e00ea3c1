"""Kill training runs with -9 at random moments, resume them to the end and compare with a run that nobody disturbed.

    python -m tests.faults.runs.kill_runs --kills 60 --out FILE

Promised: after every kill the newest checkpoint is readable and at most one interval old, nothing is left over from a
torn write, and the run that was killed all the way equals the unbroken one bit for bit.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from spnpolicy.training.storage.checkpoints import load_checkpoint
from tests.faults.runs.run_child import SETTINGS
from tests.spnpolicy.training.run_cases import assert_same_run

CHILD = Path(__file__).parent / "run_child.py"


class Figures(NamedTuple):
    """What the kills did."""

    kills: int
    runs: int
    unreadable: int
    most_lost_steps: int
    different: int


def start(folder: Path, *flags: str) -> subprocess.Popen:
    """Start a child that trains or resumes."""
    command = [sys.executable, str(CHILD), str(folder), "--resume", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(child: subprocess.Popen) -> int:
    """Let a child come to its end."""
    child.communicate(timeout=300)
    return child.returncode


def killed_after(child: subprocess.Popen, lines: int, pause: float) -> int:
    """Kill a child a moment after it has told of so many steps; return the last step that it told, or -1."""
    told = -1
    for _ in range(lines):
        line = child.stdout.readline()
        if not line:
            break
        told = int(line.split()[1])
    time.sleep(pause)
    child.kill()
    rest, _ = child.communicate()
    return max([told, *(int(line.split()[1]) for line in rest.splitlines() if line.startswith("step ") and line[5:])])


def kill_runs(folder: Path, kills: int, seed: int) -> Figures:
    """Kill so many children; start a new run whenever one has come to its end in spite of that."""
    draw = random.Random(seed)
    assert finish(start(folder / "unbroken")) == 0
    done = runs = unreadable = different = most_lost = 0
    while done < kills:
        run = folder / f"broken{runs}"
        runs += 1
        while done < kills and not (run / "result.json").exists():
            # Anywhere: while it loads (no line yet), trains, writes a checkpoint, or ends.
            lines = draw.choice([0, 1, draw.randrange(60), draw.randrange(300)])
            told = killed_after(start(run), lines, draw.random() * 0.02)
            done += 1
            if not (run / "checkpoints" / "latest").exists():
                continue
            try:
                saved = load_checkpoint(run / "checkpoints")["progress"]["step_count"]
            except Exception as problem:
                print(f"unreadable: {problem}", flush=True)
                unreadable += 1
                continue
            most_lost = max(most_lost, told - saved)
        assert finish(start(run)) == 0
        leftovers = [path for path in run.rglob(".*") if path.name.startswith((".writing", ".removing"))]
        assert not leftovers, leftovers
        try:
            assert_same_run(folder / "unbroken", run)
        except AssertionError as problem:
            print(f"{run.name} differs: {problem}", flush=True)
            different += 1
    return Figures(done, runs, unreadable, most_lost, different)


def main() -> int:
    """Print the figures, and 0 if all promises are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = kill_runs(Path(folder), options.kills, options.seed)
    text = (
        f"python -m tests.faults.runs.kill_runs --kills {options.kills} --seed {options.seed}\n"
        f"kills with -9 at random moments        {figures.kills}\n"
        f"runs trained through them              {figures.runs}\n"
        f"unreadable checkpoints                 {figures.unreadable}\n"
        f"most env steps lost by a kill          {figures.most_lost_steps} (interval: {SETTINGS.checkpoint_every})\n"
        f"runs that differ from the unbroken one {figures.different}\n"
        f"seconds                                {time.monotonic() - begin:.0f}\n"
    )
    print(text, end="")
    if options.out:
        options.out.write_text(text)
    is_kept = not figures.unreadable and not figures.different
    return 0 if is_kept and figures.most_lost_steps <= SETTINGS.checkpoint_every + SETTINGS.num_envs else 1


if __name__ == "__main__":
    sys.exit(main())
