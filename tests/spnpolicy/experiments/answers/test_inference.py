import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, structures
from spnpolicy.experiments.answers import inference, words


def policy(generator, batch=()):
    circuit = structures.keep_set([2, 3, 2], labels=12)
    logits = torch.randn(*batch, circuit.num_parameters, generator=generator, dtype=torch.float64)
    return CircuitDistribution(circuit, logits)


def table_of(pi):
    return pi.marginal([0, 1, 2]).numpy()


def test_answers_equal_enumeration(generator):
    pi = policy(generator)
    table = table_of(pi)
    answer = inference.ask(pi, {1: [0, 2]})
    kept = table[:, [0, 2]]
    assert answer.probability == pytest.approx(kept.sum())
    assert answer.after[0, :2] == pytest.approx(kept.sum(axis=(1, 2)) / kept.sum())
    assert answer.after[1, 1] == 0
    assert answer.before[1] == pytest.approx(table.sum(axis=(0, 2)))
    best = np.unravel_index(kept.argmax(), kept.shape)
    assert answer.mode == (best[0], (0, 2)[best[1]], best[2])
    assert answer.mode_probability == pytest.approx(kept.max() / kept.sum())


def test_surprise_equals_enumeration(generator):
    pi = policy(generator)
    table = table_of(pi)
    found = inference.surprise(pi, [1, 2, 0])
    assert found.log_likelihood == pytest.approx(np.log(table[1, 2, 0]))
    assert found.total == -found.log_likelihood
    conditionals = [table[1, 2, 0] / total for total in (table[:, 2, 0].sum(), table[1, :, 0].sum(), table[1, 2].sum())]
    assert found.by_agent == pytest.approx(tuple(-np.log(conditionals)))


def test_spread_of_surprise_is_the_standard_deviation(generator):
    pi = policy(generator)
    table = table_of(pi)
    surprises = -np.log(table)
    mean = (table * surprises).sum()
    exact = np.sqrt((table * (surprises - mean) ** 2).sum())
    assert inference.spread_of_surprise(pi, generator=generator, draws=40_000) == pytest.approx(exact, rel=0.05)


def test_change_by_evidence_equals_conditioning_row_by_row(generator):
    policies = policy(generator, (4,))
    probability, change = inference.change_by_evidence(policies, 1, 2)
    for row in range(4):
        answer = inference.ask(CircuitDistribution(policies.circuit, policies.logits[row]), {1: [2]})
        assert probability[row] == pytest.approx(answer.probability)
        moved = np.abs(answer.after - answer.before).sum(axis=1) / 2
        assert change[row] == pytest.approx(moved[0] + moved[2])


def test_change_by_evidence_survives_the_impossible():
    circuit = structures.mean_field([2, 2])
    logits = torch.tensor([0.0, 0.0, 0.0, -1e30])
    probability, change = inference.change_by_evidence(CircuitDistribution(circuit, logits.expand(1, -1)), 1, 1)
    assert probability.tolist() == [0.0]
    assert change.tolist() == [0.0]


def test_words():
    names = ("stay", "up")
    assert words.joint_action([1, 0], names) == "0 up, 1 stay"
    assert words.evidence({2: [0, 1], 0: [1]}, names) == "agent 2 does stay or up, agent 0 does up"
    before, after = np.array([[0.999, 0.001]]), np.array([[0.25, 0.75]])
    assert words.marginals(before, None, names) == ["agent 0: stay 0.999"]
    assert words.marginals(before, after, names) == ["agent 0: stay 0.999 -> 0.250, up 0.001 -> 0.750"]
    certain = inference.Surprise(-0.0, (0.0,))
    assert words.surprise(certain, 1e-12, 1e-12) == "log-likelihood 0.00, surprise 0.00 nats against 0.00 expected"
    odd = inference.Surprise(-5.0, (5.0,))
    assert words.surprise(odd, 1.0, 2.0).endswith("surprise 5.00 nats against 1.00 expected, +2.0 standard deviations")
