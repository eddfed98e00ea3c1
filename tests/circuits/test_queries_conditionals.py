"""Full conditionals and pair tables, beyond what the contract asks: impossible values, gradients, large circuits."""

import importlib
from random import Random

import pytest
import torch
from torch.autograd import gradcheck

from circuits import CircuitBuilder, CircuitDistribution, EvidenceError, ImpossibleEvidenceError, structures
from tests import oracles, strategies
from tests.contracts import assert_close, build_case

FAMILIES = ("tree", "keep_set", "hand_built", "hand_built_mixture")


def normal_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(24))
def test_any_value_whose_rests_are_possible(seed: int) -> None:
    case = build_case(FAMILIES[seed % 4], 20_000 + seed)
    expected = oracles.conditionals(case.joint, case.n, case.values.numpy())
    undefined = torch.from_numpy(expected).isnan().any(-1)
    if undefined.any():
        with pytest.raises(ImpossibleEvidenceError, match="variable"):
            case.pi.conditionals(case.values)
    for sample in range(len(case.values)):
        if not undefined[sample].any():
            assert_close(case.pi.conditionals(case.values[sample]), expected[sample], "conditionals")


def test_an_impossible_value_has_conditionals_when_its_rests_are_possible() -> None:
    b = CircuitBuilder([2, 2])
    zero = b.product(b.input(0, [0]), b.input(1))
    one = b.product(b.input(0, [1]), b.input(1, [0]))
    pi = CircuitDistribution(c := b.build(b.sum(zero, one)), torch.zeros(c.num_parameters))
    value = torch.tensor([1, 1])
    assert pi.log_prob(value) == -torch.inf
    assert pi.conditionals(value).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_the_error_names_every_row_and_variable() -> None:
    c = structures.markov_chain([2, 2])
    copies = CircuitDistribution(c, torch.zeros(3, c.num_parameters)).condition({0: 0})
    with pytest.raises(ImpossibleEvidenceError) as caught:
        copies.conditionals(torch.tensor([[[0, 0]], [[1, 0]]]).expand(2, 3, 2))
    message = str(caught.value)
    assert all(f"variable 1 of row (1, {row})" in message for row in range(3))
    assert "variable 0 of" not in message
    assert "samples" in message
    with pytest.raises(ImpossibleEvidenceError, match=r"zero: variable 1; pass"):
        CircuitDistribution(c, torch.zeros(c.num_parameters)).condition({0: 0}).conditionals(torch.tensor([1, 0]))


def test_values_broadcast_and_split_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    c = structures.keep_set([2, 3, 2], labels=6)
    pi = CircuitDistribution(c, normal_logits(4, c.num_parameters))
    values = pi.sample((5, 2), generator=torch.Generator().manual_seed(0))
    whole, log_prob = pi.conditionals(values), pi.log_prob(values)
    assert whole.shape == (5, 2, 4, 3, 3)
    monkeypatch.setattr(importlib.import_module("circuits.queries.log_prob"), "_CHUNK", 1)
    torch.testing.assert_close(pi.conditionals(values), whole, rtol=0, atol=0)
    torch.testing.assert_close(pi.log_prob(values), log_prob, rtol=1e-14, atol=0)
    torch.testing.assert_close(pi.conditionals(values[1, 0, 2])[2], whole[1, 0, 2])
    assert pi.conditionals(torch.zeros(0, 4, 3, dtype=torch.long)).shape == (0, 4, 3, 3)


def test_values_out_of_range_are_refused() -> None:
    c = structures.markov_chain([2, 2])
    with pytest.raises(ValueError, match="variable 1 takes the values 0 to 1"):
        CircuitDistribution(c, torch.zeros(c.num_parameters)).conditionals(torch.tensor([0, 2]))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_finite_differences(family: str) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        number = seed
        while not 0 < (c := strategies.circuit_of(family, number)).num_parameters <= 40:
            number += 100_000
        logits = normal_logits(2, c.num_parameters, seed=seed).requires_grad_()
        values = CircuitDistribution(c, logits).sample((2,), generator=torch.Generator().manual_seed(seed))

        def question(x: torch.Tensor, c=c, values=values) -> torch.Tensor:
            return CircuitDistribution(c, x).conditionals(values)

        assert gradcheck(question, (logits,), eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True), f"{family} {number}"


def test_gradients_next_to_impossible_values_hold_no_nan() -> None:
    c = structures.keep_set([2, 3, 2], labels=6)
    logits = normal_logits(c.num_parameters).requires_grad_()
    pi = CircuitDistribution(c, logits).condition({0: [1], 1: [0, 2]})
    (gradient,) = torch.autograd.grad(pi.conditionals(torch.tensor([1, 2, 0]))[2, 0], logits)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_two_hundred_variables_agree_with_conditioning_one_by_one() -> None:
    n = 200
    c = structures.markov_chain([3] * n)
    pi = CircuitDistribution(c, normal_logits(c.num_parameters))
    value = pi.sample(generator=torch.Generator().manual_seed(0))
    table = pi.conditionals(value)
    torch.testing.assert_close(table.sum(-1), torch.ones(n, dtype=torch.float64))
    for variable in (0, 1, 100, 199):
        given = {other: int(value[other]) for other in range(n) if other != variable}
        torch.testing.assert_close(table[variable], pi.condition(given).marginals()[variable])


def test_pairs_in_one_pass_are_the_tables_asked_one_by_one() -> None:
    rng = Random(0)
    cards = [rng.randint(2, 4) for _ in range(60)]
    c = structures.tree(cards, strategies.random_parents(rng, 60))
    pi = CircuitDistribution(c, normal_logits(3, c.num_parameters))
    pairs = [tuple(rng.sample(range(60), 2)) for _ in range(20)]
    pairs.append(pairs[0])
    tables = pi.pair_marginals(pairs)
    for (i, j), table in zip(pairs, tables, strict=True):
        assert table.shape == (3, cards[i], cards[j])
        torch.testing.assert_close(table, pi.marginal([i, j]))
    assert pi.pair_marginals([]) == []


@pytest.mark.parametrize("wrong", [(0,), (0, 1, 2), (0, 0), (0, 3), (-1, 0)])
def test_what_is_not_a_pair_is_refused(wrong: tuple[int, ...]) -> None:
    c = structures.mean_field([2, 2, 2])
    with pytest.raises(EvidenceError):
        CircuitDistribution(c, torch.zeros(c.num_parameters)).pair_marginals([(0, 1), wrong])


def test_pair_tables_have_gradients() -> None:
    c = structures.keep_set([2, 3, 2], labels=4)
    logits = normal_logits(c.num_parameters).requires_grad_()
    assert gradcheck(
        lambda x: torch.cat([t.flatten() for t in CircuitDistribution(c, x).pair_marginals([(0, 1), (2, 0)])]),
        (logits,),
    )
