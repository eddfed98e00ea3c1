"""One measured cell, and the file of all of them."""

import csv
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

WORKS = ("build", "log_prob", "gradient", "marginal", "sample", "own_log_prob", "own_gradient")
"""`own_` means weights of every state's own; the rest share one set of weights. `build` has no batch."""


@dataclass(frozen=True)
class Cell:
    """What is measured: one piece of work at one size."""

    layer: str
    size: int
    work: str
    batch: int


@dataclass(frozen=True)
class Result:
    """What one engine needed for one cell, in milliseconds, or why there is no figure."""

    layer: str
    size: int
    work: str
    batch: int
    engine: str
    version: str
    torch: str
    parameters: int
    edges: int
    cpu_median: float | None = None
    cpu_min: float | None = None
    wall_median: float | None = None
    wall_min: float | None = None
    calls: int = 0
    rows: int = 0
    """Rows of the batch that were timed; with fewer than the batch, the times are scaled up to it."""
    floor: float | None = None
    error: str = ""
    caveat: str = ""
    """What is wrong with the engine's answers, although it was timed."""

    @property
    def cell(self) -> Cell:
        """The cell that this belongs to."""
        return Cell(self.layer, self.size, self.work, self.batch)

    @property
    def is_scaled(self) -> bool:
        """Whether a part of the batch stands for all of it."""
        return bool(self.rows) and self.rows < self.batch

    @property
    def ratio_to_floor(self) -> float | None:
        """How many times the floor it took."""
        return None if self.floor is None or self.cpu_median is None else self.cpu_median / self.floor


def times(cpu: list[float], wall: list[float], scale: float) -> dict[str, Any]:
    """Return the time fields of a result from seconds per call."""
    return {
        "cpu_median": 1e3 * scale * statistics.median(cpu),
        "cpu_min": 1e3 * scale * min(cpu),
        "wall_median": 1e3 * scale * statistics.median(wall),
        "wall_min": 1e3 * scale * min(wall),
        "calls": len(cpu),
    }


def write_csv(results: Iterable[Result], path: Path) -> None:
    """Write one row per engine and cell; times are in milliseconds."""
    names = [field.name for field in fields(Result)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*names, "ratio_to_floor"])
        writer.writeheader()
        for result in results:
            record = asdict(result) | {"ratio_to_floor": result.ratio_to_floor}
            writer.writerow({name: _text(value) for name, value in record.items()})


def _text(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
