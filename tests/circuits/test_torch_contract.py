"""What a user of torch.distributions expects of a distribution."""

import sys

import pytest
import torch
from torch.distributions import Distribution, kl_divergence

from circuits import CircuitDistribution, NotTractableError, StructureError, structures
from tests.contracts import build_case


@pytest.fixture
def pi() -> CircuitDistribution:
    circuit = structures.keep_set([2, 3, 2], labels=6)
    return CircuitDistribution(
        circuit, torch.randn(4, circuit.num_parameters, generator=torch.Generator().manual_seed(0))
    )


def test_it_is_a_distribution(pi: CircuitDistribution) -> None:
    assert isinstance(pi, Distribution)
    assert pi.batch_shape == (4,)
    assert pi.event_shape == (3,)
    assert set(pi.arg_constraints) == {"logits"}
    assert pi.arg_constraints["logits"].check(pi.logits).all()
    wrong = pi.logits.clone()
    wrong[2, 1] = torch.nan
    assert pi.arg_constraints["logits"].check(wrong).tolist() == [True, True, False, True]
    assert pi.has_enumerate_support
    assert not pi.has_rsample


def test_support(pi: CircuitDistribution) -> None:
    values = torch.tensor([[0, 0, 0], [1, 2, 1], [2, 0, 0], [0, -1, 0], [0, 0, 2]])
    assert pi.support.check(values).tolist() == [True, True, False, False, False]
    assert pi.support.check(torch.tensor([0.5, 0.0, 0.0])).item() is False
    assert pi.support.is_discrete
    assert pi.support.event_dim == 1
    assert pi.support.check(pi.sample((100,))).all()


def test_the_support_has_its_name_in_messages() -> None:
    circuit = structures.mean_field([2, 3])
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters))
    assert repr(pi.support) == "JointValues([2, 3])"


def test_log_prob_validates_its_values(pi: CircuitDistribution) -> None:
    for wrong in (
        torch.tensor([0, 3, 0]),
        torch.tensor([0, -1, 0]),
        torch.tensor([0, 0]),
        torch.zeros(3, 3, dtype=int),
    ):
        with pytest.raises(ValueError, match=r"."):
            pi.log_prob(wrong)
    assert pi.log_prob(torch.tensor([0, 2, 0])).shape == (4,)
    assert pi.log_prob(torch.zeros(5, 1, 3, dtype=torch.long)).shape == (5, 4)


def test_values_broadcast_against_batch_axes_of_length_one() -> None:
    circuit = structures.markov_chain([2, 3])
    logits = torch.randn(3, 1, circuit.num_parameters, generator=torch.Generator().manual_seed(0))
    pi = CircuitDistribution(circuit, logits)
    values = torch.stack([torch.tensor([0, 2]), torch.tensor([1, 0])]).expand(3, 2, 2)
    expected = torch.stack([CircuitDistribution(circuit, logits[i, 0]).log_prob(values[i]) for i in range(3)])
    torch.testing.assert_close(pi.log_prob(values), expected)
    torch.testing.assert_close(pi.log_prob(values.expand(4, 3, 2, 2))[3], expected)


def test_validation_can_be_switched_off() -> None:
    circuit = structures.mean_field([2])
    wrong = torch.tensor([torch.nan, 0.0])
    with pytest.raises(StructureError, match="nan"):
        CircuitDistribution(circuit, wrong)
    assert CircuitDistribution(circuit, wrong, validate_args=False).batch_shape == ()


@pytest.mark.parametrize("shape", [(), (3,), (5,)])
def test_wrong_number_of_logits_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(StructureError, match="4 parameters"):
        CircuitDistribution(structures.mean_field([2, 2]), torch.zeros(*shape, 5))


def test_expand(pi: CircuitDistribution) -> None:
    wide = pi.expand((2, 4))
    assert wide.batch_shape == (2, 4)
    assert wide.sample((5,)).shape == (5, 2, 4, 3)
    torch.testing.assert_close(wide.entropy(), pi.entropy().expand(2, 4))
    assert wide.logits.data_ptr() == pi.logits.data_ptr()
    given = pi.condition({1: 2}).expand(torch.Size([2, 4]))
    torch.testing.assert_close(given.marginals()[1], pi.condition({1: 2}).marginals())


def test_enumerate_support(pi: CircuitDistribution) -> None:
    values = pi.enumerate_support()
    assert values.shape == (12, 4, 3)
    assert values[:, 0].unique(dim=0).shape == (12, 3)
    assert values[1, 0].tolist() == [0, 0, 1]  # the last variable is fastest
    torch.testing.assert_close(pi.log_prob(values).exp().sum(0), torch.ones(4))
    assert pi.enumerate_support(expand=False).shape == (12, 1, 3)
    one = CircuitDistribution(structures.mean_field([3]), torch.zeros(3))
    assert one.enumerate_support().tolist() == [[0], [1], [2]]
    large = CircuitDistribution(structures.mean_field([2] * 30), torch.zeros(60))
    with pytest.raises(NotTractableError, match="too many to list"):
        large.enumerate_support()


def test_kl_is_registered(pi: CircuitDistribution) -> None:
    other = CircuitDistribution(pi.circuit, torch.zeros(pi.circuit.num_parameters))
    torch.testing.assert_close(kl_divergence(pi, other), pi.kl_divergence(other))
    torch.testing.assert_close(kl_divergence(pi, pi), torch.zeros(4), atol=1e-6, rtol=0)
    assert (kl_divergence(pi, other) > 0).all()
    assert kl_divergence(other, pi).shape == (4,)
    twin = CircuitDistribution(structures.keep_set([2, 3, 2], labels=6), other.logits)
    torch.testing.assert_close(kl_divergence(pi, twin), kl_divergence(pi, other.expand((4,))))
    foreign = structures.random_binary([2, 3, 2])
    with pytest.raises(NotTractableError, match="needs determinism"):
        kl_divergence(pi, CircuitDistribution(foreign, torch.zeros(foreign.num_parameters)))


def test_mode_is_a_property(pi: CircuitDistribution) -> None:
    values, log_prob = pi.map()
    assert torch.equal(pi.mode, values)
    torch.testing.assert_close(pi.log_prob(values), log_prob)
    assert (pi.log_prob(pi.enumerate_support()) <= log_prob + 1e-6).all()


def test_perplexity_comes_for_free(pi: CircuitDistribution) -> None:
    torch.testing.assert_close(pi.perplexity(), pi.entropy().exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_have_the_type_of_the_logits(dtype: torch.dtype) -> None:
    pi = build_case("hand_built", 1).pi
    pi = CircuitDistribution(pi.circuit, pi.logits.to(dtype))
    mask = torch.ones(pi.circuit.num_variables, max(pi.circuit.cardinalities), dtype=torch.bool)
    answers = [pi.entropy(), pi.marginals(), pi.log_evidence(mask), pi.condition(mask).logits, pi.marginal([0])]
    assert {answer.dtype for answer in answers} == {dtype}
    assert pi.sample().dtype == pi.mode.dtype == torch.long


@pytest.mark.parametrize("limit", [1, 300, 10_000])
def test_long_calls_in_parts_give_the_same_answers(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large batches of samples and values are cut into parts; how large the parts are does not matter."""
    pi = build_case("keep_set", 1).pi
    draw = torch.Generator().manual_seed(3)
    samples = pi.sample((300,), generator=draw)
    whole = pi.log_prob(samples)
    monkeypatch.setattr(sys.modules["circuits.queries.log_prob"], "_CHUNK", limit)
    monkeypatch.setattr(sys.modules["circuits.queries.sample"], "_CHUNK", limit)
    torch.testing.assert_close(pi.log_prob(samples), whole)
    assert torch.equal(pi.sample((300,), generator=draw.manual_seed(3)), samples)
