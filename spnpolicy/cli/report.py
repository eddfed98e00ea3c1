"""`spnpolicy report`: what some runs have shown, as text, tables, pictures and one page to share."""

import json
from pathlib import Path

from spnpolicy.cli.checks import first_free
from spnpolicy.cli.command import FOLDER, Command, add_json, offer
from spnpolicy.cli.options import CommandLine, Parser, known_name

GREEDY = ("fraction_of_optimum", "return", "discounted_return", "success", "length")
MEASURES = (*GREEDY, *(f"sampled_{name}" for name in GREEDY))
"""Names for --measure: those of `spnpolicy.experiments.reports.runs.MEASURES`, which is slow to import."""


def _add_arguments(parser: Parser) -> None:
    runs = "run folders, or folders that hold some"
    offer(parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=runs), FOLDER)
    what = (
        f"what to compare: {', '.join(GREEDY)}, or sampled_ before one of them (default: the first that all runs have)"
    )
    offer(parser.add_argument("--measure", metavar="NAME", help=what), MEASURES)
    parser.add_argument("--include-unfinished", action="store_true", help="count unfinished runs as they are now")
    out = "new folder (default: the first free runs/report)"
    offer(parser.add_argument("--out", type=Path, metavar="DIR", help=out), FOLDER)
    add_json(parser)


def run(line: CommandLine) -> int:
    """Find out everything, write it, and print the text or JSON."""
    from spnpolicy.cli.progress import PictureProgress
    from spnpolicy.experiments.reports.csv_files import as_json
    from spnpolicy.experiments.reports.folder import make_report, write_report_folder

    options = line.options
    if options.measure is not None:
        known_name("measure", options.measure, MEASURES)
    folder: Path = options.out or first_free(Path("runs") / "report")
    with PictureProgress() as progress:
        progress("reading and comparing runs", 0, None)
        report = make_report(options.runs, measure=options.measure, include_unfinished=options.include_unfinished)
        files = write_report_folder(report, folder, on_picture=progress)
    if options.json:
        content = as_json(report.comparison, report.tasks) | {"files": [str(file) for file in files]}
        print(json.dumps(content, allow_nan=False))
    else:
        print(report.text)
        print(f"written to {folder}: {', '.join(file.name for file in files)}")
    return 0


COMMAND = Command(
    "report",
    "Compare finished runs: tables with intervals, learning curves, one page to share.",
    "report RUN [RUN ...] [--measure NAME] [--out DIR] [flags]",
    """\
RUN is the folder of a run, or one that holds runs at any depth, such as that of a sweep or benchmark.

Runs with the same environment, options and discount are a task; runs with the same algorithm and settings, seed apart,
are averaged. The same seed twice is refused. Runs that are not finished are named and left out.

For each task: interquartile mean over runs with a 95 % bootstrap interval, mean, median, mean over training, and for
each pair of algorithms the probability that a run of one is better than a run of the other. Over several tasks the same
where scores are comparable: fractions of the optimum and success rates.

Written into a new folder: report.html (one page with everything, to share), report.txt, table.csv, improvement.csv,
curves.csv, runs.csv and the pictures.""",
    (
        "report runs/vdn-coverage-seed0 runs/spn_ac-coverage-seed0",
        "report runs                     (all runs below this folder)",
        "report runs/coverage-quick --measure success --out runs/success",
    ),
    _add_arguments,
    run,
)
