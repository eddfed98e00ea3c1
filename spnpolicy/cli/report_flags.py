"""`spnpolicy report`: its flags and what its help teaches; light, because every help text loads it."""

from pathlib import Path

from spnpolicy.cli.command import Command
from spnpolicy.cli.flags import FOLDER, offer
from spnpolicy.cli.options import Parser

MEASURES = ("fraction_of_optimum", "return", "discounted_return", "success", "length")
"""Names for --measure: those of `spnpolicy.experiments.reports.runs.MEASURES`, which is slow to import."""

_SUMMARY = "Compare finished runs: tables with intervals, learning curves, one page to share."
_USAGE = "report RUN [RUN ...] [--measure NAME] [--out DIR] [flags]"
_EXAMPLES = (
    "report runs/vdn-coverage-seed0 runs/spn_ac-coverage-seed0",
    "report runs                     (all runs below this folder)",
    "report runs/coverage-quick --measure success --out runs/success",
)
_DESCRIPTION = """\
RUN is the folder of a run, or one that holds runs at any depth, such as that of a sweep or benchmark.

Runs with the same environment, options and discount are a task; runs with the same algorithm and settings, seed apart,
are averaged. The same seed twice is refused. Runs that are not finished are named and left out.

For each task: interquartile mean over runs with a 95 % bootstrap interval, mean, median, mean over training, and for
each pair of algorithms the probability that a run of one is better than a run of the other. Over several tasks the same
where scores are comparable: fractions of the optimum and success rates.

Written into a new folder: report.html (one page with everything, to share), report.txt, table.csv, improvement.csv,
curves.csv, runs.csv and the pictures."""


def _add_report(parser: Parser) -> None:
    runs = "run folders, or folders that hold some"
    offer(parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=runs), FOLDER)
    what = f"what to compare: {', '.join(MEASURES)} (default: the first that all runs have)"
    offer(parser.add_argument("--measure", metavar="NAME", help=what), MEASURES)
    parser.add_argument("--include-unfinished", action="store_true", help="count unfinished runs as they are now")
    out = "new folder (default: the first free runs/report)"
    offer(parser.add_argument("--out", type=Path, metavar="DIR", help=out), FOLDER)
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")


REPORT = Command("report", _SUMMARY, _USAGE, _DESCRIPTION, _EXAMPLES, _add_report, "spnpolicy.cli.report_runs")
