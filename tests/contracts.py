"""One row per structure and one row per query; generic tests run over these tables.

Adding a structure to `circuits.structures.STRUCTURES` or a query to `circuits.queries` without a row here fails a test.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from random import Random
from typing import Any

import numpy as np
import torch

import circuits
from circuits import Circuit, CircuitDistribution
from tests import oracles, strategies

# --- structures ------------------------------------------------------------------------------------------------------

Cards = tuple[int, ...]


@dataclass(frozen=True)
class Structure:
    """What a structure promises."""

    name: str
    calls: tuple[dict[str, Any], ...]
    """Keyword arguments after the cardinalities."""
    size: Callable[..., int]
    """Number of parameters, from the docstring's formula."""
    size_is_exact: bool = True
    """False when the formula is an upper bound."""
    cards: tuple[Cards, ...] = ((2, 2), (3, 2, 4), (2, 3, 2, 2), (4,), (1, 3, 2))
    is_deterministic: bool = True
    is_structured: bool = True


def _mean_field_size(cards: Cards) -> int:
    return sum(k for k in cards if k > 1)


def _chain_size(cards: Cards, order: int = 1) -> int:
    return sum(k * prod(cards[max(0, t - order) : t]) for t, k in enumerate(cards) if k > 1)


def _tree_size(cards: Cards, parents: list[int]) -> int:
    return sum(k * (cards[p] if p >= 0 else 1) for k, p in zip(cards, parents, strict=True) if k > 1)


def _keep_set_size(cards: Cards, scopes: object = None, labels: int = 16) -> int:
    regions = max(1, len(cards) - 1)
    return regions * labels * labels + _mean_field_size(cards)


STRUCTURE_ROWS = (
    Structure("mean_field", ({},), _mean_field_size),
    Structure("markov_chain", ({"order": 0}, {}, {"order": 2}, {"order": 3}), _chain_size),
    Structure(
        "tree",
        ({"parents": [-1, 0, 1, 1]}, {"parents": [3, -1, -1, 2]}, {"parents": [1, 2, 3, -1]}),
        _tree_size,
        cards=((2, 3, 2, 4), (3, 1, 2, 2)),
    ),
    Structure(
        "keep_set",
        ({}, {"labels": 1}, {"labels": 4}, {"labels": 36}, {"scopes": [(0,)], "labels": 9}),
        _keep_set_size,
        size_is_exact=False,
    ),
)

STRUCTURE_CASES = [(row, cards, keywords) for row in STRUCTURE_ROWS for cards in row.cards for keywords in row.calls]


# --- queries ---------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One distribution with its joint table, and everything that queries want to be asked about."""

    rng: Random
    pi: CircuitDistribution
    joint: np.ndarray
    """Shape (*batch, *cards), from enumeration."""
    partner: CircuitDistribution
    """Another distribution on the same circuit, which has full support wherever `pi` may have."""
    partner_joint: np.ndarray
    deterministic: bool
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def circuit(self) -> Circuit:
        return self.pi.circuit

    @property
    def cards(self) -> Cards:
        return self.circuit.cardinalities

    @property
    def n(self) -> int:
        return len(self.cards)

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.pi.batch_shape)

    @cached_property
    def values(self) -> torch.Tensor:
        """Joint values, shape (5, *batch, n)."""
        noise = strategies.numpy_rng(self.rng)
        drawn = [noise.integers(0, k, (5, *self.batch)) for k in self.cards]
        return torch.from_numpy(np.stack(drawn, -1))

    @cached_property
    def subsets(self) -> list[tuple[int, ...]]:
        """Subsets of the variables in random order; the empty one and the complete one among them."""
        complete = tuple(self.rng.sample(range(self.n), self.n))
        return [(), complete, *(tuple(strategies.subset(self.rng, self.n)) for _ in range(3))]

    @cached_property
    def factors(self) -> list[tuple[tuple[int, ...], torch.Tensor]]:
        return strategies.random_factors(self.rng, self.cards, self.batch)

    @cached_property
    def evidence(self) -> tuple[object, np.ndarray]:
        kind = self.rng.choice(strategies.EVIDENCE)
        return strategies.random_evidence(self.rng, self.cards, self.batch, kind)

    def lookup(self, joint: np.ndarray) -> np.ndarray:
        """The joint table's entries at `values`."""
        index = tuple(self.values[..., v].numpy() for v in range(self.n))
        rows = np.indices((5, *self.batch), sparse=True)[1:]
        return joint[(*rows, *index)]


@dataclass(frozen=True)
class Query:
    """A question, and the same question put to a joint table; both answers compare elementwise."""

    name: str
    """Name in `circuits.queries`, and the method's name unless `method` says otherwise."""
    call: Callable[[Case], torch.Tensor]
    oracle: Callable[[Case], np.ndarray]
    needs_determinism: bool = False
    refuses: Callable[[CircuitDistribution], object] | None = None
    """For queries that need determinism: the call that must raise `NotTractableError`."""


def _log(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x)


def _each_subset(answer: Callable[[tuple[int, ...]], Any]) -> Callable[[Case], list[Any]]:
    return lambda case: [answer(subset) for subset in case.subsets]


def _flat(parts: list[Any], batch: int) -> Any:
    """Put tables of different shapes behind each other, shape (*batch, entries)."""
    if isinstance(parts[0], torch.Tensor):
        return torch.cat([part.flatten(batch) if part.dim() > batch else part.unsqueeze(-1) for part in parts], -1)
    return np.concatenate([part.reshape(*part.shape[:batch], -1) for part in parts], -1)


def _sample_support(case: Case) -> torch.Tensor:
    """Whether samples are possible values: probability zero is never drawn."""
    drawn = case.pi.sample((4,), generator=torch.Generator().manual_seed(case.rng.getrandbits(60)))
    index = tuple(drawn[..., v].numpy() for v in range(case.n))
    rows = np.indices((4, *case.batch), sparse=True)[1:]
    return torch.as_tensor(case.joint[(*rows, *index)] > 0).double()


def _mode_value(case: Case) -> torch.Tensor:
    """Probability, by enumeration, of the value that is called the mode."""
    values, _ = case.pi.map()
    index = tuple(values[..., v].numpy() for v in range(case.n))
    return torch.from_numpy(np.asarray(case.joint[(*np.indices(case.batch, sparse=True), *index)]))


QUERY_ROWS = (
    Query("log_prob", lambda c: c.pi.log_prob(c.values), lambda c: _log(c.lookup(c.joint))),
    Query(
        "log_evidence",
        lambda c: c.pi.log_evidence(c.evidence[0]),
        lambda c: oracles.condition(c.joint, oracles.evidence_table(c.evidence[1], c.cards), c.n)[1],
    ),
    Query(
        "condition",
        lambda c: c.pi.condition(torch.zeros(c.n, max(c.cards))).marginals(),
        lambda c: oracles.marginals(c.joint, c.n),
    ),
    Query("marginals", lambda c: c.pi.marginals(), lambda c: oracles.marginals(c.joint, c.n)),
    Query(
        "marginal",
        lambda c: _flat([c.pi.marginal(s) for s in c.subsets], len(c.batch)),
        lambda c: _flat([oracles.marginal(c.joint, c.n, s) for s in c.subsets], len(c.batch)),
    ),
    Query("sample", _sample_support, lambda c: np.ones((4, *c.batch))),
    Query("mode", _mode_value, lambda c: c.joint.max(oracles.axes(c.joint, c.n)), True, lambda pi: pi.mode),
    Query(
        "mode",
        lambda c: c.pi.map()[1],
        lambda c: _log(c.joint.max(oracles.axes(c.joint, c.n))),
        True,
        lambda pi: pi.map(),
    ),
    Query("entropy", lambda c: c.pi.entropy(), lambda c: oracles.entropy(c.joint, c.n), True, lambda pi: pi.entropy()),
    Query(
        "entropy_lower_bound",
        lambda c: (c.pi.entropy_lower_bound() <= torch.as_tensor(oracles.entropy(c.joint, c.n)) + 1e-10).double(),
        lambda c: np.ones(c.batch),
    ),
    Query(
        "expectation",
        lambda c: c.pi.expectation(c.factors),
        lambda c: oracles.expectation(
            c.joint, oracles.factor_table([(s, t.numpy()) for s, t in c.factors], c.cards), c.n
        ),
    ),
    Query(
        "kl_divergence",
        lambda c: c.pi.kl_divergence(c.partner),
        lambda c: oracles.kl(c.joint, c.partner_joint, c.n),
        True,
        lambda pi: pi.kl_divergence(pi),
    ),
    Query(
        "mutual_information",
        lambda c: c.pi.mutual_information(range(0, c.n, 2), range(1, c.n, 2)),
        lambda c: oracles.mutual_information(c.joint, c.n, range(0, c.n, 2), range(1, c.n, 2)),
    ),
    Query(
        "total_correlation",
        lambda c: c.pi.total_correlation(),
        lambda c: oracles.total_correlation(c.joint, c.n),
        True,
        lambda pi: pi.total_correlation(),
    ),
)


def build_case(family: str, seed: int) -> Case:
    """A random circuit of a family with random numbers, and its joint table."""
    rng = Random(f"case {family} {seed}")
    circuit = strategies.FAMILIES[family](rng)
    batch = strategies.BATCHES[seed % len(strategies.BATCHES)]
    return case_of(rng, circuit, batch)


def case_of(rng: Random, circuit: Circuit, batch: tuple[int, ...]) -> Case:
    nodes = strategies.plain_nodes(circuit)

    def table(logits: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
        return oracles.joint_table(circuit.cardinalities, nodes, strategies.plain_logits(circuit, logits), shape)

    logits = strategies.random_logits(rng, circuit, batch)
    other_batch = rng.choice([batch, (), batch[1:]])
    noise = strategies.numpy_rng(rng)
    other = torch.from_numpy(noise.normal(0, 1, (*other_batch, circuit.num_parameters)))
    return Case(
        rng=rng,
        pi=CircuitDistribution(circuit, logits),
        joint=table(logits, batch),
        partner=CircuitDistribution(circuit, other),
        partner_joint=table(other, other_batch),
        deterministic=not oracles.overlapping_sums(circuit.cardinalities, nodes),
    )


def assert_close(actual: torch.Tensor, expected: np.ndarray, name: str, *, tolerance: float = 1e-10) -> None:
    """Compare shape and numbers; infinities must agree exactly."""
    assert tuple(actual.shape) == np.shape(expected), f"{name}: shape {tuple(actual.shape)}, not {np.shape(expected)}"
    np.testing.assert_allclose(
        actual.detach().numpy(), expected, rtol=tolerance, atol=tolerance, equal_nan=False, err_msg=name
    )


def structure_of(row: Structure, cards: Cards, keywords: dict[str, Any]) -> Circuit:
    return circuits.structures.STRUCTURES[row.name](cards, **keywords)
