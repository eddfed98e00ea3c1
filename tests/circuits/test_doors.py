"""What a user may hand over by mistake is refused by an error of ours, before memory or time is spent on it."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from circuits import Circuit, CircuitDistribution, NotTractableError, StructureError, operations, structures
from circuits.errors import EvidenceError

CHAIN = structures.markov_chain([2, 3, 2])
pytestmark = pytest.mark.usefixtures("as_installed")


def policy(*batch: int) -> CircuitDistribution:
    noise = torch.Generator().manual_seed(0)
    return CircuitDistribution(CHAIN, torch.randn(*batch, CHAIN.num_parameters, generator=noise))


def policy_of(circuit: Circuit, *batch: int) -> CircuitDistribution:
    return CircuitDistribution(circuit, torch.zeros(*batch, circuit.num_parameters))


WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "numpy logits": (lambda: CircuitDistribution(CHAIN, np.zeros(CHAIN.num_parameters)), StructureError, "a ndarray"),
    "no circuit": (lambda: CircuitDistribution(policy(), torch.zeros(3)), StructureError, "not a CircuitDistribution"),
    "plain tuples": (lambda: Circuit([2], [(0, (0, 1))]), StructureError, "node 0 is a tuple; nodes are Input"),
    "an array of objects": (lambda: policy().log_prob(np.array([object()] * 3)), EvidenceError, "values are a ndarray"),
    "a number": (lambda: policy().log_prob(np.array(1)), EvidenceError, "values are a ndarray"),
    "a scalar": (
        lambda: policy().log_prob(torch.tensor(1)),
        EvidenceError,
        r"shape \(\), but the last axis must hold 3",
    ),
    "booleans": (lambda: policy().log_prob(torch.ones(3, dtype=torch.bool)), EvidenceError, "integer index"),
    "out of range": (lambda: policy().log_prob(torch.tensor([0, 3, 0])), EvidenceError, r"variable 1 takes .* 0 to 2"),
    "batches that differ": (
        lambda: policy(4).log_prob(torch.zeros(3, 3, dtype=torch.long)),
        StructureError,
        r"values and distribution: the batch shapes \(3,\), \(4,\) do not broadcast",
    ),
    "evidence of another batch": (
        lambda: policy(4).condition(torch.zeros(3, 3, 3)),
        StructureError,
        r"evidence and distribution: the batch shapes \(3,\), \(4,\) do not broadcast",
    ),
    "a distribution as constraint": (
        lambda: policy().constrain(policy()),
        StructureError,
        "takes a Circuit, not a CircuitDistribution; for two distributions use multiply",
    ),
    "a circuit as factor": (
        lambda: policy().multiply(CHAIN),
        StructureError,
        "takes a distribution, not a Circuit; for a Circuit use constrain",
    ),
    **{
        f"{count!r} best values": (
            lambda count=count: policy().m_best(count),
            ValueError,
            "needs a count of at least 1",
        )
        for count in (True, 1.5, "3", None)
    },
    "two batches": (lambda: policy(4).multiply(policy(3)), StructureError, r"\(4,\), \(3,\) do not broadcast"),
    "a negative shape": (lambda: policy().sample((-1,)), EvidenceError, r"the shape is \(-1,\); give integers"),
    "half a sample": (lambda: policy().sample((1.5,)), EvidenceError, "give integers of at least 0"),
    "more samples than memory": (
        lambda: policy(2).sample((10**12,)),
        NotTractableError,
        "6,000,000,000,000, more than 1,073,741,824; draw them in parts",
    ),
    "a joint table on the way to which memory ends": (
        lambda: policy_of(structures.markov_chain([900, 900])).marginal([0, 1]),
        NotTractableError,
        "a joint table would need 729,000,000 indices at once .* Ask for variables with fewer values",
    ),
    "joint tables of more rows than memory": (
        lambda: policy_of(structures.mean_field([200, 200]), 30_000).pair_marginals([(0, 1)]),
        NotTractableError,
        "40,000 entries for each of 30,000 batch rows, more than 1,073,741,824",
    ),
    "True as a variable": (lambda: policy().marginal([True]), EvidenceError, "variable True is no number"),
    "half a variable": (lambda: policy().marginal([0.5]), EvidenceError, "variable 0.5 is no number"),
    "more best values than there are": (lambda: policy().m_best(10**9), ValueError, "but only 12 are possible"),
    "more best values than fit": (
        lambda: CircuitDistribution(LONG, torch.zeros(LONG.num_parameters)).m_best(10**9),
        NotTractableError,
        "m_best would keep .* Ask for fewer, or sample",
    ),
}
LONG = structures.markov_chain([2] * 40)


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_refused_in_our_words(mistake: str) -> None:
    ask, error, message = WRONG[mistake]
    with pytest.raises(error, match=message):
        ask()


@pytest.mark.parametrize("structure", ["markov_chain", "keep_set", "random_binary"])
def test_logits_changed_in_place_change_every_answer(structure: str) -> None:
    """An optimiser step must not leave a distribution half old and half new."""
    circuit = getattr(structures, structure)([2, 3, 2])
    logits = torch.nn.Parameter(torch.zeros(circuit.num_parameters))
    pi = CircuitDistribution(circuit, logits)
    values = pi.enumerate_support()

    def answers(of: CircuitDistribution) -> list[torch.Tensor]:
        entropy = [of.entropy()] if circuit.is_deterministic else []
        return [of.marginals(), of.log_prob(values), of.condition({0: 1}).marginals(), of.marginal([0, 2]), *entropy]

    before = answers(pi)
    with torch.no_grad():
        logits += torch.randn(circuit.num_parameters, generator=torch.Generator().manual_seed(1))
    for old, new, expected in zip(before, answers(pi), answers(CircuitDistribution(circuit, logits)), strict=True):
        assert not torch.equal(old, new)
        assert torch.equal(new, expected)


@pytest.mark.parametrize("batch", [(0,), (2, 0)])
def test_empty_batches_get_empty_answers(batch: tuple[int, ...]) -> None:
    pi = policy(*batch)
    values = torch.zeros(*batch, 3, dtype=torch.long)
    assert pi.entropy().shape == pi.log_prob(values).shape == pi.log_evidence({0: 1}).shape == batch
    assert pi.sample((4,)).shape == (4, *batch, 3)
    assert pi.marginals().shape == pi.conditionals(values).shape == pi.max_marginals().shape == (*batch, 3, 3)
    assert pi.map().assignment.shape == pi.condition({1: 2}).sample().shape == (*batch, 3)
    assert pi.m_best(2).assignment.shape == (2, *batch, 3)
    constrained, log_probability = pi.constrain(operations.exactly([2, 3, 2], 1))
    assert constrained.batch_shape == log_probability.shape == batch
    assert policy().log_prob(torch.zeros(2, 0, 3, dtype=torch.long)).shape == (2, 0)


@pytest.mark.parametrize("wrong", [5, None, 1.5])
def test_what_is_no_list_is_refused_with_one(wrong: object) -> None:
    asked: dict[str, Callable[[], object]] = {
        "sample: the shape": lambda: policy().sample(wrong),
        "the set of variables": lambda: policy().marginal(wrong),
        "list of pairs": lambda: policy().pair_marginals(wrong),
        "set of variables": lambda: policy().mutual_information([1], wrong),
        "list of factors": lambda: policy().expectation(wrong),
        **{
            f"cardinalities is {wrong!r}": partial(build, wrong)
            for build in (structures.mean_field, structures.keep_set)
        },
    }
    for message, ask in asked.items():
        with pytest.raises((EvidenceError, StructureError), match=message + r".* give a list, such as"):
            ask()
    with pytest.raises(EvidenceError, match="the list of factors is|give pairs of a scope and a tensor"):
        policy().expectation(None if wrong is None else [wrong])


@pytest.mark.parametrize("other", [None, "a", CHAIN])
def test_a_second_distribution_that_is_none(other: object) -> None:
    for name in ("kl_divergence", "cross_entropy", "multiply"):
        with pytest.raises(StructureError, match=rf"{name} takes a distribution, not a \w+"):
            getattr(policy(), name)(other)


def test_tables_that_are_no_tensors_and_batches_that_differ() -> None:
    for table in (np.zeros(2), None, [0.0, 1.0]):
        with pytest.raises(EvidenceError, match="a factor is .* give pairs of a scope and a tensor"):
            policy().expectation([((0,), table)])
    with pytest.raises(StructureError, match=r"tables and distribution: the batch shapes \(3,\), \(4,\)"):
        policy(4).expectation([((0,), torch.zeros(3, 2))])
    large = policy_of(structures.mean_field([2] * 11_000 + [100_000]))
    with pytest.raises(NotTractableError, match="evidence about 11,001 variables of up to 100,000 values"):
        large.condition({0: 1})
