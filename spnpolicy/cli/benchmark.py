"""`spnpolicy benchmark coverage`: the whole comparison with one command."""

from dataclasses import replace
from pathlib import Path

import torch

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.folders import first_free
from spnpolicy.cli.options import CommandLine, known_name
from spnpolicy.cli.sweep import execute
from spnpolicy.experiments.benchmarks.coverage import Presentation, present
from spnpolicy.experiments.presets import COVERAGE
from spnpolicy.experiments.sweeps.plan import Plan, make_plan


def run(line: CommandLine) -> int:
    """Run what is missing of the benchmark, report on it and list what was written."""
    options = line.options
    known_name("benchmark", options.benchmark, ["coverage"])
    plan = _plan(line)
    folder: Path = options.out or first_free(Path("runs") / plan.name)
    torch.set_num_threads(options.threads)
    return execute(plan, folder, options, lambda: _show(present(plan, folder)))


def _plan(line: CommandLine) -> Plan:
    options = line.options
    preset = COVERAGE[known_name("preset", options.preset, list(COVERAGE))]
    for name in options.algorithms or []:
        known_name("algorithm", name, list(ALGORITHMS))
    train = preset.train if options.steps is None else replace(preset.train, steps=options.steps)
    preset = replace(
        preset,
        train=train,
        seeds=options.seeds or preset.seeds,
        evaluation_episodes=options.episodes or preset.evaluation_episodes,
    )
    return make_plan(
        f"coverage-{options.preset}",
        preset,
        algorithms=options.algorithms,
        env_options=line.settings["env"],
        algorithm_options=line.settings["algorithm"],
    )


def _show(presentation: Presentation) -> None:
    print(f"\n{presentation.report}\n{presentation.answers}")
    width = max(map(len, presentation.files))
    print("written:")
    for what, path in presentation.files.items():
        print(f"  {what:{width}}  {path}")
