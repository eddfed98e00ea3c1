"""How long a driver takes to find out that everything is done already.

python -m tests.faults.sweeps.restart_sweep --trials 10000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sweep_faults import PROGRAM

from spnpolicy.base.decoding import encode
from spnpolicy.base.strict_json import dump_json
from spnpolicy.experiments.sweeps.plan import open_folder, run_config, trial_folder
from spnpolicy.experiments.sweeps.sweep import read_sweep, sweep_plan
from spnpolicy.experiments.sweeps.trials import EVALUATION_FILE, RESULT_FILE

GAMES = ("climbing", "penalty", "linear", "monotonic", "diagonal")
ALGORITHMS = ("vdn", "iql")
EPISODES = 100


def main():
    """Make a finished sweep, run its command again and print how long that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="a multiple of 10")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = make_finished_sweep(Path(folder), options.trials)
        start = time.monotonic()
        code = subprocess.run(command, check=False).returncode
        print(f"exit code {code} after {time.monotonic() - start:.1f} s with {options.trials} finished trials")
    return code


def make_finished_sweep(folder, trials):
    """Write a sweep as if all its trials were finished; return the command that continues it."""
    file, out = folder / "plan.json", folder / "out"
    sweep = {
        "algorithms": {name: {} for name in ALGORITHMS},
        "environments": {game: {"env": "matrix_game", "game": game} for game in GAMES},
        "seeds": trials // (len(ALGORITHMS) * len(GAMES)),
        "evaluation_episodes": EPISODES,
    }
    file.write_text(json.dumps(sweep))
    plan = sweep_plan(read_sweep(file), source="plan.json.")
    rows = "".join(f"{index},5,1,1,nan\n" for index in range(EPISODES))
    with open_folder(out, plan):
        for trial in plan.trials:
            own = trial_folder(out, trial)
            own.mkdir(parents=True)
            (own / "config.json").write_text(dump_json(encode(run_config(trial))))
            (own / RESULT_FILE).write_text("{}")
            (own / EVALUATION_FILE).write_text(f"layout,discounted_return,length,success,fraction_of_optimum\n{rows}")
    return [*PROGRAM, "sweep", str(file), "--out", str(out)]


if __name__ == "__main__":
    sys.exit(main())
