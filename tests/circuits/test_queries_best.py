"""The m best joint values, max-marginals and the variance of the log probability, beyond what the contract asks."""

import pytest
import torch
from torch.autograd import gradcheck

from circuits import Circuit, CircuitBuilder, CircuitDistribution, NotTractableError, structures
from tests import strategies

FAMILIES = ("markov_chain", "tree", "keep_set", "hand_built")


def normal_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def overlapping() -> CircuitDistribution:
    b = CircuitBuilder([2, 2])
    parts = [b.product(b.input(0), b.input(1)) for _ in range(2)]
    c = b.build(b.sum(*parts))
    return CircuitDistribution(c, torch.zeros(c.num_parameters))


@pytest.mark.parametrize("query", ["m_best", "max_marginals", "log_prob_variance"])
def test_overlapping_children_are_refused_by_name(query: str) -> None:
    arguments = (3,) if query == "m_best" else ()
    with pytest.raises(NotTractableError, match=rf"{query} needs determinism, but the sum node 6 over .*keep_set"):
        getattr(overlapping(), query)(*arguments)


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count: int) -> None:
    c = structures.mean_field([2])
    with pytest.raises(ValueError, match=str(count)):
        CircuitDistribution(c, torch.zeros(2)).m_best(count)


def test_more_values_than_there_are() -> None:
    c = structures.markov_chain([2, 3])
    pi = CircuitDistribution(c, normal_logits(2, c.num_parameters)).condition(
        torch.tensor([[[True, True, False], [True, True, True]], [[True, False, False], [True, False, True]]])
    )
    with pytest.raises(ValueError, match="only 2 are possible in batch row 1"):
        pi.m_best(8)
    values, log_probs = pi.m_best(2)
    assert sorted(values[:, 1].tolist()) == [[0, 0], [0, 2]]
    torch.testing.assert_close(log_probs[:, 1].exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    everything, log_probs = CircuitDistribution(c, pi.logits[0]).m_best(6)
    assert sorted(everything.tolist()) == [[i, j] for i in range(2) for j in range(3)]
    torch.testing.assert_close(log_probs.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="only 6 are possible; ask for"):
        CircuitDistribution(c, pi.logits[0]).m_best(7)


def test_ties_are_broken_the_same_way_every_time() -> None:
    c = structures.keep_set([3, 3, 3], labels=9)
    uniform = torch.zeros(4, c.num_parameters)
    first, _ = CircuitDistribution(c, uniform).m_best(27)
    again, _ = CircuitDistribution(c, uniform[:1]).m_best(27)
    assert (first == again).all()
    assert len(first[:, 0].unique(dim=0)) == 27
    shorter, _ = CircuitDistribution(c, uniform).m_best(5)
    assert shorter.shape == (5, 4, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_large_circuits(family: str) -> None:
    """200 variables: the best is the mode, the list descends, its values differ and have the probabilities claimed."""
    n = 200
    c = {
        "markov_chain": lambda: structures.markov_chain([3] * n),
        "tree": lambda: structures.tree([2] * n, strategies.random_parents(strategies.Random(0), n)),
        "keep_set": lambda: structures.keep_set([2] * n, [(i, i + 1) for i in range(n - 1)], labels=4),
        "hand_built": lambda: structures.mean_field([3] * n),
    }[family]()
    pi = CircuitDistribution(c, normal_logits(2, c.num_parameters))
    values, log_probs = pi.m_best(20)
    mode, log_prob = pi.map()
    assert (values[0] == mode).all()
    torch.testing.assert_close(log_probs[0], log_prob, rtol=0, atol=1e-10)
    torch.testing.assert_close(pi.log_prob(values), log_probs, rtol=0, atol=1e-10)
    assert (log_probs[:-1] >= log_probs[1:]).all()
    assert all(len(values[:, row].unique(dim=0)) == 20 for row in range(2))
    best = pi.max_marginals()
    torch.testing.assert_close(best.amax(-1), log_prob.unsqueeze(-1).expand(2, n), rtol=0, atol=1e-10)
    assert (best.argmax(-1) == mode).all()
    forced = pi.condition({7: 1})
    expected = forced.map()[1] + pi.marginals()[:, 7, 1].log()
    torch.testing.assert_close(best[:, 7, 1], expected, rtol=0, atol=1e-10)


def test_the_variance_of_independent_agents_adds_up() -> None:
    probabilities = torch.rand(1000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probabilities /= probabilities.sum(-1, keepdim=True)
    c = structures.mean_field([5] * 1000)
    logits = probabilities.log().flatten()
    logs = probabilities.log()
    mean = (probabilities * logs).sum(-1, keepdim=True)
    expected = (probabilities * (logs - mean) ** 2).sum()
    torch.testing.assert_close(CircuitDistribution(c, logits).log_prob_variance(), expected)


def test_samples_have_the_mean_and_variance_that_the_queries_say() -> None:
    c = structures.markov_chain([4] * 50)
    pi = CircuitDistribution(c, normal_logits(c.num_parameters))
    surprise = -pi.log_prob(pi.sample((4000,), generator=torch.Generator().manual_seed(1)))
    scores = (surprise - pi.entropy()) / pi.log_prob_variance().sqrt()
    assert abs(scores.mean()) < 5 / 4000**0.5
    assert abs(scores.std() - 1) < 0.06


def test_equally_likely_values_have_no_variance() -> None:
    c = structures.keep_set([2, 3, 2], labels=6)
    pi = CircuitDistribution(c, torch.zeros(c.num_parameters, dtype=torch.float64))
    assert pi.log_prob_variance() < 1e-28
    assert pi.condition({0: 0, 1: 1, 2: 0}).log_prob_variance() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_the_variance_equals_finite_differences(family: str) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        number = seed
        while not 0 < (c := strategies.circuit_of(family, number)).num_parameters <= 40:
            number += 100_000
        logits = normal_logits(2, c.num_parameters, seed=seed).requires_grad_()

        def question(x: torch.Tensor, c: Circuit = c) -> torch.Tensor:
            return CircuitDistribution(c, x).log_prob_variance()

        assert gradcheck(question, (logits,), fast_mode=True), f"{family} {number}"


@pytest.mark.parametrize("low", [-torch.inf, -1e4, -3e38])
def test_the_variance_next_to_impossible_values_is_finite(low: float) -> None:
    c = structures.mean_field([3, 2])
    logits = torch.tensor([0.3, low, -0.2, 0.1, 0.4]).requires_grad_()
    pi = CircuitDistribution(c, logits)
    total = pi.log_prob_variance() + pi.condition({0: [0, 1]}).log_prob_variance()
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(total)
    assert torch.isfinite(gradient).all()
    assert gradient[1] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_list_of_one_is_the_mode_and_empty_batches_give_empty_answers(family: str) -> None:
    c = strategies.circuit_of(family, 7)
    n, width = c.num_variables, max(c.cardinalities)
    pi = CircuitDistribution(c, normal_logits(3, c.num_parameters))
    values, log_probs = pi.m_best(1)
    assert (values[0] == pi.mode).all()
    torch.testing.assert_close(log_probs[0], pi.map()[1])
    empty = CircuitDistribution(c, torch.zeros(0, c.num_parameters))
    assert empty.m_best(4)[0].shape == (4, 0, n)
    assert empty.max_marginals().shape == (0, n, width)
    assert empty.log_prob_variance().shape == (0,)
    assert empty.entropy_lower_bound().shape == empty.entropy_upper_bound().shape == (0,)
    assert empty.conditionals(torch.zeros(2, 0, n, dtype=torch.long)).shape == (2, 0, n, width)
    assert all(table.shape[0] == 0 for table in empty.pair_marginals([(0, v) for v in range(1, n)]))


def test_variables_with_one_value_need_no_numbers() -> None:
    c = structures.mean_field([1, 1])
    pi = CircuitDistribution(c, torch.zeros(3, 0))
    values, log_probs = pi.m_best(1)
    assert values.tolist() == [[[0, 0]] * 3]
    assert log_probs.tolist() == [[0.0] * 3]
    assert pi.max_marginals().tolist() == [[[0.0], [0.0]]] * 3
    assert pi.conditionals(torch.tensor([0, 0])).tolist() == [[[1.0], [1.0]]] * 3
    assert pi.log_prob_variance().tolist() == [0.0] * 3
