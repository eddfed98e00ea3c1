"""Check random circuits of every family against enumeration: all queries, all 2^n masks, with and without evidence.

    make exactness          or          python -m tests.exactness --circuits 10000 --seed 0

Probabilities must agree within 1e-12 and everything in nats within 1e-10, in float64. The first difference ends the
program with the circuit's number, so that `--first N --circuits 1` repeats it.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from math import prod
from random import Random

import numpy as np
import torch

from circuits import Circuit, CircuitDistribution, ImpossibleEvidenceError, NotTractableError, operations, structures
from tests import oracles, strategies
from tests.contracts import QUERY_ROWS, STRUCTURE_ROWS, Case

PROBABILITY, NATS = 1e-12, 1e-10

MAX_TABLE = 512

BATCHES = ((), (1,), (2,), (3,), (4,), (5,), (2, 2))

Build = Callable[[Random, tuple[int, ...]], Circuit]


def from_its_row(name: str, rng: Random, cards: tuple[int, ...]) -> Circuit:
    """A registered structure with options of its contract row, as far as they do not depend on the cardinalities."""
    calls = [call for row in STRUCTURE_ROWS if row.name == name for call in row.calls]
    plain = [call for call in calls if all(isinstance(option, int | str | None) for option in call.values())]
    return structures.STRUCTURES[name](cards, **rng.choice(plain or [{}]))


BUILDERS: dict[str, Build] = {
    **{name: partial(from_its_row, name) for name in structures.STRUCTURES},
    **strategies.FAMILIES,
    "random_binary": partial(strategies.random_binary, most=8),
    "exactly": lambda rng, cards: operations.exactly(cards, rng.sample(range(len(cards) + 1), 1)[0], action=1),
    "all_different": lambda rng, cards: operations.all_different(cards, exempt=strategies.subset(rng, 2)),
}


@dataclass
class Tally:
    """What was checked, and how far the worst answer was off."""

    circuits: int = 0
    queries: int = 0
    masks: int = 0
    worst: dict[float, float] = field(default_factory=lambda: {PROBABILITY: 0.0, NATS: 0.0})

    def compare(self, actual: torch.Tensor, expected: np.ndarray, tolerance: float, what: str) -> None:
        """Absolute difference; shapes, types and infinities must agree exactly."""
        assert actual.dtype == torch.float64 or not actual.numel(), f"{what}: type {actual.dtype}"
        found, expected = actual.detach().numpy(), np.asarray(expected)
        assert found.shape == expected.shape, f"{what}: shape {found.shape}, not {expected.shape}"
        with np.errstate(invalid="ignore"):
            error = np.where(found == expected, 0.0, np.abs(found - expected))
        assert (error <= tolerance).all(), f"{what}: off by {error.max()}, more than {tolerance}"
        self.worst[tolerance] = max(self.worst[tolerance], error.max(initial=0.0))


def cardinalities(rng: Random) -> tuple[int, ...]:
    """1 to 8 variables of 2 to 4 values, with at most `MAX_TABLE` joint values."""
    cards = [rng.randint(2, 4) for _ in range(rng.randint(1, 8))]
    while prod(cards) > MAX_TABLE:
        cards[cards.index(max(cards))] -= 1
    return tuple(cards)


def random_case(family: str, seed: str) -> Case:
    """A random circuit with random logits, some of them -inf, and its joint table."""
    rng = Random(seed)
    circuit = BUILDERS[family](rng, cardinalities(rng))
    batch = rng.choice(BATCHES)
    nodes = strategies.plain_nodes(circuit)

    def table(logits: torch.Tensor, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
        plain = strategies.plain_logits(circuit, logits)
        return oracles.joint_by_broadcasting(circuit.cardinalities, nodes, plain, shape)

    logits = strategies.random_logits(rng, circuit, batch)
    other_batch = rng.choice([batch, ()])
    other = torch.from_numpy(strategies.numpy_rng(rng).normal(0, 1, (*other_batch, circuit.num_parameters)))
    joint, deterministic = table(logits, batch)
    return Case(
        rng=rng,
        pi=CircuitDistribution(circuit, logits),
        joint=joint,
        partner=CircuitDistribution(circuit, other),
        partner_joint=table(other, other_batch)[0],
        deterministic=deterministic,
    )


def check_queries(case: Case, tally: Tally, where: str) -> None:
    """Every row of the contract's table; a query that needs determinism must refuse where it is missing."""
    for row in QUERY_ROWS:
        tally.queries += 1
        if row.needs_determinism and not case.deterministic:
            assert row.refuses is not None
            try:
                row.refuses(case.pi)
            except NotTractableError:
                continue
            raise AssertionError(f"{row.name} {where} answered without determinism")
        tolerance = PROBABILITY if row.in_probability else NATS
        tally.compare(row.call(case), row.oracle(case), tolerance, f"{row.name} {where}")


def check_masks(case: Case, tally: Tally, tables: int) -> None:
    """All 2^n sets of observed variables: log_evidence at random values, and `marginal` of at most `tables` sets."""
    n, cards = case.n, case.cards
    masks = np.array(list(product([False, True], repeat=n)))
    values = np.stack([strategies.numpy_rng(case.rng).integers(0, k, len(masks)) for k in cards], -1)
    allowed = ~masks[:, :, None] | (np.arange(max(cards)) == values[:, :, None])
    evidence = allowed.reshape(len(masks), *(1,) * len(case.batch), n, max(cards))
    sums = oracles.with_sums(case.joint, n)
    with np.errstate(divide="ignore"):
        expected = np.log(sums[(..., *np.where(masks, values, cards).T)])
    actual = case.pi.log_evidence(torch.from_numpy(evidence))
    tally.compare(actual, np.moveaxis(expected, -1, 0), NATS, "log_evidence of masks")
    tally.compare(actual.exp(), np.moveaxis(np.exp(expected), -1, 0), PROBABILITY, "probability of masks")
    tally.masks += len(masks)
    for mask in case.rng.sample(list(masks), min(tables, len(masks))):
        scope = tuple(np.flatnonzero(mask).tolist())
        wanted = sums[(..., *(slice(k) if on else k for on, k in zip(mask, cards, strict=True)))]
        tally.compare(case.pi.marginal(scope), wanted, PROBABILITY, f"marginal of {scope}")
        tally.masks += 1


def check_case(case: Case, tally: Tally, *, quick: bool = False) -> None:
    """All queries, all masks, then all queries again under evidence of a random kind.

    Quick: all queries once, with or without evidence, and `marginal` of a few random sets of variables.
    """
    np.testing.assert_allclose(case.joint.sum(oracles.axes(case.joint, case.n)), 1.0, rtol=0, atol=1e-12)
    check_masks(case, tally, tables=3 if quick else 256)
    without = not quick or case.rng.random() < 0.5
    if without:
        check_queries(case, tally, "without evidence")
    kind = case.rng.choice(strategies.EVIDENCE)
    evidence, log_weights = strategies.random_evidence(case.rng, case.cards, case.batch, kind)
    weights = oracles.evidence_by_broadcasting(log_weights, case.cards)
    joint, log_evidence = oracles.condition(case.joint, weights, case.n)
    tally.compare(case.pi.log_evidence(evidence), log_evidence, NATS, f"log_evidence of {kind}")
    tally.circuits += 1
    if np.isinf(log_evidence).any():
        try:
            case.pi.condition(evidence)
        except ImpossibleEvidenceError:
            return
        raise AssertionError(f"condition on impossible {kind} did not refuse")
    if quick and without:
        return
    given = Case(case.rng, case.pi.condition(evidence), joint, case.partner, case.partner_joint, case.deterministic)
    check_queries(given, tally, f"given {kind}")


def numbered(first: int, count: int, seed: int) -> Iterator[tuple[str, Case]]:
    """Circuits by number, families in turn."""
    families = list(BUILDERS)
    for number in range(first, first + count):
        family = families[number % len(families)]
        where = f"exactness {seed} {number}"
        yield f"circuit {number} ({family}) of seed {seed}", random_case(family, where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--circuits", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first circuit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"python -m tests.exactness --circuits {options.circuits} --first {options.first} --seed {options.seed}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, one thread")
    print(f"families: {', '.join(BUILDERS)}", flush=True)
    tally, start = Tally(), time.perf_counter()
    for where, case in numbered(options.first, options.circuits, options.seed):
        try:
            check_case(case, tally)
        except Exception as error:
            raise SystemExit(f"FAILED at {where}: {case.circuit!r}: {type(error).__name__}: {error}") from error
        if tally.circuits % 1000 == 0:
            print(f"{tally.circuits:>7,} circuits, {time.perf_counter() - start:6.0f} s", flush=True)
    print(
        f"{tally.circuits:,} circuits, {tally.queries:,} queries, {tally.masks:,} masks; worst error "
        f"{tally.worst[PROBABILITY]:.1e} in probabilities (limit {PROBABILITY:g}), {tally.worst[NATS]:.1e} in nats "
        f"(limit {NATS:g}); {time.perf_counter() - start:.0f} s, seed {options.seed}"
    )


if __name__ == "__main__":
    main()
