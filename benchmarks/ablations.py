"""What every part of spn_ac is worth: coverage as in a preset, with one part changed at a time.

    python benchmarks/ablations.py --out benchmarks/results/ablations

"as it is" is the preset's spn_ac, which plays by the optimum for its critic's tables. The first rows below it say
where the policy comes from instead: a circuit whose network follows the exact ELBO, beside the same circuit by
REINFORCE, without the residual on the critic's tables, or of independent agents. The others change the critic, the
network, the returns, the optimiser or the curriculum. A run counts with its mean over 1,000 fresh layouts; intervals
are 95 % bootstrap intervals of the interquartile mean over runs. Interrupted, the same command goes on.
"""

import argparse
import csv
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spnpolicy import Curriculum
from spnpolicy.experiments.reports import read_run
from spnpolicy.experiments.statistics import interval_over_runs, interval_text
from spnpolicy.experiments.sweeps import (
    COVERAGE,
    Plan,
    is_finished,
    make_engine,
    make_plan,
    open_folder,
    run_trials,
    trial_folder,
)


class Change(NamedTuple):
    """One part that is not as the preset has it."""

    options: Mapping[str, Any] = {}
    """Settings of the algorithm."""
    algorithm: str = "spn_ac"
    has_curriculum: bool = True


_LEARNED = {"solver": "gradient", "potentials": "residual", "shares_encoder": True}
CHANGES: dict[str, Change] = {
    "as it is": Change(),
    "circuit, exact ELBO": Change(_LEARNED),
    "circuit, REINFORCE": Change(algorithm="reinforce_vi"),
    "circuit, no residual": Change({"solver": "gradient"}),
    "circuit, natural gradient": Change({"solver": "natural_gradient"}),
    "independent agents": Change({**_LEARNED, "structure": "mean_field"}),
    "no pairs": Change({"num_pairs": 0}),
    "flat network": Change(
        {"network": {"kind": "mlp", "hidden": [64, 64], "rounds": 1, "features": {"frequencies": 8}}}
    ),
    "one-step returns": Change({"trace": 0.0}),
    "Adam": Change({part: {"method": "adam"} for part in ("critic", "actor")}),
    "no curriculum": Change(has_curriculum=False),
}


def main(options: argparse.Namespace) -> None:
    """Run what is missing, and write the table."""
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.only:
        plan, folder = plan_of(name, options), options.runs / name.replace(" ", "-").replace(",", "")
        with open_folder(folder, plan):
            ended = run_trials(plan, folder, make_engine("local", workers=options.workers))
        for trial in ended:
            if trial.state == "failed":
                print(f"{name}: {trial.name} failed: {trial.problem}", file=sys.stderr, flush=True)
        if not all(trial.is_over for trial in ended) or any(trial.state == "stopped" for trial in ended):
            raise SystemExit("interrupted; the same command goes on where this one stopped")
        rows.append(row_of(name, plan, folder))
        print("  ".join(f"{column}: {value}" for column, value in rows[-1].items()), flush=True)
        with (options.out / "ablations.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def plan_of(name: str, options: argparse.Namespace) -> Plan:
    """Return the runs of one change."""
    change, preset = CHANGES[name], COVERAGE[options.preset]
    preset = replace(
        preset,
        seeds=options.seeds,
        train=replace(preset.train, steps=options.steps or preset.train.steps),
        curriculum=preset.curriculum if change.has_curriculum else Curriculum(),
        evaluation_episodes=options.episodes,
    )
    return make_plan(f"ablation-{name}", preset, algorithms=[change.algorithm], algorithm_options=change.options)


def row_of(name: str, plan: Plan, folder: Path) -> dict[str, str]:
    """Return what the finished runs of a change earned, and how long they took."""
    runs = [read_run(trial_folder(folder, trial)) for trial in plan.trials if is_finished(trial, folder)]
    row = {"change": name, "runs": str(len(runs))}
    for column, measure in {"return / optimum": "fraction_of_optimum", "success": "success"}.items():
        row[column] = interval_text(interval_over_runs([run.final[measure] for run in runs]), 3)
    return row | {"minutes": f"{sum(run.result['seconds'] for run in runs) / len(runs) / 60:.1f}"}


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=COVERAGE, default="standard", help="of `spnpolicy benchmark coverage`")
    parser.add_argument(
        "--only", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="CHANGE", help="which rows"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of every row")
    parser.add_argument("--steps", type=int, help="env steps per run (default: the preset's)")
    parser.add_argument("--episodes", type=int, default=1_000, help="final evaluation episodes per run")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="folder for the runs")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder for the table")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(read_options())
