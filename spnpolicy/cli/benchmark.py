"""`spnpolicy benchmark coverage`: the whole comparison with one command."""

from dataclasses import replace
from pathlib import Path

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.checks import first_free
from spnpolicy.cli.command import FOLDER, SETTINGS, Command, offer
from spnpolicy.cli.options import CommandLine, Parser, known_algorithm, known_name, whole_number
from spnpolicy.cli.sweep import add_engine, execute
from spnpolicy.experiments.presets import COVERAGE


def _add_arguments(parser: Parser) -> None:
    offer(parser.add_argument("benchmark", metavar="BENCHMARK", help="coverage"), ["coverage"])
    preset = f"one of {', '.join(COVERAGE)} (default: quick)"
    offer(parser.add_argument("--preset", default="quick", metavar="NAME", help=preset), COVERAGE)
    algorithms = "which to compare (default: those of the preset)"
    offer(parser.add_argument("--algorithms", nargs="+", metavar="NAME", help=algorithms), ALGORITHMS)
    parser.add_argument(
        "--seeds", type=whole_number(1, 1_000), metavar="N", help="runs per algorithm (default: that of the preset)"
    )
    parser.add_argument(
        "--steps", type=whole_number(1), metavar="N", help="env steps per run (default: that of the preset)"
    )
    parser.add_argument(
        "--episodes",
        type=whole_number(1, 100_000),
        metavar="N",
        help="final evaluation episodes per run (default: 1000)",
    )
    out = "folder; one with the same benchmark is continued (default: the first free runs/coverage-PRESET)"
    offer(parser.add_argument("--out", type=Path, metavar="DIR", help=out), FOLDER)
    add_engine(parser)


def run(line: CommandLine) -> int:
    """Run what is missing of the benchmark, report on it and list what was written."""
    import torch

    from spnpolicy.cli.progress import PictureProgress
    from spnpolicy.experiments.benchmarks.coverage import present

    options = line.options
    known_name("benchmark", options.benchmark, ["coverage"])
    plan = _plan(line)
    folder: Path = options.out or first_free(Path("runs") / plan.name)
    torch.set_num_threads(options.threads)

    def results() -> str:
        with PictureProgress() as progress:
            return present(plan, folder, on_picture=progress)

    return execute(plan, folder, options, results)


def _plan(line: CommandLine):
    from spnpolicy.experiments.sweeps.plan import make_plan

    options = line.options
    preset = COVERAGE[known_name("preset", options.preset, list(COVERAGE))]
    for name in options.algorithms or []:
        known_algorithm(name)
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


COMMAND = Command(
    "benchmark",
    "Compare algorithms over several seeds: table, curves, animation, answers.",
    "benchmark coverage [--preset NAME] [flags]",
    "Runs go to worker processes, or to Ray. Interrupted, it continues with the same command and --out: what is\n"
    f"finished is not repeated, other runs go on from their checkpoints.\n{SETTINGS}",
    (
        "benchmark coverage",
        "benchmark coverage --preset standard --algorithms spn_ac vdn --seeds 5 --workers 8",
        "benchmark coverage --out runs/coverage-quick     (continue this one)",
    ),
    _add_arguments,
    run,
    takes_settings=True,
)
