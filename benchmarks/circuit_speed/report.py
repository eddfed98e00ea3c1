"""Write the measured cells as markdown tables."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.circuit_speed.engines import ENGINES
from benchmarks.circuit_speed.results import WORKS, Cell, Result

TITLES = {
    "build": "Build",
    "log_prob": "Log-likelihood",
    "gradient": "Forward and backward: gradient to the parameters",
    "marginal": "Log-likelihood with every second variable summed out",
    "sample": "Sampling: as many draws as the batch",
    "own_log_prob": "Weights of every state's own: log-likelihood",
    "own_gradient": "Weights of every state's own: forward and backward, gradient to all of them",
}

SHORT = {
    "build": "build",
    "log_prob": "log-likelihood",
    "gradient": "forward and backward",
    "marginal": "half summed out",
    "sample": "sampling",
    "own_log_prob": "weights per state, log-likelihood",
    "own_gradient": "weights per state, forward and backward",
}


@dataclass
class Notes:
    """Footnotes: equal reasons share a number, and so do messages that differ only in the sizes they quote."""

    texts: list[str]

    def mark(self, text: str) -> str:
        """Return the mark of a reason."""
        keys = [_without_sizes(other) for other in self.texts]
        if _without_sizes(text) not in keys:
            self.texts.append(text)
            keys.append(_without_sizes(text))
        return f"[{keys.index(_without_sizes(text)) + 1}]"


def _without_sizes(text: str) -> str:
    return re.sub(r"\d+", "#", text) if text.startswith("RuntimeError") else text


def number(value: float) -> str:
    """Return two or three digits of a positive number."""
    if value < 0.01:
        return f"{value:.1g}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def by_cell(results: Iterable[Result]) -> dict[Cell, dict[str, Result]]:
    """Return the results of each cell by engine."""
    cells: dict[Cell, dict[str, Result]] = {}
    for result in results:
        cells.setdefault(result.cell, {})[result.engine] = result
    return cells


def fastest(results: Iterable[Result], *, ours: bool) -> Result | None:
    """Return the fastest of our engines, or of the peers, by the median of processor time."""
    timed = [r for r in results if r.cpu_median is not None and ENGINES[r.engine].is_ours == ours]
    return min(timed, key=lambda r: r.cpu_median or 0.0, default=None)


def peer_ratio(results: Iterable[Result]) -> float | None:
    """Return the fastest peer's time over ours; below one a peer is faster."""
    results = list(results)
    ours, peer = fastest(results, ours=True), fastest(results, ours=False)
    if ours is None or peer is None or not ours.cpu_median:
        return None
    return (peer.cpu_median or 0.0) / ours.cpu_median


def ratio_text(ratio: float | None) -> str:
    """Return a ratio for a table; a lost cell is bold."""
    if ratio is None:
        return "–"
    return number(ratio) if ratio >= 1 else f"**{ratio:.2f}**"


def entry(result: Result | None, notes: Notes) -> str:
    """Return median and minimum, or the footnote that says why there is none."""
    if result is None:
        return "–"
    if result.cpu_median is None or result.cpu_min is None:
        return f"no {notes.mark(result.error)}"
    scaled = f" ×{result.rows}" if result.is_scaled else ""
    wrong = f" {notes.mark(result.caveat)}" if result.caveat else ""
    return f"{number(result.cpu_median)} ({number(result.cpu_min)}){scaled}{wrong}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "--:") -> str:
    """Return a markdown table; the first column is aligned left, the others as told."""
    lines = [header, ["---"] + [align] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def work_table(results: Sequence[Result], layer: str, work: str, engines: Sequence[str]) -> str:
    """Return the table of one piece of work with one kind of layer, with its footnotes."""
    notes = Notes([])
    has_floor = work == "own_gradient"
    header = ["n", *(["batch"] if work != "build" else []), *engines, "fastest peer / ours"]
    rows: list[list[str]] = []
    for cell, found in by_cell(r for r in results if (r.layer, r.work) == (layer, work)).items():
        row = [str(cell.size), *([str(cell.batch)] if work != "build" else [])]
        row += [entry(found.get(name), notes) for name in engines]
        row.append(ratio_text(peer_ratio(found.values())))
        if has_floor:
            ours = fastest(found.values(), ours=True)
            ratio = ours.ratio_to_floor if ours else None
            row += [number(ours.floor) if ours and ours.floor else "–", number(ratio) if ratio else "–"]
        rows.append(row)
    header += ["floor", "ours / floor"] if has_floor else []
    marks = [f"[{i}] {text}" for i, text in enumerate(notes.texts, start=1)]
    return "\n\n".join([table(header, rows), *marks])


def structure_table(results: Sequence[Result], engines: Sequence[str]) -> str:
    """Return the parameters and edges that every engine built."""
    built: dict[tuple[str, int], dict[str, str]] = {}
    for r in results:
        text = f"{r.parameters:,} / {r.edges:,}" if r.parameters else "–"
        built.setdefault((r.layer, r.size), {})[r.engine] = text
    rows = [[layer, str(size), *(own.get(e, "–") for e in engines)] for (layer, size), own in built.items()]
    return table(["layer", "n", *engines], rows)


def verdict(results: Sequence[Result]) -> str:
    """Say in how many cells a peer is faster, and list them all, worst first."""
    compared = [(cell, found, peer_ratio(found.values())) for cell, found in by_cell(results).items()]
    ratios = [(ratio, cell, found) for cell, found, ratio in compared if ratio is not None]
    if not ratios:
        return "No cell has both a figure of ours and one of a peer."
    lost = sorted((item for item in ratios if item[0] < 1), key=lambda item: item[0])
    middle = statistics.median(item[0] for item in ratios)
    text = (
        f"Of {len(ratios)} cells that we and some peer can do, a peer is faster in {len(lost)}; "
        f"the fastest peer takes {number(middle)} times our time at the median."
    )
    rows: list[list[str]] = []
    for ratio, cell, found in lost:
        peer, ours = fastest(found.values(), ours=False), fastest(found.values(), ours=True)
        assert peer is not None
        assert ours is not None
        milliseconds = [number(r.cpu_median or 0.0) for r in (ours, peer)]
        rows.append(
            [
                f"{SHORT[cell.work]}, {cell.layer}",
                str(cell.size),
                str(cell.batch),
                *milliseconds,
                peer.engine,
                f"{ratio:.2f}",
            ]
        )
    if not rows:
        return text
    return text + "\n\n" + table(["where a peer is faster", "n", "batch", "ours", "peer", "name", "peer / ours"], rows)


def summary_table(results: Sequence[Result]) -> str:
    """Return the median ratio of each work and batch, and in how many cells of how many a peer is faster."""
    ratios: dict[tuple[str, int], list[float]] = {}
    for cell, found in by_cell(results).items():
        if (ratio := peer_ratio(found.values())) is not None:
            ratios.setdefault((cell.work, cell.batch), []).append(ratio)
    batches = sorted({batch for _, batch in ratios})

    def text(work: str, batch: int) -> str:
        found = ratios.get((work, batch))
        return f"{ratio_text(statistics.median(found))} ({sum(r < 1 for r in found)} of {len(found)})" if found else "–"

    works = [work for work in WORKS if any(work == other for other, _ in ratios)]
    return table(
        ["fastest peer / ours, median (lost)", *(f"batch {batch}" for batch in batches)],
        [[SHORT[work], *(text(work, batch) for batch in batches)] for work in works],
    )


def sections(results: Sequence[Result], engines: Sequence[str], layers: Sequence[str]) -> str:
    """Return the tables of all work."""
    parts: list[str] = []
    for work in WORKS:
        if any(r.work == work for r in results):
            parts.append(f"## {TITLES[work]}")
            for layer in layers:
                parts.append(f"`{layer}` layers\n\n{work_table(results, layer, work, engines)}")
    return "\n\n".join(parts)
