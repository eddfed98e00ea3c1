"""What the measured rows say: the best of our bounds, who is at least as tight as whom, and the acceptance lines."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.elbo.results import TOLERANCE, Row

OURS = "ours"
RIVALS = ("mean_field", "structured_mean_field")
PUBLISHED = ("published", "published, annealed")


@dataclass(frozen=True)
class Line:
    """One acceptance line; `passed` is None when nothing was measured for it."""

    text: str
    passed: bool | None
    details: str

    @property
    def mark(self) -> str:
        """PASS, FAIL or NOT RUN."""
        return "NOT RUN" if self.passed is None else "PASS" if self.passed else "FAIL"


def by_model(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Return the rows of each model by method, in their order."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.model, {})[row.method] = row
    return found


def is_ours(method: str) -> bool:
    """Whether a method is one of our circuits."""
    return method == "clique_tree" or method.startswith(("fit_structure", "keep_set"))


def tightest(rows: Iterable[Row], accept: Callable[[Row], bool]) -> Row | None:
    """Return the usable lower bound that is highest, of those accepted; the first of equal ones."""
    usable = [row for row in rows if row.kind == "lower" and row.is_usable and accept(row)]
    return max(usable, key=lambda row: row.value if row.value is not None else -math.inf, default=None)


def ours(found: dict[str, Row], *, within_published: bool = False) -> Row | None:
    """Return the best of our circuits; with `within_published` of those with at most the published weights."""

    def accept(row: Row) -> bool:
        fits = row.parameters is not None and row.parameters <= (row.most_parameters or 0)
        return is_ours(row.method) and (fits or not within_published)

    return tightest(found.values(), accept)


def reaches(value: float, other: float) -> bool:
    """Whether a lower bound is at least as high as another, up to rounding."""
    return value >= other or other - value <= TOLERANCE * max(1.0, abs(other))


def value_of(found: dict[str, Row], method: str) -> float | None:
    """Return the bound of a method, `ours` being the best of ours; -inf where it failed, None where it was not run."""
    if method == OURS:
        if not any(is_ours(name) for name in found):
            return None
        best = ours(found)
        return best.value if best else -math.inf
    row = found.get(method)
    return None if row is None else row.value if row.is_usable else -math.inf


def counts(models: dict[str, dict[str, Row]], first: str, second: str) -> tuple[int, int]:
    """Return on how many models the first method is at least as tight as the second, and how many have both."""
    pairs = [(value_of(found, first), value_of(found, second)) for found in models.values()]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return sum(reaches(a, b) for a, b in both), len(both)


def closer_estimates(models: dict[str, dict[str, Row]]) -> list[str]:
    """Return the models where loopy belief propagation errs by less than our bound."""
    found = []
    for name, rows in models.items():
        estimate, best = rows.get("loopy_bp"), ours(rows)
        if estimate is None or not estimate.is_usable or estimate.gap is None:
            continue
        if best is None or best.gap is None or abs(estimate.gap) < best.gap - TOLERANCE:
            found.append(name)
    return found


def acceptance(rows: Mapping[str, Sequence[Row]]) -> list[Line]:
    """Return the acceptance lines."""
    ising, uai = by_model(rows["ising"]), by_model(rows["uai"])
    grid = {name: found for name, found in ising.items() if name == "ising 8x8 s=2"}
    wrong = [row for group in rows.values() for row in group if "VIOLATION" in row.error]
    measured = any(rows.values())
    return [
        _all(ising, "Ising grids, at most the published weights: our gap is at most a third of theirs, or below 0.01",
             _beats_published),
        *(
            _all(uai, f"UAI models: our bound is at least that of {rival}", lambda found, r=rival: _reaches(found, r))
            for rival in RIVALS
        ),
        _all(grid, "8x8, s=2: a gap of at most 0.45 with at most 9,216 weights", _small_enough),
        Line("no bound is on the wrong side of log Z by more than 1e-9", not wrong if measured else None,
             "; ".join(f"{row.model}, {row.method}: {row.error}" for row in wrong)),
    ]  # fmt: skip


def _all(
    models: dict[str, dict[str, Row]], text: str, judge: Callable[[dict[str, Row]], tuple[bool, str] | None]
) -> Line:
    judged = {name: verdict for name, found in models.items() if (verdict := judge(found)) is not None}
    lost = [f"{name}: {why}" for name, (passed, why) in judged.items() if not passed]
    details = f"{len(judged) - len(lost)} of {len(judged)} models"
    if len(judged) == 1:
        details = next(iter(judged.values()))[1]
    elif lost:
        details += "; not " + "; ".join(lost)
    return Line(text, None if not judged else not lost, details if judged else "")


def _beats_published(found: dict[str, Row]) -> tuple[bool, str] | None:
    if not any(is_ours(name) for name in found) or not any(name in found for name in PUBLISHED):
        return None
    best = ours(found, within_published=True)
    rival = tightest(found.values(), lambda row: row.method in PUBLISHED)
    mine = math.inf if best is None or best.gap is None else best.gap
    theirs = math.inf if rival is None or rival.gap is None else rival.gap
    return mine < 0.01 or (mine < math.inf and mine <= theirs / 3), f"gap {mine:.4g}, published {theirs:.4g}"


def _reaches(found: dict[str, Row], rival: str) -> tuple[bool, str] | None:
    mine, theirs = value_of(found, OURS), value_of(found, rival)
    if mine is None or theirs is None:
        return None
    return reaches(mine, theirs), f"{mine:.6f} against {theirs:.6f}"


def _small_enough(found: dict[str, Row]) -> tuple[bool, str] | None:
    small = [row for row in found.values() if is_ours(row.method) and (row.parameters or math.inf) <= 9216]
    best = tightest(small, lambda row: row.gap is not None)
    if best is None or best.gap is None:
        return (False, "no circuit") if any(is_ours(name) for name in found) else None
    return best.gap <= 0.45, f"gap {best.gap:.4f} with {best.parameters:,} weights ({best.method})"
