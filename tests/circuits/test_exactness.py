"""Every query equals enumeration, on every family of circuits, with and without evidence."""

import ast
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, ImpossibleEvidenceError, NotTractableError, queries
from tests import oracles, strategies
from tests.contracts import QUERY_ROWS, Case, assert_close, build_case, case_of
from tests.seeds import first_now

COUNTS = {
    "mean_field": 20,
    "markov_chain": 80,
    "tree": 100,
    "keep_set": 120,
    "hand_built": 140,
    "hand_built_mixture": 100,
}
"""Random circuits per family: 560, a sixteenth of them in every run of the tests."""

SEEDS = [
    case for family, count in COUNTS.items() for case in first_now([(family, seed) for seed in range(count)], 0.0625)
]


def check_every_query(case: Case, where: str) -> None:
    for row in QUERY_ROWS:
        if row.needs_determinism and not case.deterministic:
            assert row.refuses is not None
            with pytest.raises(NotTractableError, match=r"sum node \d+"):
                row.refuses(case.pi)
        else:
            assert_close(row.call(case), row.oracle(case), f"{row.name} {where}")


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("family", "seed"), SEEDS)
def test_every_query_equals_enumeration(family: str, seed: int) -> None:
    case = build_case(family, seed)
    np.testing.assert_allclose(case.joint.sum(oracles.axes(case.joint, case.n)), 1.0, atol=1e-12)
    check_every_query(case, "without evidence")
    for kind in strategies.EVIDENCE[seed % 2 :: 2]:
        evidence, log_weights = strategies.random_evidence(case.rng, case.cards, case.batch, kind)
        joint, log_evidence = oracles.condition(case.joint, oracles.evidence_table(log_weights, case.cards), case.n)
        assert_close(case.pi.log_evidence(evidence), log_evidence, f"log_evidence of {kind}")
        if np.isinf(log_evidence).any():
            with pytest.raises(ImpossibleEvidenceError, match="probability zero"):
                case.pi.condition(evidence)
            continue
        given = Case(
            rng=case.rng,
            pi=case.pi.condition(evidence),
            joint=joint,
            partner=case.partner,
            partner_joint=case.partner_joint,
            deterministic=case.deterministic,
        )
        assert tuple(given.pi.batch_shape) == log_evidence.shape
        check_every_query(given, f"given {kind}")


@pytest.mark.parametrize("seed", range(12))
def test_conditioning_twice_is_conditioning_on_both(seed: int) -> None:
    case = build_case(("tree", "keep_set", "hand_built", "hand_built_mixture")[seed % 4], 1000 + seed)
    evidence = [strategies.random_evidence(case.rng, case.cards, case.batch, kind) for kind in ("mask", "soft")]
    weights = evidence[0][1] + evidence[1][1]
    joint, log_evidence = oracles.condition(case.joint, oracles.evidence_table(weights, case.cards), case.n)
    if np.isinf(log_evidence).any():
        with pytest.raises(ImpossibleEvidenceError):
            case.pi.condition(evidence[0][0]).condition(evidence[1][0])
        return
    both = case.pi.condition(evidence[0][0]).condition(evidence[1][0])
    assert_close(both.marginals(), oracles.marginals(joint, case.n), "marginals")
    everything = tuple(range(case.n))
    assert_close(both.marginal(everything), joint, "joint table")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("seed", range(200))
def test_joint_table_in_exact_arithmetic(seed: int) -> None:
    """Integer weights and fractions: no rounding in the oracle at all."""
    rng = Random(seed)
    circuit = strategies.circuit_of(rng.choice(list(strategies.FAMILIES)), 5000 + seed)
    if np.prod(circuit.cardinalities) * circuit.num_edges > 8000:
        circuit = strategies.circuit_of("mean_field", seed)
    nodes = strategies.plain_nodes(circuit)
    slices = {i: circuit.parameters_of(i) for i in range(circuit.num_nodes)}
    weights = {i: [rng.randint(1, 9) for _ in range(s.stop - s.start)] for i, s in slices.items() if s.stop > s.start}
    logits = strategies.logits_from(circuit, {i: np.log(w) for i, w in weights.items()})
    exact = oracles.joint_table_of_fractions(circuit.cardinalities, nodes, weights)
    assert sum(exact.values()) == 1
    pi = CircuitDistribution(circuit, logits)
    actual = pi.log_prob(torch.tensor(list(exact))).exp()
    np.testing.assert_allclose(actual.numpy(), [float(p) for p in exact.values()], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_float32_agrees_with_float64(seed: int) -> None:
    case = build_case(("markov_chain", "tree", "keep_set", "hand_built")[seed % 4], 2000 + seed)
    narrow = CircuitDistribution(case.circuit, case.pi.logits.float())
    for name in ("entropy", "marginals", "total_correlation"):
        exact, rounded = getattr(case.pi, name)(), getattr(narrow, name)()
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        narrow.log_prob(case.values).double(), case.pi.log_prob(case.values), rtol=1e-5, atol=1e-5
    )


@pytest.mark.one_in(6)
@pytest.mark.parametrize("seed", range(6))
def test_a_batch_equals_a_loop_over_its_rows(seed: int) -> None:
    rng = Random(seed)
    circuit = strategies.circuit_of(("tree", "keep_set", "hand_built")[seed % 3], 3000 + seed)
    case = case_of(rng, circuit, (2, 3))
    answers = {row.name: row.call(case) for row in QUERY_ROWS if row.name in ("entropy", "marginals")}
    everything = tuple(range(case.n))
    for i, j in np.ndindex(2, 3):
        row = CircuitDistribution(circuit, case.pi.logits[i, j])
        torch.testing.assert_close(row.entropy(), answers["entropy"][i, j], rtol=0, atol=1e-13)
        torch.testing.assert_close(row.marginals(), answers["marginals"][i, j], rtol=0, atol=1e-13)
        torch.testing.assert_close(row.marginal(everything), case.pi.marginal(everything)[i, j], rtol=0, atol=1e-13)


@pytest.mark.parametrize("family", ["markov_chain", "tree", "keep_set", "hand_built"])
def test_an_empty_batch_gives_empty_answers(family: str) -> None:
    circuit = strategies.circuit_of(family, 7)
    pi = CircuitDistribution(circuit, torch.zeros(0, circuit.num_parameters))
    n, width = circuit.num_variables, max(circuit.cardinalities)
    assert pi.entropy().shape == (0,)
    assert pi.marginals().shape == (0, n, width)
    assert pi.sample((2,)).shape == (2, 0, n)
    assert pi.mode.shape == (0, n)
    assert pi.log_prob(torch.zeros(2, 0, n, dtype=torch.long)).shape == (2, 0)
    assert pi.condition({0: 0}).batch_shape == (0,)
    assert pi.condition(torch.zeros(0, n, width)).batch_shape == (0,)
    assert pi.marginal(tuple(range(n))).shape == (0, *circuit.cardinalities)
    assert pi.expectation([((0,), torch.ones(circuit.cardinalities[0]))]).shape == (0,)


def test_variables_with_one_value_need_no_numbers() -> None:
    for builder in (lambda c: strategies.structures.mean_field(c), lambda c: strategies.structures.keep_set(c)):
        circuit = builder((1, 1))
        assert circuit.num_parameters == 0
        pi = CircuitDistribution(circuit, torch.zeros(3, 0))
        assert pi.sample((2,)).tolist() == [[[0, 0]] * 3] * 2
        assert pi.mode.tolist() == [[0, 0]] * 3
        assert pi.entropy().tolist() == [0.0] * 3
        assert pi.log_prob(torch.tensor([0, 0])).tolist() == [0.0] * 3
        assert pi.marginal([1, 0]).tolist() == [[[1.0]]] * 3
        assert pi.condition({0: 0}).marginals().tolist() == [[[1.0], [1.0]]] * 3


def test_every_query_has_a_row() -> None:
    assert {row.name for row in QUERY_ROWS} == set(queries.__all__)


def test_oracles_import_nothing_of_ours() -> None:
    tree = ast.parse(Path(oracles.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert imported == {"fractions", "itertools", "math", "numpy"}
