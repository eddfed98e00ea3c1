"""The report: README.md with the acceptance lines and the tables."""

import argparse
import datetime
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.elbo.methods import methods
from benchmarks.elbo.results import Row
from benchmarks.elbo.verdict import OURS, acceptance, by_model, closer_estimates, counts, ours

TITLES = {"ising": "Ising grids", "uai": "UAI models, evidence applied"}
OVERRUN = 1.25
SHORT = {
    "structured_mean_field": "structured MF",
    "mean_field": "MF",
    "published, annealed": "annealed",
    "loopy_bp": "loopy BP (error)",
    "tree_reweighted": "tree-reweighted (above)",
    "mini_bucket": "mini-bucket (above)",
}


def number(gap: float | None) -> str:
    """Return a gap for a table: 0 up to rounding, otherwise about three digits."""
    if gap is None:
        return "?"
    if math.isinf(gap):
        return "∞"
    if abs(gap) < 1e-9:
        return "0"
    if abs(gap) < 0.001:
        return f"{gap:.1e}"
    return f"{gap:.3f}" if abs(gap) < 100 else f"{gap:,.1f}"


def cell(row: Row | None, *, bold: bool, mark: str = "") -> str:
    """Return the gap of a row, or that it failed."""
    if row is None:
        return "–"
    if not row.is_usable:
        return "**error**" if "VIOLATION" in row.error else "fails"
    # Without log Z the bound itself is all there is.
    text = number(row.gap) if row.gap is not None else f"({row.value:.4f})"
    return f"**{text}**{mark}" if bold else f"{text}{mark}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table; the first column is aligned left, the others right."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def names_of(rows: Sequence[Row], kinds: Sequence[str]) -> list[str]:
    """Return the methods of some kinds, in the order of the list of methods."""
    found = {row.method for row in rows if row.kind in kinds}
    labels = sorted(int(name.split()[1]) for name in found if name.startswith("keep_set"))
    return [name for name in methods(labels) if name in found]


def gap_table(rows: Sequence[Row]) -> str:
    """Return the gaps of all methods; the best lower bounds of a model are bold."""
    lower, others = names_of(rows, ("lower",)), names_of(rows, ("estimate", "upper"))
    models = by_model(rows)
    closer = set(closer_estimates(models))
    lines = []
    for name, found in models.items():
        any_row = next(iter(found.values()))
        usable = [row.value for row in found.values() if row.kind == "lower" and row.is_usable]
        best = max((value for value in usable if value is not None), default=math.nan)
        own = ours(found)
        line = [name, str(any_row.variables), "?" if any_row.log_z is None else f"{any_row.log_z:.3f}"]
        line.append(f"{cell(own, bold=False)} ({own.method})" if own else "fails")
        for method in lower:
            row = found.get(method)
            is_best = row is not None and row.is_usable and row.value is not None and best - row.value < 1e-9
            line.append(cell(row, bold=is_best))
        for method in others:
            mark = "†" if method == "loopy_bp" and name in closer else ""
            line.append(cell(found.get(method), bold=False, mark=mark))
        lines.append(line)
    return table(["model", "n", "log Z", OURS, *(SHORT.get(name, name) for name in [*lower, *others])], lines)


def time_table(rows: Sequence[Row]) -> str:
    """Return the seconds of all methods, and the weights of those that have a circuit."""
    names = names_of(rows, ("exact", "lower", "estimate", "upper"))
    lines = []
    for model, found in by_model(rows).items():
        line = [model, f"{next(iter(found.values())).most_parameters:,}"]
        for name in names:
            row = found.get(name)
            weights = f" / {row.parameters:,}" if row and row.parameters else ""
            line.append("–" if row is None else "fails" if row.value is None else f"{row.seconds:.1f}{weights}")
        lines.append(line)
    return table(["model", "published weights", *(SHORT.get(name, name).split(" (")[0] for name in names)], lines)


def count_table(rows: Sequence[Row]) -> str:
    """Return on how many models the method of the row is at least as tight as that of the column."""
    names, models = [OURS, *names_of(rows, ("lower",))], by_model(rows)
    lines = []
    for first in names:
        cells = []
        for second in names:
            won, both = counts(models, first, second)
            cells.append("" if first == second else f"{won} of {both}")
        lines.append([first, *cells])
    return table(["at least as tight as", *names], lines)


def failures(rows: Sequence[Row]) -> str:
    """Return the list of what failed and why."""
    lines = [f"- {row.model}, {row.method}: {row.error}" for row in rows if row.error]
    return "\n".join(lines) or "None."


def over_budget(rows: Sequence[Row]) -> str:
    """Return the list of what took far longer than it was given, which flatters it."""
    timed = [row for row in rows if row.method not in ("elimination", "clique_tree")]
    late = [row for row in timed if row.seconds > OVERRUN * row.budget]
    return "\n".join(f"- {row.model}, {row.method}: {row.seconds:.1f} s" for row in late) or "None."


def weights_table(rows: Sequence[Row]) -> str:
    """Return the gap against the number of weights."""
    lines = [
        [row.model, row.method, f"{row.parameters:,}" if row.parameters else "–", cell(row, bold=False),
         f"{row.seconds:.1f}"]
        for row in rows
    ]  # fmt: skip
    return table(["model", "method and labels or copies", "weights", "gap", "seconds"], lines)


def machine() -> str:
    """Return the processor's model and count."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, one used"


def group_section(group: str, rows: Sequence[Row]) -> list[str]:
    """Return the tables of one set of models."""
    models = by_model(rows)
    closer, tried = closer_estimates(models), sum("loopy_bp" in found for found in models.values())
    return [
        f"## {TITLES[group]}",
        "Gap to log Z in nats: log Z minus a lower bound (the best are bold), value minus log Z for an estimate and "
        "for upper bounds. `ours` is the best of our circuits, with its name (a clique tree may have up to 2^20 "
        "weights); ∞ is a bound of -inf; a value in brackets is the bound itself, where log Z is unknown; † marks an "
        "estimate that errs by less than our bound.",
        gap_table(rows),
        f"Loopy belief propagation is closer than our bound on {len(closer)} of {tried} models"
        + (f": {', '.join(closer)}." if closer else "."),
        "On how many models the bound of the row is at least as tight as that of the column (relative tolerance 1e-9; "
        "a method that fails counts as -inf):",
        count_table(rows),
        "Seconds, and weights of circuits. Circuits are cached by graph: of grids of one size the first pays for all.",
        time_table(rows),
        f"Methods that took more than {OVERRUN:g} times their budget, choosing a structure included (elimination and "
        "clique trees have no budget):",
        over_budget(rows),
        "What failed:",
        failures(rows),
    ]


def write_report(rows: Mapping[str, Sequence[Row]], options: argparse.Namespace) -> str:
    """Write README.md; returns its acceptance lines."""
    verdict = "\n".join(
        f"- {line.mark}: {line.text}" + (f" ({line.details})." if line.details else ".") for line in acceptance(rows)
    )
    parts = [
        "# Lower bounds of log Z under one time budget",
        f"`{options.command.strip()}`; {options.seconds:g} s per method and model, seed {options.seed}, float64; "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}; {machine()}; "
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}.",
        verdict,
        "Where `elimination` has a time in the tables below, exact inference fits and no bound is needed; bounds are "
        "compared there because log Z tells how good they are.",
        "![gap of every model](gap_overview.png)",
    ]
    for group in TITLES:
        parts += group_section(group, rows[group]) if rows[group] else []
    parts += ["## Gap against time", "![gap against time](gap_against_time.png)"]
    if rows["weights"]:
        sizes = "`keep_set` without a limit on the weights; `published` with the annealed random start."
        parts += ["## Gap against weights", "![gap against weights](gap_against_weights.png)", sizes]
        parts += [weights_table(rows["weights"]), "What failed:", failures(rows["weights"])]
    known = methods(options.labels)
    parts += ["## Methods", "\n".join(f"- {name} ({m.kind}): {m.text}" for name, m in known.items())]
    options.output.joinpath("README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return verdict
