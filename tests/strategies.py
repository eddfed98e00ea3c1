"""Random circuits, numbers, evidence and factors; everything is drawn from one `random.Random`, so seeds repeat it."""

from collections.abc import Callable
from math import prod
from random import Random
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import circuits
from circuits import Circuit, CircuitBuilder, CircuitDistribution, operations, structures

Cards = tuple[int, ...]

MAX_TABLE = 256
"""Joint values that enumeration may have to visit."""

BATCHES: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3))


def cardinalities(rng: Random, max_table: int = MAX_TABLE) -> tuple[int, ...]:
    """1 to 7 variables of 1 to 4 values, mostly 2 or 3."""
    cards = [rng.choice([1, 2, 2, 2, 3, 3, 4]) for _ in range(rng.randint(1, 7))]
    while prod(cards) > max_table:
        cards[cards.index(max(cards))] -= 1
    return tuple(cards)


def subset(rng: Random, size: int, least: int = 1, most: int | None = None) -> list[int]:
    count = rng.randint(min(least, size), min(size, most or size))
    return rng.sample(range(size), count)


def mean_field(rng: Random, cards: Cards | None = None) -> Circuit:
    return structures.mean_field(cards or cardinalities(rng))


def markov_chain(rng: Random, cards: Cards | None = None) -> Circuit:
    return structures.markov_chain(cards or cardinalities(rng), order=rng.randint(0, 3))


def random_parents(rng: Random, count: int) -> list[int]:
    """A random forest whose variables are numbered at random."""
    order = rng.sample(range(count), count)
    parents = [-1] * count
    for position, variable in enumerate(order):
        if position and rng.random() < 0.85:
            parents[variable] = order[rng.randrange(position)]
    return parents


def tree(rng: Random, cards: Cards | None = None) -> Circuit:
    cards = cards or cardinalities(rng)
    return structures.tree(cards, random_parents(rng, len(cards)))


def latent_tree(rng: Random, cards: Cards | None = None) -> Circuit:
    cards = cards or cardinalities(rng)
    parents = None if rng.random() < 0.3 else random_parents(rng, len(cards))
    return structures.latent_tree(cards, parents, states=rng.randint(1, 4))


def random_scopes(rng: Random, count: int) -> list[tuple[int, ...]]:
    return [tuple(subset(rng, count, 1, 3)) for _ in range(rng.randint(1, 2 * count))]


def keep_set(rng: Random, cards: Cards | None = None) -> Circuit:
    cards = cards or cardinalities(rng)
    scopes = None if rng.random() < 0.2 else random_scopes(rng, len(cards))
    return structures.keep_set(cards, scopes, labels=rng.randint(1, 36))


def keep_set_shapes(rng: Random, cards: Cards | None = None) -> Circuit:
    """`keep_set` with each of its shapes named, up to 8 labels, couplings of their own and a limit on parameters."""
    cards = cards or cardinalities(rng)
    scopes = None if rng.random() < 0.2 else random_scopes(rng, len(cards))
    shape = rng.choice(["auto", "balanced", "chain"])
    strengths = None if scopes is None else [rng.random() for _ in scopes]
    most = sum(cards) + rng.randint(0, 60) if rng.random() < 0.3 else None
    return structures.keep_set(
        cards, scopes, labels=rng.randint(1, 8), shape=shape, strengths=strengths, max_parameters=most
    )


def clique_tree(rng: Random, cards: Cards | None = None) -> Circuit:
    cards = cards or cardinalities(rng)
    scopes = None if rng.random() < 0.2 else random_scopes(rng, len(cards))
    return structures.clique_tree(cards, scopes, order=rng.sample(range(len(cards)), len(cards)))


def selective(rng: Random, cards: Cards | None = None) -> Circuit:
    cards = cards or cardinalities(rng)
    return structures.selective(cards, copies=rng.randint(1, 12), seed=rng.choice([None, 0, 1, 2]))


def decision_diagram(rng: Random, cards: Cards | None = None) -> Circuit:
    """Random tables, or a random automaton whose counter forbids some values and some ends."""
    cards = cards or cardinalities(rng)
    if rng.random() < 0.5:
        return structures.decision_diagram(cards, width=rng.randint(1, 12), seed=rng.randrange(1000))
    modulus, hole = rng.randint(1, 4), rng.randrange(8)

    def step(t: int, state: object, value: int) -> object:
        assert isinstance(state, int)
        return None if value and (state + value + t) % 8 == hole else (state + value) % modulus

    only_start = rng.random() < 0.3  # reached by zeros, which are always allowed
    return structures.decision_diagram(
        cards, transition=step, accept=(lambda state: state == 0) if only_start else None
    )


def constraint(rng: Random, cards: Cards | None = None) -> Circuit:
    """`exactly` or `all_different`, with options that leave something possible."""
    cards = cards or cardinalities(rng)
    if rng.random() < 0.4:
        return operations.all_different(cards, exempt={0, *subset(rng, max(cards), 0)})
    action = rng.randrange(max(cards))
    forced = sum(k == 1 for k in cards) if action == 0 else 0
    counts = rng.sample(range(8), 2)
    count = rng.randint(forced, sum(k > action for k in cards))
    return operations.exactly(cards, count if rng.random() < 0.5 else [count, *counts], action=action)


def cutset(rng: Random, cards: Cards | None = None) -> Circuit:
    cards = cards or cardinalities(rng)
    order = rng.sample(range(len(cards)), len(cards))
    parents = random_parents(rng, len(cards)) if rng.random() < 0.5 else None
    return structures.cutset(cards, order, rng.randint(0, min(3, len(cards))), parents=parents)


def random_binary(rng: Random, cards: Cards | None = None, *, most: int = 3) -> Circuit:
    return structures.random_binary(
        cards or cardinalities(rng),
        sums=rng.randint(1, most),
        depth=rng.choice([None, 0, 1, 2]),
        repetitions=rng.randint(1, 3),
        inputs=rng.choice([None, 1, 2]),
        seed=rng.randrange(1000),
    )


def mixture(rng: Random, cards: Cards | None = None) -> Circuit:
    """One to three circuits of other families over the same variables."""
    cards = cards or cardinalities(rng)
    parts = (
        lambda: structures.mean_field(cards),
        lambda: structures.markov_chain(cards),
        lambda: structures.tree(cards, random_parents(rng, len(cards))),
        lambda: structures.keep_set(cards, labels=4),
        lambda: operations.all_different(cards, exempt=[0]),
        lambda: random_binary(rng, cards),
    )
    return operations.mixture(*(rng.choice(parts)() for _ in range(rng.randint(1, 3))))


class HandBuilt:
    """A random circuit through `CircuitBuilder`, with shared nodes and different splits of the same scope.

    With `deterministic` every sum decides on one variable: its children give that variable disjoint sets of values.
    """

    def __init__(self, rng: Random, cards: tuple[int, ...], *, deterministic: bool, budget: int = 60) -> None:
        self.rng, self.deterministic, self.budget = rng, deterministic, budget
        self.builder = CircuitBuilder(cards, name="hand")
        self.cards = cards
        self.pool: dict[frozenset[int], list[int]] = {}

    def build(self) -> Circuit:
        spare = self.node(frozenset(self.rng.sample(range(len(self.cards)), 1)))  # usually unreachable
        assert spare >= 0
        return self.builder.build(self.node(frozenset(range(len(self.cards)))))

    def node(self, scope: frozenset[int]) -> int:
        known = self.pool.setdefault(scope, [])
        if known and (self.budget <= 0 or self.rng.random() < 0.35):
            return self.rng.choice(known)
        self.budget -= 1
        node = self.fresh(scope)
        known.append(node)
        return node

    def fresh(self, scope: frozenset[int]) -> int:
        roll = self.rng.random()
        if roll < 0.06:
            return self.builder.sum(self.node(scope))
        if roll < 0.12:
            return self.builder.product(self.node(scope))
        if not self.deterministic and roll < 0.5 and self.budget > 0:
            return self.builder.sum(*(self.node(scope) for _ in range(self.rng.randint(2, 4))))
        if len(scope) == 1:
            return self.leaf(*scope)
        if self.budget > 0 and roll < 0.75:
            return self.decision(scope)
        return self.split(scope)

    def leaf(self, variable: int) -> int:
        values = sorted(subset(self.rng, self.cards[variable]))
        if self.rng.random() < 0.5:
            values = list(range(self.cards[variable]))
        self.rng.shuffle(values)
        return self.builder.input(variable, values)

    def split(self, scope: frozenset[int]) -> int:
        """A product of two to four parts in random order."""
        order = self.rng.sample(sorted(scope), len(scope))
        parts = self.rng.randint(2, min(4, len(order)))
        cuts = [0, *sorted(self.rng.sample(range(1, len(order)), parts - 1)), len(order)]
        return self.builder.product(*(self.node(frozenset(order[a:b])) for a, b in zip(cuts, cuts[1:], strict=False)))

    def decision(self, scope: frozenset[int]) -> int:
        """A sum whose children own disjoint values of one variable; sometimes a sum of sums."""
        variable = self.rng.choice(sorted(scope))
        rest = scope - {variable}
        values = self.rng.sample(range(self.cards[variable]), self.cards[variable])
        if len(values) > 1 and self.rng.random() < 0.2:
            values.pop()
        count = self.rng.randint(1, len(values))
        cuts = [0, *sorted(self.rng.sample(range(1, len(values)), count - 1)), len(values)]
        children = []
        for a, b in zip(cuts, cuts[1:], strict=False):
            own = self.builder.input(variable, values[a:b])
            parts = [own, *self.rest(rest)]
            self.rng.shuffle(parts)
            children.append(self.builder.product(*parts))
        if len(children) > 2 and self.rng.random() < 0.4:
            children = [self.builder.sum(*children[:2]), *children[2:]]
        return self.builder.sum(*children)

    def rest(self, scope: frozenset[int]) -> list[int]:
        if len(scope) < 2 or self.rng.random() < 0.6:
            return [self.node(scope)]
        order = self.rng.sample(sorted(scope), len(scope))
        cut = self.rng.randint(1, len(order) - 1)
        return [self.node(frozenset(order[:cut])), self.node(frozenset(order[cut:]))]


def hand_built(rng: Random, cards: Cards | None = None) -> Circuit:
    return HandBuilt(rng, cards or cardinalities(rng), deterministic=True).build()


def hand_built_mixture(rng: Random, cards: Cards | None = None) -> Circuit:
    return HandBuilt(rng, cards or cardinalities(rng), deterministic=False).build()


FAMILIES: dict[str, Callable[..., Circuit]] = {
    "mean_field": mean_field,
    "markov_chain": markov_chain,
    "tree": tree,
    "keep_set": keep_set,
    "keep_set_shapes": keep_set_shapes,
    "clique_tree": clique_tree,
    "selective": selective,
    "decision_diagram": decision_diagram,
    "constraint": constraint,
    "cutset": cutset,
    "random_binary": random_binary,
    "latent_tree": latent_tree,
    "mixture": mixture,
    "hand_built": hand_built,
    "hand_built_mixture": hand_built_mixture,
}


def circuit_of(family: str, seed: int) -> Circuit:
    return FAMILIES[family](Random(f"{family} {seed}"))


def recipes(*families: str) -> st.SearchStrategy[tuple[str, int]]:
    """Hypothesis strategy for the arguments of `circuit_of`, over some families (all when none are named)."""
    return st.tuples(st.sampled_from(families or tuple(FAMILIES)), st.integers(0, 1 << 30))


def plain_nodes(circuit: Circuit) -> list[tuple]:
    return [
        ("input", node.variable, node.values)
        if isinstance(node, circuits.Input)
        else (type(node).__name__.lower(), node.children)
        for node in circuit.nodes
    ]


def plain_logits(circuit: Circuit, logits: torch.Tensor) -> dict[int, np.ndarray]:
    numbers = logits.detach().double().numpy()
    slices = {index: circuit.parameters_of(index) for index in range(circuit.num_nodes)}
    return {index: numbers[..., where] for index, where in slices.items() if where.stop > where.start}


def logits_from(circuit: Circuit, plain: dict[int, np.ndarray]) -> torch.Tensor:
    """The opposite of `plain_logits`, for one row."""
    logits = torch.zeros(circuit.num_parameters, dtype=torch.float64)
    for index, numbers in plain.items():
        logits[circuit.parameters_of(index)] = torch.as_tensor(numbers)
    return logits


def numpy_rng(rng: Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(64))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_distribution(circuit: Circuit, generator: torch.Generator) -> CircuitDistribution:
    """Normal logits in float64."""
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64)
    return CircuitDistribution(circuit, logits)


def random_logits(rng: Random, circuit: Circuit, batch: tuple[int, ...], *, scale: float = 1.5) -> torch.Tensor:
    """Normal logits in float64; one in four draws switches some edges off (never all edges of a node)."""
    noise = numpy_rng(rng)
    logits = torch.from_numpy(noise.normal(0, scale, (*batch, circuit.num_parameters)))
    if rng.random() < 0.25:
        off = torch.from_numpy(noise.random((*batch, circuit.num_parameters)) < 0.15)
        for index in range(circuit.num_nodes):
            where = circuit.parameters_of(index)
            if where.stop > where.start:
                off[..., where.start + rng.randrange(where.stop - where.start)] = False
        logits[off] = -torch.inf
    return logits


EVIDENCE = ("value", "list", "mask", "soft", "rows", "wider")


def random_evidence(rng: Random, cards: tuple[int, ...], batch: tuple[int, ...], kind: str) -> tuple[Any, np.ndarray]:
    """Evidence as a user gives it, and the same as log weights (*evidence batch, n, k_max)."""
    n, width, noise = len(cards), max(cards), numpy_rng(rng)
    mask = np.ones((n, width), dtype=bool)
    if kind in ("value", "list"):
        given = {}
        for variable in subset(rng, n, 0):
            allowed = [rng.randrange(cards[variable])] if kind == "value" else subset(rng, cards[variable])
            given[variable] = allowed[0] if kind == "value" else allowed
            mask[variable] = np.isin(np.arange(width), allowed)
        return given, np.where(mask, 0.0, -np.inf)
    shape = {"mask": (), "soft": batch, "rows": batch, "wider": (2, *batch)}[kind]
    allowed = noise.random((*shape, n, width)) < 0.7
    for variable, cardinality in enumerate(cards):
        keep = noise.integers(0, cardinality, shape)
        allowed[..., variable, :] |= np.arange(width) == keep[..., None]
    if kind == "soft":
        weights = np.where(allowed, noise.normal(0, 2, allowed.shape), -np.inf)
        return torch.from_numpy(weights), weights
    weights = np.where(allowed, 0.0, -np.inf)
    return (torch.from_numpy(allowed) if rng.random() < 0.5 else allowed), weights


def random_factors(
    rng: Random, cards: tuple[int, ...], batch: tuple[int, ...], *, most: int = 4
) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """Factors of zero to `most` variables in random axis order; their batch shapes broadcast to `batch`."""
    noise = numpy_rng(rng)
    factors = []
    for _ in range(rng.randint(1, 5)):
        scope = tuple(subset(rng, len(cards), 0, most)) if most else ()
        own = rng.choice([batch, (), tuple(1 for _ in batch), batch[-1:]])
        factors.append((scope, torch.from_numpy(noise.normal(0, 1, (*own, *(cards[v] for v in scope))))))
    return factors
