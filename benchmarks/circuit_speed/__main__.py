"""Time this project's circuits beside other engines on the same circuits, in one run.

    python -m benchmarks.circuit_speed                              # all of it: about 8 minutes
    python -m benchmarks.circuit_speed --sizes 6 20 --batches 256   # a part: about 1 minute
    python -m benchmarks.circuit_speed --engines circuits libcirkit --layers cp

The circuit is one random balanced binary region tree of depth floor(log2 n) over n variables of 6 values each, the same
tree for every engine. `cp` layers multiply the i-th nodes of two halves, `tucker` layers all pairs, and every region
sums over these products (16 and 10 nodes per region). Timed are: building; log-likelihood; forward and backward, the
gradient to the parameters; log-likelihood with every second variable summed out; sampling. Then the log-likelihood and
the gradient once more with weights of every state's own, which a policy needs: here one call, for peers a loop over the
states. Normalising the weights from logits is part of every call, for all engines.

Before an engine is timed it must pass a check: its probabilities sum to one, a variable summed out equals the sum over
its values, and the gradient is finite. An engine that fails, or cannot do something, is listed with the reason.

Each engine runs in a process of its own on one thread, in single precision; peers live in virtual environments that are
made on first use (about 1.2 GB each, kept below --environments). Rounds of all engines alternate, so that changes of
the machine's load meet all of them alike. Written are results.csv (processor and wall time in ms, median and minimum),
README.md with the tables, and two pictures.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.circuit_speed import report
from benchmarks.circuit_speed.engines import ENGINES, ready_python
from benchmarks.circuit_speed.process import Process, command_of
from benchmarks.circuit_speed.results import WORKS, Cell, Result, times, write_csv
from benchmarks.circuit_speed.task import UNITS, Task

COPIES = 8
"""Tensors of the size of all weights that a gradient to weights of every state's own may hold at a time."""
PATIENCE = 3.0
"""An engine whose rounds took this many times --seconds gets no further rounds of a cell."""


def at_least(lowest: float, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return an argument type that refuses smaller numbers."""

    def read(text: str) -> Any:
        value = kind(text)
        if not lowest <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is out of range; it must be at least {lowest}")
        return value

    read.__name__ = kind.__name__
    return read


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "circuit_speed"
    parser = argparse.ArgumentParser(
        "python -m benchmarks.circuit_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=at_least(4, int), nargs="+", default=[6, 20, 100, 500], help="numbers of variables, 4 or more")
    add("--batches", type=at_least(1, int), nargs="+", default=[1, 256, 1024], help="states in a batch")
    add("--layers", choices=list(UNITS), nargs="+", default=list(UNITS), help="kinds of layers")
    add("--engines", choices=list(ENGINES), nargs="+", default=list(ENGINES), help="engines to run")
    add("--works", choices=WORKS, nargs="+", default=list(WORKS), help="work to time; own_: weights per state")
    add("--repeats", type=at_least(1, int), default=5, help="rounds per cell, each through all engines (5)")
    add("--seconds", type=at_least(0.001, float), default=0.3, help="time per cell and engine, for all rounds (0.3)")
    add("--memory", type=at_least(0.5, float), default=8.0, help="GiB that an engine may allocate (8)")
    add("--limit", type=at_least(1, float), default=60.0, help="seconds after which a call is given up (60)")
    add("--environments", type=Path, default=cache, help=f"folder of the peers' environments ({cache})")
    add("--out", type=Path, default=Path("benchmarks/results/circuit_speed"), help="folder of the results")
    options = parser.parse_args(arguments)
    for name in ("sizes", "batches", "layers", "engines", "works"):
        setattr(options, name, list(dict.fromkeys(getattr(options, name))))
    options.sizes.sort()
    options.batches.sort()
    return options


@dataclass
class Run:
    """The processes, and what they have measured so far."""

    options: argparse.Namespace
    processes: dict[str, Process] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    bandwidth: float = 0.0

    def start(self) -> None:
        """Make the environments and start every engine; one that does not start is remembered with the reason."""
        for name in self.options.engines:
            print(f"preparing {name} ...", flush=True)
            try:
                python = ready_python(ENGINES[name], self.options.environments)
            except (RuntimeError, OSError) as error:
                self.missing[name] = str(error)
                continue
            command = command_of(ENGINES[name], python)
            process = Process(command, memory=self.options.memory, limit=self.options.limit)
            reply = process.ask("versions")
            if "error" in reply:
                self.missing[name] = reply["error"]
                continue
            self.processes[name] = process
            self.versions[name] = reply["versions"]
        for name, reason in self.missing.items():
            print(f"{name} is left out: {reason}")

    def measure_task(self, task: Task, cells: Sequence[Cell]) -> Iterator[list[Result]]:
        """Open a task in every engine and measure its cells, one after the other."""
        blanks = {name: self._blank(name, task) for name in self.options.engines}
        errors = dict(self.missing)
        for name, process in self.processes.items():
            reply = process.open(task.record())
            if "error" in reply:
                errors[name] = reply["error"]
            else:
                blanks[name] = replace(blanks[name], **reply)
        for process in self.processes.values():
            self.bandwidth = max(self.bandwidth, process.ask("bandwidth").get("bandwidth", 0.0))
            break
        for cell in cells:
            own = {name: replace(blank, work=cell.work, batch=cell.batch) for name, blank in blanks.items()}
            needed = COPIES * 4 * cell.batch * task.num_parameters / 2**30
            if cell.work == "own_gradient" and needed > self.options.memory:
                reason = f"skipped: about {needed:.0f} GiB of weights and gradients, limit {self.options.memory:g} GiB"
                found = [replace(result, error=reason) for result in own.values()]
            else:
                measured = self._measure(cell, [name for name in own if name not in errors])
                found = [
                    replace(result, **(measured.get(name) or {"error": errors.get(name, "")}))
                    for name, result in own.items()
                ]
            self.results += found
            yield found

    def _blank(self, name: str, task: Task) -> Result:
        versions = self.versions.get(name, {})
        version = next((text for package, text in versions.items() if package != "torch"), "")
        return Result(task.layer, task.size, "", 0, name, version, versions.get("torch", ""), 0, 0)

    def _measure(self, cell: Cell, engines: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the fields of each engine's result. Round by round through all engines, to share changes of load."""
        options = self.options
        found: dict[str, dict[str, Any]] = {}
        clocks: dict[str, tuple[list[float], list[float]]] = {}
        rows: dict[str, int] = {}
        for name in engines:
            reply = self.processes[name].ask("prepare", work=cell.work, batch=cell.batch, seconds=options.seconds / 2)
            if "error" in reply:
                found[name] = {"error": reply["error"]}
            else:
                clocks[name], rows[name] = ([], []), reply["rows"]
        for _ in range(options.repeats):
            for name, (cpu, wall) in list(clocks.items()):
                if len(wall) > 1 and sum(wall) > PATIENCE * options.seconds:
                    continue
                reply = self.processes[name].ask("time", seconds=options.seconds / options.repeats)
                if "error" in reply:
                    found[name] = {"error": reply["error"]}
                    del clocks[name]
                    continue
                cpu += reply["cpu"]
                wall += reply["wall"]
        for name, (cpu, wall) in clocks.items():
            found[name] = times(cpu, wall, cell.batch / rows[name]) | {"rows": rows[name]}
        return found

    def with_floor(self) -> list[Result]:
        """Return the results, with the floor where weights of every state's own get a gradient.

        Every logit is read forward and once more backward, and its gradient is written: no program does with less.
        """

        def floor(result: Result) -> float | None:
            if result.work != "own_gradient" or not self.bandwidth:
                return None
            task = Task.random(result.layer, result.size)
            return 1e3 * 3 * 4 * result.batch * task.num_parameters / (self.bandwidth * 1e9)

        return [replace(result, floor=floor(result)) for result in self.results]

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()


def plan(options: argparse.Namespace) -> list[tuple[Task, list[Cell]]]:
    """Return the tasks in the order of their size, each with its cells."""
    tasks = [Task.random(layer, size) for size in options.sizes for layer in options.layers]

    def cells(task: Task) -> list[Cell]:
        build = [Cell(task.layer, task.size, "build", 1)] if "build" in options.works else []
        works = [work for work in options.works if work != "build"]
        return build + [Cell(task.layer, task.size, work, batch) for batch in options.batches for work in works]

    return [(task, cells(task)) for task in tasks]


def weight(task: Task, cell: Cell) -> float:
    """Guess how long a cell takes compared with others: a fixed part, and one that grows with the work."""
    return 1.0 + task.num_edges * cell.batch / 2e7


def line_of(found: Sequence[Result]) -> str:
    """Say in a few words what each engine needed."""
    return ", ".join(f"{r.engine} {report.number(r.cpu_median) if r.cpu_median else 'no'}" for r in found) + " ms"


def measure_all(run: Run) -> None:
    """Measure everything, with a line of progress per cell."""
    tasks = plan(run.options)
    total = sum(weight(task, cell) for task, cells in tasks for cell in cells)
    count = sum(len(cells) for _, cells in tasks)
    done, index, start = 0.0, 0, time.monotonic()
    for task, cells in tasks:
        for cell, found in zip(cells, run.measure_task(task, cells), strict=True):
            done += weight(task, cell)
            index += 1
            left = (time.monotonic() - start) * (total - done) / done / 60
            what = f"{cell.layer} n={cell.size} batch={cell.batch} {cell.work}"
            print(f"[{index:>3}/{count}] {what}: {line_of(found)}; about {left:.0f} min left", flush=True)


def machine(bandwidth: float) -> str:
    """Describe the machine in a line."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores of which one is used, large copy {bandwidth:.0f} GB/s (read and written)"


def shown_command(arguments: Sequence[str]) -> str:
    """Return the command without the folders, which mean nothing on another machine."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument.startswith(("--environments", "--out")):
            skip = not skip and "=" not in argument
            continue
        kept.append(argument)
    return " ".join(["python -m benchmarks.circuit_speed", *kept])


def drawn(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return the work of which there is a picture, with its words."""
    words = {"gradient": "shared weights", "own_gradient": "weights of every state's own"}
    return [(work, text) for work, text in words.items() if any(r.work == work and r.cpu_median for r in results)]


def readme(run: Run, arguments: Sequence[str]) -> str:
    """Return the text of README.md."""
    options = run.options
    results = run.with_floor()
    rows = [
        [name, run.versions.get(name, {}).get("torch", "–"), _version(run, name), ENGINES[name].note]
        for name in options.engines
    ]
    ratios = sorted(r.wall_median / r.cpu_median for r in results if r.wall_median and r.cpu_median)
    middle = f"{ratios[len(ratios) // 2]:.2f}, {ratios[len(ratios) * 9 // 10]:.2f}" if ratios else "–, –"
    parts = [
        "# Speed of circuits beside other engines",
        f"    {shown_command(arguments)}",
        f"{machine(run.bandwidth)}; Python {platform.python_version()}, one thread, single precision.",
        report.table(["engine", "torch", "version", "what it is"], rows, align="---"),
        "Figures are milliseconds of processor time: the median, and the minimum in brackets. "
        f"Wall time over processor time was {middle} (median, 9th decile); both are in results.csv. "
        "`×r` behind a figure: a loop over r states was timed and scaled up to the batch, "
        "which favours the peer a little, since a short loop stays in the cache. "
        "A ratio in bold is below one: there a peer is faster. "
        "The floor of weights per state is the time to read all logits twice and to write their gradient once, "
        "at the bandwidth of the large copy.",
        report.summary_table(results),
        report.verdict(results),
        *(f"![Time against the number of variables, {words}]({work}.png)" for work, words in drawn(results)),
        "## Parameters and edges that each engine built\n\n"
        "An engine that pads its leaf regions has more parameters. Edges of peers are those of the common tree, "
        "with a product over each leaf region; ours are counted, without products over one variable.",
        report.structure_table(results, options.engines),
        report.sections(results, options.engines, options.layers),
    ]
    return "\n\n".join(parts) + "\n"


def _version(run: Run, name: str) -> str:
    if name in run.missing:
        return f"left out: {run.missing[name]}"
    return next((text for package, text in run.versions[name].items() if package != "torch"), "–")


def write(run: Run, arguments: Sequence[str]) -> None:
    """Write the results, the tables and the pictures."""
    from benchmarks.circuit_speed import plots

    folder: Path = run.options.out
    folder.mkdir(parents=True, exist_ok=True)
    results = run.with_floor()
    write_csv(results, folder / "results.csv")
    (folder / "README.md").write_text(readme(run, arguments), encoding="utf-8")
    engines = run.options.engines
    for work, words in drawn(results):
        title = f"Forward and backward, {words}: processor time, one thread"
        plots.draw(results, work, engines, title, folder / f"{work}.png")
    print(f"\n{report.verdict(results).splitlines()[0]}\nWritten: {folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; an interrupted run writes what it has."""
    arguments = sys.argv[1:] if arguments is None else arguments
    run = Run(read_options(arguments))
    stopped = False
    try:
        run.start()
        measure_all(run)
    except KeyboardInterrupt:
        stopped = True
        print("\ninterrupted; writing what has been measured")
    finally:
        run.close()
    if run.results:
        write(run, arguments)
    return 1 if stopped or not run.processes else 0


if __name__ == "__main__":
    sys.exit(main())
