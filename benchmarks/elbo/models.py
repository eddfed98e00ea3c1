"""The models whose log Z is bounded: Ising grids, and the files of uai_models with their evidence applied."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.elbo.ising import ising_grid
from factor_q import FactorGraph, Factors, read_uai, read_uai_evidence

FOLDER = Path(__file__).parents[1] / "uai_models"
QUICK_UAI = ("Promedus_24", "relational_3", "Grids_12", "ObjectDetection_46", "ising_8x8_mixed_s1", "complete_n6_k4")


@dataclass(frozen=True)
class Model:
    """A model by name, made when it is needed."""

    group: str
    """ising or uai."""
    name: str
    log_z: float | None
    """In nats, when it is known before any elimination."""
    load: Callable[[], Factors]
    """Factors in float64 without a batch."""


def ising_name(size: int, strength: float, seed: int) -> str:
    """Return the name of a grid."""
    return f"ising {size}x{size} s={strength:g}" + (f" seed={seed}" if seed != 1 else "")


def ising_models(sizes: Sequence[int], strengths: Sequence[float], seeds: Sequence[int]) -> Iterator[Model]:
    """Yield square grids with couplings uniform on (-strength, strength) and no fields."""
    for size in sizes:
        for strength in strengths:
            for seed in seeds:
                name = ising_name(size, strength, seed)
                yield Model("ising", name, None, lambda n=size, s=strength, seed=seed: ising_grid(n, n, s, seed=seed))


def uai_models(folder: Path = FOLDER) -> Iterator[Model]:
    """Yield the models of the two index files; their log Z is that of the index, empty where unknown."""
    for place in (folder / "own", folder):
        with (place / "index.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                path = place / row["file"]
                log_z = float(row["logZ_natural"]) if row["logZ_natural"] else None
                yield Model("uai", path.stem, log_z, lambda path=path: read_observed(path))


def read_observed(path: Path) -> Factors:
    """Read a model; where an evidence file stands beside it, fix what was observed and drop those variables."""
    factors = read_uai(path)
    evidence = path.with_name(path.name + ".evid")
    return without_observed(factors, read_uai_evidence(evidence)) if evidence.exists() else factors


def without_observed(factors: Factors, evidence: Mapping[int, int]) -> Factors:
    """Return the factors given evidence over the other variables only, renumbered in their old order.

    Observed variables are dropped, not kept with a table that forbids their other values: a distribution of full
    support would have the bound -inf on such a table, whatever it says about the rest.
    """
    left = [v for v in range(len(factors.cardinalities)) if v not in evidence]
    place = {variable: i for i, variable in enumerate(left)}
    # Condition leaves observed variables a table of their own, which says 0 about the observed value.
    parts = [(scope, table) for scope, table in factors.condition(evidence) if evidence.keys().isdisjoint(scope)]
    scopes = [tuple(place[v] for v in scope) for scope, _ in parts]
    return Factors(FactorGraph([factors.cardinalities[v] for v in left], scopes), [table for _, table in parts])


def published_weights(cardinalities: Sequence[int], copies: int = 32) -> int:
    """Return the number of weights of `structures.selective(cardinalities, copies=copies, seed=None)`, unbuilt."""
    return _block(tuple(cardinalities), copies, 1)[1]


def _block(cardinalities: Sequence[int], copies: int, most: int) -> tuple[int, int]:
    """Return how many nodes a block passes on, and its weights with those of all blocks below it."""
    if len(cardinalities) == 1:
        pairs, below = cardinalities[0], 0
    else:
        middle = 1 << (len(cardinalities) - 1).bit_length() - 1
        left, right = _block(cardinalities[:middle], copies, copies), _block(cardinalities[middle:], copies, copies)
        pairs, below = left[0] * right[0], left[1] + right[1]
    return min(pairs, most), below + max(0, min(pairs, 2 * (pairs - most)))
