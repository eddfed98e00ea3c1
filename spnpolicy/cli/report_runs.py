"""`spnpolicy report`: what some runs have shown, as text, tables, pictures and one page to share."""

import json
from pathlib import Path

from spnpolicy.cli.folders import first_free
from spnpolicy.cli.options import CommandLine, known_name
from spnpolicy.cli.report_flags import MEASURES
from spnpolicy.experiments.reports.csv_files import as_json
from spnpolicy.experiments.reports.folder import make_report, write_report_folder


def run(line: CommandLine) -> int:
    """Find out everything, write it, and print the text or JSON."""
    options = line.options
    if options.measure is not None:
        known_name("measure", options.measure, MEASURES)
    report = make_report(options.runs, measure=options.measure, include_unfinished=options.include_unfinished)
    folder: Path = options.out or first_free(Path("runs") / "report")
    files = write_report_folder(report, folder)
    if options.json:
        content = as_json(report.comparison, report.tasks) | {"files": [str(file) for file in files]}
        print(json.dumps(content, allow_nan=False))
    else:
        print(report.text)
        print(f"written to {folder}: {', '.join(file.name for file in files)}")
    return 0
