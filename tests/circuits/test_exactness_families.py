"""Circuits of every family against enumeration, 150 in every run; `make exactness` runs the same check on 10,000."""

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, structures
from tests import oracles, strategies
from tests.exactness import BUILDERS, NATS, PROBABILITY, Tally, check_case, numbered, random_case
from tests.seeds import first_now

PARTS, CIRCUITS = 17, 30


@pytest.mark.full
@pytest.mark.parametrize("part", first_now(range(PARTS), 0.17))
def test_queries_and_masks_equal_enumeration(part: int) -> None:
    tally = Tally()
    for where, case in numbered(part * CIRCUITS, CIRCUITS, seed=1):
        try:
            check_case(case, tally, quick=True)
        except Exception as error:
            error.add_note(where)
            raise
    assert tally.circuits == CIRCUITS
    assert tally.masks > CIRCUITS


def test_every_structure_is_among_the_builders() -> None:
    """A family may be named after its structure or build several; their names show which were built."""
    built = {random_case(family, f"names {seed}").circuit.name for family in BUILDERS for seed in range(12)}
    for name in (*structures.STRUCTURES, "exactly", "all_different", "mixture"):
        assert any(name in circuit for circuit in built), f"no family in tests.strategies builds {name}"


@pytest.mark.parametrize("family", BUILDERS)
def test_both_oracles_agree(family: str) -> None:
    """The oracle by broadcasting shares no step with the one by plain recursion."""
    case = random_case(family, f"oracles {family}")
    nodes = strategies.plain_nodes(case.circuit)
    plain = strategies.plain_logits(case.circuit, case.pi.logits)
    table = oracles.joint_table(case.cards, nodes, plain, case.batch)
    np.testing.assert_allclose(case.joint, table, rtol=0, atol=1e-15)
    assert case.deterministic == (not oracles.overlapping_sums(case.cards, nodes))
    weights = strategies.numpy_rng(case.rng).normal(0, 1, (2, case.n, max(case.cards)))
    first = oracles.evidence_by_broadcasting(weights, case.cards)
    np.testing.assert_allclose(first, oracles.evidence_table(weights, case.cards), rtol=1e-14)


@pytest.mark.parametrize("change", [1e-9, 1e-3])
def test_a_wrong_answer_is_found(change: float) -> None:
    """One logit moved by 1e-9: both the queries and the masks must notice."""
    case = random_case("keep_set", "planted")
    logits = case.pi.logits.clone()
    logits[..., torch.isfinite(logits).flatten(0, -2).all(0).nonzero()[-1]] += change
    case.pi = CircuitDistribution(case.circuit, logits)
    tally = Tally()
    with pytest.raises(AssertionError, match="off by"):
        check_case(case, tally)


def test_the_tally_compares_infinities_and_shapes_exactly() -> None:
    tally = Tally()
    tally.compare(torch.tensor([-torch.inf, 1.0]).double(), np.array([-np.inf, 1.0 + 1e-13]), NATS, "equal")
    assert 0 < tally.worst[NATS] < 2e-13
    assert tally.worst[PROBABILITY] == 0.0
    for wrong in ([0.0, 1.0], [-torch.inf, torch.nan], [-torch.inf, 1.0, 1.0], [torch.inf, 1.0]):
        with pytest.raises(AssertionError, match="what"):
            tally.compare(torch.tensor(wrong).double(), np.array([-np.inf, 1.0]), NATS, "what")
    with pytest.raises(AssertionError, match="type"):
        tally.compare(torch.tensor([1.0]), np.array([1.0]), NATS, "what")
