"""Lower bounds of log Z side by side, each method under the same time budget, on models whose log Z is known.

    python -m benchmarks.elbo                       # all models, 30 s per method and model: hours on one core
    python -m benchmarks.elbo --set ising --sizes 8 --strengths 2
    python -m benchmarks.elbo --quick               # a look: few models, 5 s each

Ising grids (benchmarks.elbo.ising) and the models of benchmarks/uai_models, evidence applied. Ours are circuits fitted
to the factors (`factor_q.fit_structure`) with at most as many weights as the published construction, and clique trees
where they fit; beside them the published construction, mean field, structured mean field, an estimate (loopy belief
propagation) and two upper bounds. One process, one thread, float64. A lower bound above log Z + 1e-9 is an error.

Written to --output after every method: elbo_ising.csv, elbo_uai.csv, curves.csv, weights.csv; at the end README.md and
three pictures. What stands there for the same --seconds and --seed is not measured again; another budget starts afresh.
"""

import argparse
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.elbo.methods import Method, Outcome, Problem, methods, sweep_methods
from benchmarks.elbo.models import QUICK_UAI, Model, ising_models, uai_models
from benchmarks.elbo.plots import draw_all
from benchmarks.elbo.report import write_report
from benchmarks.elbo.results import Point, Row, Table, thinned, violation

RESULTS = Path(__file__).parents[1] / "results"
SWEEPS = ("ising 8x8 s=2", "ising 16x16 s=1")
"""Models on which the gap is measured against the number of weights."""


class GivenUpError(Exception):
    """A method took far longer than its budget."""


@contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Raise GivenUpError in the body after so many seconds of processor time; 0 is no limit."""

    def give_up(*_: object) -> None:
        raise GivenUpError(f"given up after {seconds:g} s of processor time")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@dataclass
class Files:
    """The tables of the output folder."""

    rows: dict[str, Table]
    """By group: ising, uai and weights."""
    curves: Table

    @classmethod
    def open(cls, folder: Path, options: argparse.Namespace) -> "Files":
        """Read what stands there, and forget what was measured under another budget or seed."""
        folder.mkdir(parents=True, exist_ok=True)
        names = {"ising": "elbo_ising.csv", "uai": "elbo_uai.csv", "weights": "weights.csv"}
        files = cls(
            {group: Table(folder / name, Row) for group, name in names.items()}, Table(folder / "curves.csv", Point)
        )
        for table in files.rows.values():
            table.keep(r for r in table.records if (r.budget, r.seed) == (options.seconds, options.seed))
        kept = {row.key for group in ("ising", "uai") for row in files.rows[group].records}
        files.curves.keep(point for point in files.curves.records if (point.model, point.method) in kept)
        return files


@dataclass
class Clock:
    """How many runs are left, and how long they may take."""

    left: int
    done: int = 0
    spent: float = 0.0

    def tick(self, seconds: float) -> str:
        """Count a run; returns the time left, as if the others took as long as those so far."""
        self.left, self.done, self.spent = self.left - 1, self.done + 1, self.spent + seconds
        minutes = self.left * self.spent / self.done / 60
        return f"[{self.left} left, about {minutes:.0f} min]"


def attempt(method: Method, problem: Problem, limit: float) -> tuple[Outcome | None, str, float]:
    """Return what the method found, or why it found nothing, and the seconds."""
    begin = time.perf_counter()
    outcome, error = None, ""
    try:
        with processor_limit(limit):
            outcome = method.run(problem)
    except Exception as problem_found:  # noqa: BLE001 - every failure is a row of the table
        # Advice follows on further lines.
        error = f"{type(problem_found).__name__}: {' '.join(str(problem_found).splitlines()[:1])}"
        if type(problem_found).__name__ not in ("NotTractableError", "GivenUpError"):
            traceback.print_exc()
    return outcome, error, time.perf_counter() - begin


def measure(
    model: Model, names: Iterable[str], table: Table, files: Files, options: argparse.Namespace
) -> Iterator[Row]:
    """Run the methods that the table lacks, write each row as it comes, and yield it."""
    known = sweep_methods() if table is files.rows["weights"] else methods(options.labels)
    have = {row.method: row for row in table.records if row.model == model.name}
    missing = [name for name in names if name not in have]
    if not missing:
        return
    problem = Problem(model.load(), options.seconds, options.seed)
    log_z = model.log_z
    if log_z is None:
        done = [row for row in files.rows[model.group].records if row.key == (model.name, "elimination")]
        log_z = done[0].value if done else None
    for name in missing:
        row, curve = _row(model, problem, log_z, name, known[name], options)
        if name == "elimination" and log_z is None:
            log_z = row.value
            row = replace(row, log_z=log_z)
        if table is not files.rows["weights"]:
            points = [Point(model.name, name, t, v, None if log_z is None else log_z - v) for t, v in thinned(curve)]
            files.curves.add(points)
        table.add([row])
        yield row


def _row(
    model: Model, problem: Problem, log_z: float | None, name: str, method: Method, options: argparse.Namespace
) -> tuple[Row, list[tuple[float, float]]]:
    outcome, error, seconds = attempt(method, problem, options.limit)
    graph, most = problem.factors.graph, problem.most_parameters
    row = Row(
        model.group,
        model.name,
        graph.num_variables,
        graph.num_factors,
        log_z,
        name,
        method.kind,
        options.seconds,
        options.seed,
        seconds=seconds,
        most_parameters=most,
        error=error,
    )
    if outcome is None:
        return row, []
    row = replace(row, value=outcome.value, parameters=outcome.parameters, steps=outcome.steps, note=outcome.note)
    return replace(row, error=violation(row)), outcome.curve or []


def line_of(row: Row) -> str:
    """Return what is printed about a row."""
    found = row.error[:120] or (f"gap {row.gap:.6g}" if row.gap is not None else f"value {row.value:.6g}")
    weights = f", {row.parameters:,} weights" if row.parameters else ""
    return f"{row.model:<24} {row.method:<22} {found}{weights}, {row.seconds:.1f} s"


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.elbo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--set", choices=("ising", "uai", "all"), default="all", help="which models")
    add("--sizes", type=int, nargs="+", default=[4, 6, 8, 10, 12, 16], help="rows, and as many columns, of Ising grids")
    add("--strengths", type=float, nargs="+", default=[1.0, 2.0, 6.0, 14.0], help="couplings lie in (-s, s)")
    add("--seeds", type=int, nargs="+", default=[1], help="of the couplings")
    add("--models", nargs="+", help="only models whose names contain one of these")
    add("--labels", type=int, nargs="+", default=[32], help="of our circuits; each is a method")
    add("--methods", nargs="+", help="only methods whose names begin with one of these; elimination is always run")
    add("--no-sweep", action="store_true", help="leave out the gap against the number of weights")
    add("--seconds", type=float, default=None, help="budget per method and model (30; with --quick 5)")
    add("--limit", type=float, help="processor seconds after which a method is given up (4 budgets and a minute)")
    add("--memory", type=float, default=12.0, help="GiB that the process may allocate; 0: no limit (12)")
    add("--seed", type=int, default=0, help="of the methods' random starts")
    add("--quick", action="store_true", help="grids of 4 and 8, a few UAI models, 5 s; into results/elbo_quick")
    add("--output", type=Path, help="folder of the results (benchmarks/results/elbo)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes = [4, 8]
    if options.seconds is None:
        options.seconds = 5.0 if options.quick else 30.0
    options.limit = 4 * options.seconds + 60 if options.limit is None else options.limit
    options.output = options.output or RESULTS / ("elbo_quick" if options.quick else "elbo")
    if options.seconds <= 0 or min(options.labels) < 1 or min(options.sizes) < 1:
        parser.error("--seconds must be positive, --labels and --sizes at least 1.")
    options.command = "python -m benchmarks.elbo " + " ".join(sys.argv[1:] if arguments is None else arguments)
    return options


def chosen_models(options: argparse.Namespace) -> list[Model]:
    """Return the models that the options name."""
    found = list(ising_models(options.sizes, options.strengths, options.seeds)) if options.set != "uai" else []
    if options.set != "ising":
        found += [m for m in uai_models() if not options.quick or m.name in QUICK_UAI]
    return [m for m in found if not options.models or any(part in m.name for part in options.models)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the report."""
    options = read_options(arguments)
    torch.set_num_threads(1)
    if options.memory:
        most = int(options.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    files = Files.open(options.output, options)
    names = [
        n
        for n in methods(options.labels)
        if not options.methods or n == "elimination" or n.startswith(tuple(options.methods))
    ]
    models = chosen_models(options)
    work = [(model, names, files.rows[model.group]) for model in models]
    if not options.no_sweep:
        work += [(model, list(sweep_methods()), files.rows["weights"]) for model in models if model.name in SWEEPS]
    have = {(id(table), *row.key) for table in files.rows.values() for row in table.records}
    clock = Clock(sum((id(table), model.name, name) not in have for model, own, table in work for name in own))
    for model, own, table in work:
        for row in measure(model, own, table, files, options):
            print(f"{line_of(row)}  {clock.tick(row.seconds)}", flush=True)
    rows = {group: table.records for group, table in files.rows.items()}
    draw_all(rows, files.curves.records, options.output)
    print(write_report(rows, options))


if __name__ == "__main__":
    main()
