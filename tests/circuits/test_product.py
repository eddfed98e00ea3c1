"""Products of circuits: against enumeration, and everything that is built on them."""

import gc
import weakref
from collections.abc import Callable
from importlib import import_module
from random import Random

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from circuits import (
    Circuit,
    CircuitDistribution,
    ImpossibleEvidenceError,
    NotTractableError,
    StructureError,
    operations,
    structures,
)
from circuits.operations.product import match
from tests import oracles, strategies
from tests.contracts import assert_close

Cards = tuple[int, ...]

POLICIES: dict[str, Callable[[Cards], Circuit]] = {
    "mean_field": structures.mean_field,
    "markov_chain": lambda cards: structures.markov_chain(cards, order=2),
    "tree": lambda cards: structures.tree(cards, [-1, *(v // 2 for v in range(len(cards) - 1))]),
    "keep_set chain": lambda cards: structures.keep_set(cards, labels=6, shape="chain"),
    "keep_set balanced": lambda cards: structures.keep_set(cards, labels=6, shape="balanced"),
    "selective": lambda cards: structures.selective(cards, copies=4, seed=None),
    "decision_diagram": lambda cards: structures.decision_diagram(cards, width=4, seed=1),
    "cutset": lambda cards: structures.cutset(cards, depth=min(2, len(cards))),
    "random_binary": lambda cards: structures.random_binary(cards, sums=2, repetitions=1, depth=0),
}
PARTNERS: dict[str, Callable[[Cards], Circuit]] = {
    "mean_field": structures.mean_field,
    "markov_chain": structures.markov_chain,
    "tree backwards": lambda cards: structures.tree(cards, [*range(1, len(cards)), -1]),
    "exactly": lambda cards: operations.exactly(cards, range(1, 3)),
    "all_different": lambda cards: operations.all_different(cards, exempt=[0]),
    "decision_diagram": lambda cards: structures.decision_diagram(cards, width=3, seed=2),
    "keep_set balanced": lambda cards: structures.keep_set(cards, labels=4, shape="balanced"),
    "mixture": lambda cards: operations.mixture(structures.mean_field(cards), structures.markov_chain(cards)),
}
CARDS: tuple[Cards, ...] = ((2, 3, 2, 3), (3, 1, 2, 2), (4,), (2, 2), (2, 2, 3, 2, 2))
BATCHES = (((), ()), ((3,), ()), ((), (2,)), ((2, 1), (3,)), ((2, 3), (2, 3)))
PAIRS = [(a, b, number) for number, (a, b) in enumerate((a, b) for a in POLICIES for b in PARTNERS)]
SOME_PAIRS = [pytest.param(*pair, marks=pytest.mark.slow if pair[2] % 5 else ()) for pair in PAIRS]
"""Every fifth in every run, which meets each policy and each partner; all in the long ones."""


def table_of(pi: CircuitDistribution) -> np.ndarray:
    circuit = pi.circuit
    plain = strategies.plain_logits(circuit, pi.logits)
    return oracles.joint_table(circuit.cardinalities, strategies.plain_nodes(circuit), plain, tuple(pi.batch_shape))


def random_distribution(rng: Random, circuit: Circuit, batch: tuple[int, ...]) -> CircuitDistribution:
    return CircuitDistribution(circuit, strategies.random_logits(rng, circuit, batch))


def check_product(p: CircuitDistribution, q: CircuitDistribution) -> None:
    """Compare products, constraints and divergences with the joint tables."""
    n = p.circuit.num_variables
    ours, theirs = table_of(p), table_of(q)
    joint, log_total = oracles.condition(ours, theirs, n)
    if np.isinf(log_total).any():
        with pytest.raises(ImpossibleEvidenceError, match="probability zero"):
            p.multiply(q)
    else:
        product, total = p.multiply(q)
        assert tuple(product.batch_shape) == log_total.shape
        assert_close(total, log_total, "normaliser")
        assert_close(table(product), joint, "product")
        check_closed(product, joint)
    check_constraint(p, ours, q.circuit)
    if not q.circuit.is_deterministic:
        with pytest.raises(NotTractableError, match=r"cross_entropy needs determinism.*sum node \d+"):
            p.cross_entropy(q)
        return
    kl = oracles.kl(ours, theirs, n)
    assert_close(p.cross_entropy(q), kl + oracles.entropy(ours, n), "cross-entropy")
    if p.circuit.is_deterministic:
        assert_close(p.kl_divergence(q), kl, "divergence")


def table(pi: CircuitDistribution) -> torch.Tensor:
    return pi.marginal(range(pi.circuit.num_variables))


def check_constraint(p: CircuitDistribution, ours: np.ndarray, constraint: Circuit) -> None:
    n = p.circuit.num_variables
    even = CircuitDistribution(constraint, torch.zeros(constraint.num_parameters, dtype=torch.float64))
    if not constraint.is_deterministic:
        with pytest.raises(NotTractableError, match=r"counts once, but .*sum node \d+"):
            p.constrain(constraint)
        return
    joint, log_probability = oracles.condition(ours, (table_of(even) > 0).astype(float), n)
    if np.isinf(log_probability).any():
        with pytest.raises(ImpossibleEvidenceError, match="the constraint .* has probability zero"):
            p.constrain(constraint)
        return
    given, probability = p.constrain(constraint)
    assert_close(probability, log_probability, "log probability of the constraint")
    assert_close(table(given), joint, "given the constraint")
    assert given.batch_shape == p.batch_shape


def check_closed(pi: CircuitDistribution, joint: np.ndarray) -> None:
    """Every question can be asked of a product, the product among them."""
    n = pi.circuit.num_variables
    assert_close(pi.marginals(), oracles.marginals(joint, n), "marginals")
    value = pi.sample(generator=torch.Generator().manual_seed(0))
    assert pi.log_prob(value).isfinite().all()
    evidence = torch.linspace(-1, 1, n * max(pi.circuit.cardinalities), dtype=torch.float64).reshape(n, -1)
    conditional, _ = oracles.condition(joint, oracles.evidence_table(evidence.numpy(), pi.circuit.cardinalities), n)
    assert_close(table(pi.condition(evidence)), conditional, "conditional")
    if pi.circuit.is_deterministic:
        assert_close(pi.entropy(), oracles.entropy(joint, n), "entropy")
        assert_close(pi.map()[1].exp(), joint.max(oracles.axes(joint, n)), "mode")
        assert_close(pi.kl_divergence(pi), np.zeros(pi.batch_shape), "divergence from itself")
    squared, _ = oracles.condition(joint, joint, n)
    if pi.circuit.is_structured:
        assert_close(table(pi.multiply(pi)[0]), squared, "square")


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("policy", "partner", "number"), SOME_PAIRS)
def test_products_equal_enumeration(policy: str, partner: str, number: int) -> None:
    rng = Random(number)
    for step, cards in enumerate(CARDS):
        first, second = POLICIES[policy](cards), PARTNERS[partner](cards)
        batch, other_batch = BATCHES[(number + step) % len(BATCHES)]
        check_product(random_distribution(rng, first, batch), random_distribution(rng, second, other_batch))


@pytest.mark.one_in(6)
@pytest.mark.parametrize("seed", range(40))
def test_hand_built_circuits_times_others(seed: int) -> None:
    """Random splits; pairs that cross are refused with both splits, all others are exact."""
    rng = Random(seed)
    cards = tuple(rng.choice([1, 2, 2, 3]) for _ in range(rng.randint(1, 5)))
    first = strategies.HandBuilt(rng, cards, deterministic=seed % 3 > 0, budget=20).build()
    others = [structures.mean_field(cards), structures.markov_chain(cards)]
    others.append(strategies.HandBuilt(rng, cards, deterministic=seed % 2 > 0, budget=20).build())
    for second in others:
        p, q = (random_distribution(rng, c, b) for c, b in zip((first, second), BATCHES[seed % 5], strict=True))
        try:
            match(first, second)
        except NotTractableError:
            assert second.name != "mean_field"
            continue
        check_product(p, q)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(20))
def test_trees_over_different_parents(seed: int) -> None:
    rng = Random(seed)
    cards = (2, 3, 2, 2, 3)
    trees = [structures.tree(cards, strategies.random_parents(rng, 5)) for _ in range(2)]
    try:
        match(*trees)
    except NotTractableError:
        return
    check_product(*(random_distribution(rng, tree, ()) for tree in trees))


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("policy", "partner", "number"), PAIRS)
def test_products_of_deterministic_circuits_are_proved_deterministic(policy: str, partner: str, number: int) -> None:
    """Also by the proof from the nodes alone, as after loading."""
    for cards in ((2, 3, 2, 3), (3, 1, 2, 2)):
        first, second = POLICIES[policy](cards), PARTNERS[partner](cards)
        matched = match(first, second)
        if matched is not None and first.is_deterministic and second.is_deterministic:
            made = matched.circuit
            assert made.is_deterministic
            assert not oracles.overlapping_sums(cards, strategies.plain_nodes(made))
            assert Circuit(cards, made.nodes).is_deterministic


@pytest.mark.parametrize(
    ("policy", "partner"),
    [("markov_chain", "exactly"), ("keep_set balanced", "all_different"), ("tree", "markov_chain")],
)
def test_gradients_equal_finite_differences(policy: str, partner: str) -> None:
    torch.manual_seed(0)
    cards = (2, 3, 2)
    first, second = POLICIES[policy](cards), PARTNERS[partner](cards)
    ours = torch.randn(2, first.num_parameters, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(second.num_parameters, dtype=torch.float64, requires_grad=True)
    full = structures.keep_set(cards, labels=4)
    others = torch.randn(full.num_parameters, dtype=torch.float64, requires_grad=True)

    def multiplied(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        product, total = CircuitDistribution(first, x).multiply(CircuitDistribution(second, y))
        return total, product.marginals(), product.entropy()

    def constrained(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given, probability = CircuitDistribution(first, x).constrain(second)
        return probability, given.marginals(), given.entropy()

    def divergence(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return CircuitDistribution(first, x).kl_divergence(CircuitDistribution(full, y))

    def constrained_divergence(x: torch.Tensor) -> torch.Tensor:
        given, _ = CircuitDistribution(first, x).constrain(second)
        return given.kl_divergence(CircuitDistribution(first, x))

    assert gradcheck(multiplied, (ours, theirs), fast_mode=True)
    assert gradcheck(constrained, (ours,), fast_mode=True)
    assert gradcheck(divergence, (ours, others), fast_mode=True)
    assert gradcheck(constrained_divergence, (ours,), fast_mode=True)


def test_the_divergence_of_a_conditional_is_the_log_probability_of_its_condition() -> None:
    """KL(p(. | C) || p) = -log P(C), and its gradient stays finite; the other way round it is infinite."""
    cards = [3] * 6
    chain = structures.keep_set(cards, [(i, i + 1) for i in range(5)], labels=3)
    logits = torch.randn(4, chain.num_parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits.requires_grad_()
    pi = CircuitDistribution(chain, logits)
    given, log_probability = pi.constrain(operations.exactly(cards, 2))
    divergence = given.kl_divergence(pi)
    torch.testing.assert_close(divergence, -log_probability)
    assert torch.autograd.grad(divergence.sum(), logits, retain_graph=True)[0].isfinite().all()
    assert (pi.kl_divergence(given) == torch.inf).all()
    mixed = torch.where(torch.tensor([True, False, True, False]), divergence, pi.kl_divergence(given))
    (gradient,) = torch.autograd.grad(mixed[mixed.isfinite()].sum(), logits)
    assert gradient.isfinite().all()


def test_a_joint_value_too_rare_for_floating_point_still_makes_the_divergence_infinite() -> None:
    cards = [2] * 40
    policy, constraint = structures.mean_field(cards), operations.exactly(cards, range(40))
    logits = torch.zeros(policy.num_parameters, dtype=torch.float64)
    logits[1::2] = -30.0
    pi = CircuitDistribution(policy, logits)
    uniform = CircuitDistribution(constraint, torch.zeros(constraint.num_parameters, dtype=torch.float64))
    assert pi.kl_divergence(uniform) == torch.inf
    logits = logits.clone()
    logits[1] = -torch.inf
    assert CircuitDistribution(policy, logits).kl_divergence(uniform).isfinite()


def test_switched_off_edges_have_values_and_gradients_without_nan() -> None:
    cards = (2, 3, 2)
    first, second = structures.markov_chain(cards), structures.keep_set(cards, labels=4)
    rng = Random(5)
    for _ in range(20):
        pair = []
        for circuit in (first, second):
            noise = strategies.numpy_rng(rng)
            logits = torch.from_numpy(noise.normal(0, 1, (3, circuit.num_parameters)))
            logits[:, circuit.parameters_of(circuit.num_nodes - 1).start + rng.randrange(2)] = -torch.inf
            pair.append(logits.requires_grad_())
        p, q = CircuitDistribution(first, pair[0]), CircuitDistribution(second, pair[1])
        values = [p.kl_divergence(q), q.cross_entropy(p)]
        try:
            product, total = p.multiply(q)
            values += [total, product.entropy()]
        except ImpossibleEvidenceError:
            pass
        loss = sum(torch.where(value.isfinite(), value, 0.0).sum() for value in values)
        assert all(not gradient.isnan().any() for gradient in torch.autograd.grad(loss, pair, allow_unused=True))
        assert all(not value.isnan().any() for value in values)


def test_impossible_products_name_the_rows() -> None:
    policy, constraint = structures.mean_field([2, 2]), operations.exactly([2, 2], 2)
    logits = torch.zeros(3, policy.num_parameters)
    logits[1, policy.parameters_of(0).start + 1] = -torch.inf
    pi = CircuitDistribution(policy, logits)
    with pytest.raises(
        ImpossibleEvidenceError, match=r"the constraint 'exactly.*' has probability zero in batch rows 1;"
    ):
        pi.constrain(constraint)
    never = CircuitDistribution(operations.exactly([2, 2], 0), torch.zeros(0))
    with pytest.raises(ImpossibleEvidenceError, match="the product of the two distributions has probability zero;"):
        never.multiply(CircuitDistribution(constraint, torch.zeros(0)))
    with pytest.raises(ImpossibleEvidenceError, match="probability zero;"):
        never.constrain(constraint)
    assert never.kl_divergence(CircuitDistribution(constraint, torch.zeros(2, 0))).tolist() == [torch.inf] * 2
    with pytest.raises(StructureError, match=r"no joint value is possible in both 'exactly.*' and 'exactly"):
        operations.product(never.circuit, constraint)


def test_incompatible_circuits_are_refused_with_both_splits() -> None:
    """A ring folded into a chain of pairs, and a counter that reads it in order."""
    cards = [2] * 8
    ring = [(v, (v + 1) % 8) for v in range(8)]
    first, second = structures.keep_set(cards, ring, labels=4, shape="chain"), operations.exactly(cards, 3)
    message = (
        r"'keep_set.*' splits product node \d+ into \{2, 3, 6, 7\} \| \{4\}, "
        r"'exactly.*' splits product node \d+ into \{2\} \| \{3, 4, 6, 7\}\. Build one of them along"
    )
    with pytest.raises(NotTractableError, match=message):
        operations.product(first, second)
    p, q = (CircuitDistribution(c, torch.zeros(c.num_parameters)) for c in (first, second))
    for call in (lambda: p.multiply(q), lambda: p.constrain(second), lambda: p.kl_divergence(q)):
        with pytest.raises(NotTractableError, match="compatible"):
            call()
    with pytest.raises(StructureError, match=r"cardinalities \(2, 2, .*\) and \(2, 3\)"):
        operations.product(first, structures.mean_field([2, 3]))


def test_products_that_would_be_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # The function of the same name hides the module from attribute access.
    monkeypatch.setattr(import_module("circuits.operations.product"), "_MOST_TERMS", 50)
    with pytest.raises(NotTractableError, match="more than 50 edges"):
        operations.product(structures.markov_chain([3] * 5), structures.markov_chain([3] * 5))


@pytest.mark.full
def test_sizes() -> None:
    """Pairs without a common joint value are left out, so squares and chains of states do not grow."""
    for circuit in (structures.markov_chain([3] * 30), structures.keep_set([3] * 6, labels=9)):
        square = operations.product(circuit, circuit)
        assert square.num_parameters == circuit.num_parameters
    n, count = 30, 3
    chain, counter = structures.markov_chain([2] * n), operations.exactly([2] * n, count)
    assert operations.product(chain, counter).num_edges < 2 * (count + 1) * chain.num_edges
    assert operations.product(structures.mean_field([2] * 80), operations.exactly([2] * 80, 2)).is_deterministic


def test_a_product_is_built_once_and_forgotten_with_its_circuits() -> None:
    policy, constraint = structures.markov_chain([2] * 4), operations.exactly([2] * 4, 2)
    made = operations.product(policy, constraint)
    assert operations.product(policy, constraint) is made
    watched = [weakref.ref(made), weakref.ref(constraint)]
    del made, constraint
    gc.collect()
    assert [reference() for reference in watched] == [None, None]


def test_two_of_five_agents_act() -> None:
    """Independent agents that act with probability one half: given two act, each acts with probability 2/5."""
    policy = structures.mean_field([2] * 5)
    pi = CircuitDistribution(policy, torch.zeros(policy.num_parameters, dtype=torch.float64))
    given, log_probability = pi.constrain(operations.exactly([2] * 5, 2))
    torch.testing.assert_close(log_probability.exp(), torch.tensor(10 / 32, dtype=torch.float64))
    torch.testing.assert_close(given.marginals()[:, 1], torch.full((5,), 0.4, dtype=torch.float64))
    torch.testing.assert_close(given.entropy(), torch.tensor(10.0, dtype=torch.float64).log())
    assert (given.sample((100,)).sum(-1) == 2).all()
