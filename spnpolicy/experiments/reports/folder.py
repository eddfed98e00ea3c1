"""From run folders to the folder of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from circuits.files import replace_file
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.files import make_new_folder
from spnpolicy.experiments.media.animation import OnPicture, untold
from spnpolicy.experiments.reports.cautions import Selection
from spnpolicy.experiments.reports.csv_files import curves_csv, improvement_csv, runs_csv, table_csv
from spnpolicy.experiments.reports.groups import Task, group_runs
from spnpolicy.experiments.reports.html import report_html
from spnpolicy.experiments.reports.numbers import Comparison, choose_measure, compare
from spnpolicy.experiments.reports.pictures import draw_pictures
from spnpolicy.experiments.reports.runs import find_runs, missing_trials, read_runs
from spnpolicy.experiments.reports.words import report_text


@dataclass(frozen=True)
class Report:
    """A report before it is written."""

    comparison: Comparison
    tasks: list[Task]
    selection: Selection
    text: str


def make_report(paths: Sequence[Path], *, measure: str | None = None, include_unfinished: bool = False) -> Report:
    """Read runs and compute everything about them.

    Args:
        paths: run folders, or folders that hold some at any depth, such as that of a sweep.
        measure: one of `MEASURES`; None for the first that all runs have.
        include_unfinished: count runs that have not reached their end with their last evaluation so far.

    Raises:
        ConfigError: no run, none finished, a damaged one, the same seed twice, or no common measure.
    """
    folders = find_runs(paths)
    runs = read_runs(folders)
    unfinished = [run for run in runs if not run.is_finished]
    # What was never evaluated has no score, wanted or not.
    included = [run for run in runs if run.is_finished or (include_unfinished and run.histories)]
    if not included:
        first = f"{unfinished[0].name} is at step {unfinished[0].step:,} of {unfinished[0].config.train.steps:,}"
        raise ConfigError(
            f"none of {len(runs)} runs is finished ({first}): wait, or let them count as they are with "
            "--include-unfinished."
        )
    tasks = group_runs(included)
    comparison = compare(tasks, choose_measure(included, measure))
    selection = Selection(included, unfinished, include_unfinished, missing_trials(paths, folders))
    return Report(comparison, tasks, selection, report_text(comparison, tasks, selection))


def write_report_folder(report: Report, folder: Path, *, on_picture: OnPicture = untold) -> list[Path]:
    """Write a report into a new folder; return its files, the most useful one first.

    Raises:
        ConfigError: something is there already.
    """
    make_new_folder(folder)
    pictures = draw_pictures(report.comparison, folder, on_picture)
    texts = {
        "report.html": report_html(report.comparison, report.tasks, report.selection, pictures),
        "report.txt": report.text,
        "table.csv": table_csv(report.comparison),
        "improvement.csv": improvement_csv(report.comparison),
        "curves.csv": curves_csv(report.comparison),
        "runs.csv": runs_csv(report.tasks),
    }
    for name, text in texts.items():
        replace_file(folder / name, text.encode("utf-8", "replace"))
    return [*(folder / name for name in texts), *(picture.path for picture in pictures)]
