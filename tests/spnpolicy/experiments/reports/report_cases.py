"""Run folders with numbers of our choice, shared by the tests of reports."""

import json
from dataclasses import replace
from pathlib import Path

from spnpolicy.base.decoding import encode
from spnpolicy.training.config import Curriculum, RunConfig, TrainConfig

TRAIN = TrainConfig(steps=400, num_envs=8, replay_capacity=400, evaluate_every=200)
FACTS = {
    "num_agents": 3,
    "return_scale": "sum of rewards",
    "attempts": [
        {
            "versions": {"spnpolicy": "0.1.0", "torch": "2.15"},
            "commit": "abc123",
            "machine": {"system": "Linux", "processor": "a processor", "cores": 2},
            "device": "cpu",
            "threads": 1,
        }
    ],
}


def write_run(folder: Path, value=0.5, *, algorithm="vdn", env="coverage", options=None, env_options=None, seed=0,
              train=None, finished=True, normalised=True, history=None, facts=FACTS,
              curriculum=None, changes=()) -> Path:  # fmt: skip
    """Write a run that earned `value` at its last evaluation, and half of that half-way; return its folder."""
    folder.mkdir(parents=True)
    settings = replace(TRAIN, **{"seed": seed, **(train or {})})
    config = RunConfig(algorithm, env, options or {}, env_options or {"size": 5}, settings, curriculum or Curriculum())
    (folder / "config.json").write_text(json.dumps(encode(config)))
    steps = settings.steps
    points = history or [(0, 0.0), (steps // 2, value / 2), (steps, value)]
    lines = [json.dumps(evaluation(step, worth, normalised=normalised)) for step, worth in points]
    trained = [{"kind": "train", "step": 100}]
    if curriculum is not None:
        trained = [{"kind": "train", "step": step, "stage": stage} for stage, step in enumerate([*changes, steps], 1)]
    (folder / "metrics.jsonl").write_text("\n".join([*map(json.dumps, trained), *lines]) + "\n")
    if facts is not None:
        (folder / "run.json").write_text(json.dumps(facts))
    if finished:
        result = {"step": points[-1][0], "updates": 25, "faults": 0, "evaluation": {}, "seconds": 12.5}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def evaluation(step, worth, *, normalised=True):
    """Return a record of an evaluation whose measures are multiples of one number."""
    measures = {"return": worth * 10, "discounted_return": worth * 9, "length": 30 - worth, "success": worth / 2}
    fraction = {"fraction_of_optimum": worth} if normalised else {}
    counts = {"updates": step // 16, "gradient_updates": step // 16, "samples": 4 * step}
    return {"kind": "evaluation", "step": step, **counts, **measures, **fraction, "seconds": 1.0}


def write_runs(folder: Path, values, **options) -> list[Path]:
    """Write one run for each value, with seeds 0, 1, 2, ...; names begin with the folder's."""
    return [
        write_run(folder.with_name(f"{folder.name}-seed{seed}"), value, seed=seed, **options)
        for seed, value in enumerate(values)
    ]


def write_evaluation(folder: Path, fractions) -> None:
    """Write the final evaluation of a run: episodes with these fractions of the optimum."""
    rows = [f"{index},{value},{7},1,{value}" for index, value in enumerate(fractions)]
    header = "layout,discounted_return,length,success,fraction_of_optimum"
    (folder / "evaluation.csv").write_text("\n".join([header, *rows]) + "\n")
