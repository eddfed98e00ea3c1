"""Reports: what runs allow to conclude, as text, tables, pictures and one page."""

from spnpolicy.experiments.reports.folder import Report, make_report, write_report_folder
from spnpolicy.experiments.reports.runs import MEASURES, Run, read_run

__all__ = [
    "MEASURES",
    "Report",
    "Run",
    "make_report",
    "read_run",
    "write_report_folder",
]
