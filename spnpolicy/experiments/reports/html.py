"""A report as one web page that can be mailed: pictures inside, nothing loaded from elsewhere, no scripts."""

import base64
from collections.abc import Sequence
from html import escape

from spnpolicy.experiments.reports.cautions import Selection, cautions, provenance
from spnpolicy.experiments.reports.groups import Task, in_words
from spnpolicy.experiments.reports.numbers import Comparison, Numbers
from spnpolicy.experiments.reports.pictures import Picture
from spnpolicy.experiments.reports.words import explanations, headline, shared_settings, statements, table
from spnpolicy.experiments.statistics.tables import interval_text

_STYLE = """
:root { color-scheme: light dark; --ink: #22252c; --faint: #6b6f78; --paper: #fbfaf7; --line: #dedad0; --card: #f3f1ea }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --faint: #a5a8b0; --paper: #17191d; --line: #3a3d44; --card: #212429 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.2rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem }
p.note { color: var(--faint); margin: .2rem 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; min-width: 4rem }
th { color: var(--faint); font-weight: 600 }
td:first-child { font-weight: 600; overflow-wrap: anywhere; min-width: 8rem }
td.number { white-space: nowrap }
img { width: 100%; height: auto; border-radius: 8px; border: 1px solid var(--line); margin: .6rem 0 }
ul { padding-left: 1.2rem } summary { cursor: pointer; color: var(--faint) } li { margin: .25rem 0 }
.card { background: var(--card); border-radius: 8px; padding: .2rem 1.2rem .6rem; margin: 1.4rem 0 }
""".strip()
# A second line of defence behind escaping: the browser would refuse scripts and requests.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def report_html(
    comparison: Comparison, tasks: Sequence[Task], selection: Selection, pictures: Sequence[Picture]
) -> str:
    """Return the page; every text in it is escaped, because names and settings come from files."""
    kept = cautions(comparison, tasks, selection)
    body = [
        f"<h1>{escape(', '.join(_title_parts(comparison)))}</h1>",
        _note(headline(comparison, selection)),
        *([f'<div class="card"><h2>What to keep in mind</h2>{_bullets(kept)}</div>'] if kept else []),
    ]
    for task, numbers in zip(tasks, comparison.tasks, strict=True):
        notes = [_note(in_words(task.settings)), _note(f"Scores from {numbers.source}.")]
        body += [f"<h2>{escape(task.label)}</h2>", *notes, _numbers_part(numbers, comparison.measure, pictures)]
    if comparison.overall is not None:
        head = f"<h2>All {len(tasks)} tasks together</h2>"
        body += [head, _numbers_part(comparison.overall, comparison.measure, pictures)]
    settings = [f"{label}: {in_words(own)}" for label, own in shared_settings(tasks)]
    body += [
        "<h2>How to read this</h2>",
        _bullets(explanations(comparison)),
        "<h2>Settings</h2>",
        _bullets(settings),
        "<h2>Runs</h2>",
        _runs_part(tasks),
        "<h2>Made with</h2>",
        _bullets(provenance(selection.included)),
    ]
    return _page(", ".join(_title_parts(comparison)), "\n".join(body))


def _numbers_part(numbers: Numbers, measure: str, pictures: Sequence[Picture]) -> str:
    parts = [_table(table(numbers)), _bullets(statements(numbers, measure))]
    parts += [_picture(picture) for picture in pictures if picture.label == numbers.label]
    if numbers.pairs:
        rows = [["A", "B", "P(A > B)"]]
        rows += [[pair.first, pair.second, interval_text(pair.probability, 3)] for pair in numbers.pairs]
        parts.append(f"<details><summary>Probability of improvement in numbers</summary>{_table(rows)}</details>")
    return "\n".join(parts)


def _runs_part(tasks: Sequence[Task]) -> str:
    rows = [["run", "task", "algorithm", "seed", "env steps", "gradient updates", "samples", "seconds"]]
    for task in tasks:
        for label, group in task.groups.items():
            for run in group:
                seconds = run.result.get("seconds")
                counts = ["" if count is None else f"{count:,}" for count in (run.gradient_updates, run.samples)]
                costs = [f"{run.step:,}", *counts, f"{seconds:.0f}" if seconds else ""]
                rows.append([run.name, task.label, label, str(run.config.train.seed), *costs])
    return _table(rows)


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(picture.title)}" src="data:image/png;base64,{data}">'


def _title_parts(comparison: Comparison) -> list[str]:
    labels = [task.label for task in comparison.tasks]
    return labels if len(labels) <= 3 else [f"{len(labels)} tasks"]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in rows[0])
    lines = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table></div>'


def _cell(text: str) -> str:
    # Numbers with their intervals stay on one line; names may be long.
    return f'<td class="number">{escape(text)}</td>' if text[:1].isdecimal() else f"<td>{escape(text)}</td>"


def _bullets(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""
