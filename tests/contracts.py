"""One row per structure and one row per query; generic tests run over these tables.

A query's row is all that its tests need: against enumeration with and without evidence, derivatives against finite
differences, and no nan at the extremes.

Adding a structure to `circuits.structures.STRUCTURES` or a query to `circuits.queries` without a row here fails a test.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import permutations
from math import prod
from random import Random
from typing import Any

import numpy as np
import torch

import circuits
from circuits import Circuit, CircuitDistribution
from tests import oracles, strategies

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


def _keep_set_size(cards: Cards, scopes: object = None, labels: int = 16, max_parameters: int = 10**9) -> int:
    regions = max(1, len(cards) - 1)
    return min(max_parameters, regions * labels * labels + _mean_field_size(cards))


def _clique_tree_size(cards: Cards, scopes: list[tuple[int, ...]] | None = None, order: list[int] | None = None) -> int:
    tables = [{i, j} for i in range(len(cards)) for j in range(i)] if scopes is None else [set(s) for s in scopes]
    size = 0
    for variable in order or range(len(cards)):
        touched = [table for table in tables if variable in table]
        joined = set().union(*touched) | {variable}
        size += prod(cards[v] for v in joined) if cards[variable] > 1 else 0
        tables = [table for table in tables if variable not in table] + [joined - {variable}]
    return size


def _selective_size(cards: Cards, copies: int = 8, seed: int | None = None) -> int:
    def block(part: Cards, most: int) -> tuple[int, int]:
        """How many nodes a block passes on, and the parameters of it and of the blocks below."""
        if len(part) == 1:
            choices, below = part[0], 0
        else:
            middle = max(2**i for i in range(9) if 2**i < len(part))
            (left, a), (right, b) = block(part[:middle], copies), block(part[middle:], copies)
            choices, below = left * right, a + b
        return min(choices, most), below + max(0, min(choices, 2 * (choices - most)))

    return max(block(order, 1)[1] for order in (set(permutations(cards)) if seed is not None else [cards]))


def _diagram_size(cards: Cards, width: int = 16, seed: int = 0) -> int:
    states, size = 1, 0
    for k in cards:
        size += k * states if k > 1 else 0
        states = min(width, states * k)
    return size


def _cutset_size(cards: Cards, order: list[int] | None = None, depth: int = 1, parents: list[int] | None = None) -> int:
    order = order or list(range(len(cards)))
    before = dict(zip(order[1:], order, strict=False)) if parents is None else dict(enumerate(parents))
    cut = order[:depth]
    size = sum(prod(cards[v] for v in cut[: t + 1]) for t in range(depth) if cards[cut[t]] > 1)
    per_tree = 0
    for v in order[depth:]:
        parent = before.get(v, -1)
        per_tree += cards[v] * (1 if parent in (-1, *cut) else cards[parent]) if cards[v] > 1 else 0
    return size + prod(cards[v] for v in cut) * per_tree


def _random_binary_size(
    cards: Cards, sums: int = 8, depth: int = 99, repetitions: int = 2, inputs: int | None = None, seed: int = 0
) -> int:
    def choices(size: int, depth: int) -> tuple[int, int]:
        """What a region chooses from, and the parameters of the regions below that are halved."""
        if depth == 0 or size == 1:
            return inputs or sums, 0
        (left, a), (right, b) = region(size // 2, depth - 1), region(size - size // 2, depth - 1)
        return left * right, a + b

    def region(size: int, depth: int) -> tuple[int, int]:
        pairs, below = choices(size, depth)
        if depth == 0 or size == 1 or pairs == 1:
            return pairs, below
        return sums, below + sums * pairs

    pairs, below = choices(len(cards), depth)
    root = repetitions * pairs if repetitions * pairs > 1 else 0
    return root + repetitions * (below + (inputs or sums) * _mean_field_size(cards))


def _latent_tree_size(cards: Cards, parents: list[int] | None = None, states: int = 16) -> int:
    roots = 1 if parents is None else parents.count(-1)
    hidden = roots * states + (len(cards) - roots) * states**2 if states > 1 else 0
    return states * _mean_field_size(cards) + hidden


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
        (
            {},
            {"labels": 1},
            {"labels": 4},
            {"labels": 36},
            {"scopes": [(0,)], "labels": 9},
            {"labels": 36, "max_parameters": 20},
        ),
        _keep_set_size,
        size_is_exact=False,
    ),
    Structure("clique_tree", ({},), _clique_tree_size),
    Structure(
        "clique_tree",
        (
            {"scopes": [(0, 1), (1, 2), (2, 3), (3, 0)], "order": [2, 0, 3, 1]},
            {"scopes": [(0, 2, 3), (1,)]},
            {"scopes": []},
        ),
        _clique_tree_size,
        cards=((2, 3, 2, 4), (3, 1, 2, 2)),
    ),
    Structure("selective", tuple({"copies": c, "seed": None} for c in (1, 2, 3, 5, 8, 50)), _selective_size),
    Structure("selective", ({}, {"copies": 3, "seed": 7}), _selective_size, size_is_exact=False),
    Structure("decision_diagram", ({}, {"width": 1}, {"width": 3}, {"width": 4, "seed": 5}), _diagram_size),
    Structure("cutset", ({}, {"depth": 0}), _cutset_size),
    Structure(
        "cutset",
        (
            {"depth": 2, "order": [2, 0, 3, 1]},
            {"depth": 4},
            {"depth": 1, "parents": [-1, 0, 1, 1]},
            {"depth": 2, "order": [3, 1, 0, 2], "parents": [1, 2, 3, -1]},
        ),
        _cutset_size,
        cards=((2, 3, 2, 4), (3, 1, 2, 2)),
    ),
    Structure(
        "random_binary",
        (
            {"repetitions": 1},
            {"sums": 2, "inputs": 3, "repetitions": 1, "depth": 1},
            {"sums": 3, "inputs": 2, "repetitions": 1},
            {"inputs": 2, "repetitions": 2, "depth": 0},
        ),
        _random_binary_size,
        is_deterministic=False,
    ),
    Structure(
        "random_binary",
        ({}, {"sums": 2, "repetitions": 3, "seed": 1}, {"sums": 3, "inputs": 1, "depth": 1}),
        _random_binary_size,
        cards=((2, 3, 2, 2), (2, 1, 3, 2, 2)),
        is_deterministic=False,
        is_structured=False,
    ),
    Structure("latent_tree", ({"states": 2}, {"states": 3}), _latent_tree_size, is_deterministic=False),
    Structure("latent_tree", ({"states": 1},), _latent_tree_size),
    Structure(
        "latent_tree",
        ({"parents": [-1, 0, 1, 1], "states": 2}, {"parents": [3, -1, -1, 2], "states": 3}),
        _latent_tree_size,
        cards=((2, 3, 2, 4), (3, 1, 2, 2)),
        is_deterministic=False,
    ),
)

STRUCTURE_CASES = [(row, cards, keywords) for row in STRUCTURE_ROWS for cards in row.cards for keywords in row.calls]


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
    def possible(self) -> torch.Tensor:
        """Joint values of positive probability, shape (2, *batch, n)."""
        noise = strategies.numpy_rng(self.rng)
        rows = self.joint.reshape(-1, prod(self.cards))
        drawn = np.array([[noise.choice(np.flatnonzero(row)) for row in rows] for _ in range(2)], dtype=np.int64)
        return torch.from_numpy(np.stack(np.unravel_index(drawn, self.cards), -1).reshape(2, *self.batch, self.n))

    @cached_property
    def best(self) -> int:
        """How many of the most probable joint values to ask for: up to 7, and no more than every batch row has."""
        return min(7, int((self.joint > 0).sum(oracles.axes(self.joint, self.n)).min(initial=7)))

    @cached_property
    def pairs(self) -> list[tuple[int, ...]]:
        """Up to three pairs of variables; empty for a single variable."""
        return [tuple(self.rng.sample(range(self.n), 2)) for _ in range(3)] if self.n > 1 else []

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

    def about(self, pi: CircuitDistribution, **changes: Any) -> "Case":
        """The same questions about another distribution; what was drawn for this case stays, unless it is changed."""
        for name, part in vars(Case).items():
            if isinstance(part, cached_property) and name not in changes:
                getattr(self, name)  # drawn now, or every copy would draw its own
        other = copy.copy(self)
        for name, value in {"pi": pi, **changes}.items():
            setattr(other, name, value)
        return other

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
    in_probability: bool = False
    """Whether the answers are probabilities; otherwise they are in nats."""
    derivatives: int = 1
    """How often `value` can be differentiated."""
    numbers: Callable[[Case], torch.Tensor] | None = None
    """What extremes and gradients look at, where `call` needs the joint table or compares; None is `call`."""

    def value(self, case: Case) -> torch.Tensor:
        """The answer, without a look at the joint table."""
        return (self.numbers or self.call)(case)


def rows_for(case: Case) -> list[Query]:
    """The queries that a case's circuit can answer."""
    return [row for row in QUERY_ROWS if case.deterministic or not row.needs_determinism]


def _log(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x)


def _each_subset(answer: Callable[[tuple[int, ...]], Any]) -> Callable[[Case], list[Any]]:
    return lambda case: [answer(subset) for subset in case.subsets]


def _flat(parts: list[Any], batch: int) -> Any:
    """Put tables of different shapes behind each other, shape (*batch, entries)."""
    if isinstance(parts[0], torch.Tensor):
        return torch.cat([part.flatten(batch) if part.dim() > batch else part.unsqueeze(-1) for part in parts], -1)
    return np.concatenate([part.reshape(*part.shape[:batch], prod(part.shape[batch:])) for part in parts], -1)


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


def _pair_tables(case: Case) -> torch.Tensor:
    tables = case.pi.pair_marginals(case.pairs)
    return _flat(tables, len(case.batch)) if tables else torch.zeros(0)


def _best_probabilities(case: Case) -> torch.Tensor:
    """Probability, by enumeration, of each of the values called best."""
    values, _ = case.pi.m_best(case.best)
    rows = np.indices((case.best, *case.batch), sparse=True)[1:]
    return torch.from_numpy(np.asarray(case.joint[(*rows, *(values[..., v].numpy() for v in range(case.n)))]))


@cache
def _expert(cards: Cards) -> tuple[CircuitDistribution, np.ndarray]:
    """A mean-field distribution, which any distribution over the same variables can be multiplied by; and its table."""
    circuit = circuits.structures.mean_field(cards)
    logits = torch.linspace(-1, 1, circuit.num_parameters, dtype=torch.float64).sin()
    plain = strategies.plain_logits(circuit, logits)
    return CircuitDistribution(circuit, logits), oracles.joint_table(cards, strategies.plain_nodes(circuit), plain, ())


def _constraint(case: Case) -> tuple[Circuit, np.ndarray]:
    """The first variable within the values that it takes in `case.possible`, and which joint values that allows."""
    return _first_within(case.cards, frozenset(case.possible[..., 0].flatten().tolist() or [0]))


@cache
def _first_within(cards: Cards, allowed: frozenset[int]) -> tuple[Circuit, np.ndarray]:
    builder = circuits.CircuitBuilder(cards)
    parts = [builder.input(0, sorted(allowed)), *(builder.input(v) for v in range(1, len(cards)))]
    mask = np.isin(np.arange(cards[0]), sorted(allowed)).reshape(-1, *(1,) * (len(cards) - 1))
    return builder.build(builder.product(*parts)), np.broadcast_to(mask, cards)


def _multiplied(case: Case, given: np.ndarray) -> np.ndarray:
    """Log probabilities, by enumeration, of `values` under the joint table times another one, normalised."""
    return _log(case.lookup(oracles.condition(case.joint, given, case.n)[0]))


QUERY_ROWS = (
    Query("log_prob", lambda c: c.pi.log_prob(c.values), lambda c: _log(c.lookup(c.joint)), derivatives=2),
    Query(
        "log_evidence",
        lambda c: c.pi.log_evidence(c.evidence[0]),
        lambda c: oracles.condition(c.joint, oracles.evidence_table(c.evidence[1], c.cards), c.n)[1],
        derivatives=2,
    ),
    Query(
        "condition",
        lambda c: c.pi.condition(torch.zeros(c.n, max(c.cards))).marginals(),
        lambda c: oracles.marginals(c.joint, c.n),
        in_probability=True,
        derivatives=2,
    ),
    Query(
        "conditionals",
        lambda c: c.pi.conditionals(c.possible),
        lambda c: oracles.conditionals(c.joint, c.n, c.possible.numpy()),
        in_probability=True,
    ),
    Query(
        "pair_marginals",
        _pair_tables,
        lambda c: _flat([oracles.marginal(c.joint, c.n, p) for p in c.pairs], len(c.batch)) if c.pairs else np.zeros(0),
        in_probability=True,
    ),
    Query(
        "log_prob_variance",
        lambda c: c.pi.log_prob_variance(),
        lambda c: oracles.log_prob_variance(c.joint, c.n),
        True,
        lambda pi: pi.log_prob_variance(),
    ),
    Query(
        "max_marginals",
        lambda c: c.pi.max_marginals(),
        lambda c: _log(oracles.max_marginals(c.joint, c.n)),
        True,
        lambda pi: pi.max_marginals(),
        derivatives=0,
    ),
    Query(
        "m_best",
        lambda c: c.pi.m_best(c.best)[1],
        lambda c: _log(oracles.best(c.joint, c.n, c.best)),
        True,
        lambda pi: pi.m_best(2),
        derivatives=0,
    ),
    Query(
        "m_best",
        _best_probabilities,
        lambda c: oracles.best(c.joint, c.n, c.best),
        True,
        lambda pi: pi.m_best(2),
        numbers=lambda c: c.pi.log_prob(c.pi.m_best(c.best).assignment),
    ),
    Query(
        "entropy_upper_bound",
        lambda c: (c.pi.entropy_upper_bound() >= torch.as_tensor(oracles.entropy(c.joint, c.n)) - 1e-10).double(),
        lambda c: np.ones(c.batch),
        numbers=lambda c: c.pi.entropy_upper_bound(),
    ),
    Query(
        "marginals",
        lambda c: c.pi.marginals(),
        lambda c: oracles.marginals(c.joint, c.n),
        in_probability=True,
        derivatives=2,
    ),
    Query(
        "marginal",
        lambda c: _flat([c.pi.marginal(s) for s in c.subsets], len(c.batch)),
        lambda c: _flat([oracles.marginal(c.joint, c.n, s) for s in c.subsets], len(c.batch)),
        in_probability=True,
    ),
    Query(
        "sample",
        _sample_support,
        lambda c: np.ones((4, *c.batch)),
        derivatives=0,
        numbers=lambda c: c.pi.log_prob(c.pi.sample((4,), generator=torch.Generator().manual_seed(0))),
    ),
    Query(
        "mode",
        _mode_value,
        lambda c: c.joint.max(oracles.axes(c.joint, c.n)),
        True,
        lambda pi: pi.mode,
        numbers=lambda c: c.pi.log_prob(c.pi.mode),
    ),
    Query(
        "mode",
        lambda c: c.pi.map()[1],
        lambda c: _log(c.joint.max(oracles.axes(c.joint, c.n))),
        True,
        lambda pi: pi.map(),
        derivatives=0,
    ),
    Query(
        "entropy",
        lambda c: c.pi.entropy(),
        lambda c: oracles.entropy(c.joint, c.n),
        True,
        lambda pi: pi.entropy(),
        derivatives=2,
    ),
    Query(
        "entropy_lower_bound",
        lambda c: (c.pi.entropy_lower_bound() <= torch.as_tensor(oracles.entropy(c.joint, c.n)) + 1e-10).double(),
        lambda c: np.ones(c.batch),
        numbers=lambda c: c.pi.entropy_lower_bound(),
    ),
    Query(
        "expectation",
        lambda c: c.pi.expectation(c.factors),
        lambda c: oracles.expectation(
            c.joint, oracles.factor_table([(s, t.numpy()) for s, t in c.factors], c.cards), c.n
        ),
    ),
    # An edge that earns its own log weight: the sum is the log probability, of which the mean is minus the entropy.
    Query(
        "expected_score",
        lambda c: c.pi.expected_score(c.pi.log_weights.clamp_min(-1e4), 3.0),
        lambda c: 2.0 * oracles.entropy(c.joint, c.n),
        True,
        lambda pi: pi.expected_score(pi.log_weights),
    ),
    Query(
        "kl_divergence",
        lambda c: c.pi.kl_divergence(c.partner),
        lambda c: oracles.kl(c.joint, c.partner_joint, c.n),
        True,
        lambda pi: pi.kl_divergence(pi),
        derivatives=2,
    ),
    Query(
        "cross_entropy",
        lambda c: c.pi.cross_entropy(_expert(c.cards)[0]),
        lambda c: oracles.kl(c.joint, _expert(c.cards)[1], c.n) + oracles.entropy(c.joint, c.n),
    ),
    Query(
        "multiply",
        lambda c: c.pi.multiply(_expert(c.cards)[0])[1],
        lambda c: oracles.condition(c.joint, _expert(c.cards)[1], c.n)[1],
    ),
    Query(
        "multiply",
        lambda c: c.pi.multiply(_expert(c.cards)[0])[0].log_prob(c.values),
        lambda c: _multiplied(c, _expert(c.cards)[1]),
    ),
    Query(
        "constrain",
        lambda c: c.pi.constrain(_constraint(c)[0])[1],
        lambda c: oracles.condition(c.joint, _constraint(c)[1], c.n)[1],
    ),
    Query(
        "constrain",
        lambda c: c.pi.constrain(_constraint(c)[0])[0].log_prob(c.values),
        lambda c: _multiplied(c, _constraint(c)[1]),
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


def case_of(rng: Random, circuit: Circuit, batch: tuple[int, ...], logits: torch.Tensor | None = None) -> Case:
    nodes = strategies.plain_nodes(circuit)

    def table(logits: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
        return oracles.joint_table(circuit.cardinalities, nodes, strategies.plain_logits(circuit, logits), shape)

    logits = strategies.random_logits(rng, circuit, batch) if logits is None else logits
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
