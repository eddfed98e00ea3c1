"""Every query on every structure with logits up to 3e38 and -inf: no nan, no +inf, in values and in gradients."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuits import Circuit, CircuitDistribution, ImpossibleEvidenceError, structures
from tests import strategies
from tests.extremes import EXTREMES, extreme_logits, problems
from tests.large import NAMES, large_circuit

PICKS = st.lists(st.integers(0, len(EXTREMES) - 1), min_size=1, max_size=40)

MASKS = ("one forbidden", "one allowed", "all but one forbidden", "random")


def mask_of(circuit: Circuit, kind: str, rng: Random) -> Tensor:
    n, cards = circuit.num_variables, circuit.cardinalities
    mask = torch.ones(n, max(cards), dtype=torch.bool)
    variable = rng.randrange(n)
    value = rng.randrange(cards[variable])
    if kind == "one forbidden":
        mask[variable, value] = cards[variable] == 1
    elif kind == "one allowed":
        mask[variable] = torch.arange(max(cards)) == value
    elif kind == "all but one forbidden":
        mask = torch.arange(max(cards)) == torch.tensor([rng.randrange(k) for k in cards]).unsqueeze(-1)
    else:
        mask = torch.rand(n, max(cards), generator=torch.Generator().manual_seed(rng.getrandbits(30))) < 0.7
    return mask


def check(recipe: tuple[str, int], picks: list[int], kind: str) -> None:
    circuit = strategies.circuit_of(*recipe)
    if circuit.num_parameters == 0:
        return
    found = list(problems(circuit, extreme_logits(circuit, picks), mask_of(circuit, kind, Random(recipe[1]))))
    assert not found, found


@pytest.mark.full
@given(strategies.recipes(), PICKS, st.sampled_from(MASKS))
@settings(max_examples=30)
def test_no_nan_and_no_infinity(recipe: tuple[str, int], picks: list[int], kind: str) -> None:
    check(recipe, picks, kind)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(strategies.recipes(), PICKS, st.sampled_from(MASKS))
@settings(max_examples=5000)
def test_no_nan_and_no_infinity_in_5000_cases(recipe: tuple[str, int], picks: list[int], kind: str) -> None:
    check(recipe, picks, kind)


def test_conditioning_on_the_unlikely_keeps_weights_that_sum_to_one() -> None:
    """Value 0 is certain, then forbidden: the other two share the probability equally."""
    logits = torch.tensor([1e9, 0.0, 0.0])
    given_rest = CircuitDistribution(structures.mean_field([3]), logits).condition({0: [1, 2]})
    torch.testing.assert_close(given_rest.marginals(), torch.tensor([[0.0, 0.5, 0.5]]))


LARGE = {
    "mean_field": lambda n: structures.mean_field([2] * n),
    "markov_chain": lambda n: structures.markov_chain([2] * n),
    "tree": lambda n: structures.tree([2] * n, [(i - 1) // 2 for i in range(n)]),
    "keep_set": lambda n: structures.keep_set([2] * n, [(i, i + 1) for i in range(n - 1)], labels=2),
    "selective": lambda n: structures.selective([2] * n, copies=1),
    "decision_diagram": lambda n: structures.decision_diagram([2] * n, width=1),
    "random_binary": lambda n: structures.random_binary([2] * n, sums=1, inputs=1),
    "latent_tree": lambda n: structures.latent_tree([2] * n, [(i - 1) // 2 for i in range(n)], states=2),
}


@pytest.mark.parametrize("count", [1, 4, 64, pytest.param(4096, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LARGE)
def test_sizes_up_to_4096_variables(name: str, count: int) -> None:
    """Single units (one copy, one state, one sum), and from one variable to thousands."""
    circuit = LARGE[name](count)
    logits = extreme_logits(circuit, [(i * 7) % 10 for i in range(37)], rows=1)
    pi = CircuitDistribution(circuit, logits)
    values = pi.sample(generator=torch.Generator().manual_seed(0))
    answers = {
        "log_prob": pi.log_prob(values),
        "log_evidence": pi.log_evidence({0: 0}),
        "marginals": pi.marginals(),
        "lower bound": pi.entropy_lower_bound(),
        "upper bound": pi.entropy_upper_bound(),
    }
    for what, answer in answers.items():
        assert not answer.isnan().any(), what
        assert (answer < torch.inf).all(), what
        finite = torch.where(torch.isfinite(answer), answer, 0.0).sum()
        (gradient,) = torch.autograd.grad(finite, logits, retain_graph=True)
        assert torch.isfinite(gradient).all(), f"gradient of {what}"
    assert (answers["marginals"] <= 1 + 1e-3).all()


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_contradictory_evidence_on_200_variables(name: str) -> None:
    """Exactly -inf, the impossible rows named, and gradient zero there."""
    circuit = large_circuit(name)
    logits = torch.zeros(3, circuit.num_parameters, requires_grad=True)
    pi = CircuitDistribution(circuit, logits)
    allowed = torch.ones(3, circuit.num_variables, max(circuit.cardinalities), dtype=torch.bool)
    allowed[1, 117] = False
    log_evidence = pi.log_evidence(allowed)
    assert log_evidence[1] == -torch.inf
    assert (log_evidence[[0, 2]].abs() < 1e-3).all()
    with pytest.raises(ImpossibleEvidenceError, match="batch rows 1;"):
        pi.condition(allowed)
    (gradient,) = torch.autograd.grad(log_evidence.sum(), logits)
    assert torch.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


@pytest.mark.full
@pytest.mark.parametrize("low", [-torch.inf, -3e38, pytest.param(-1e4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_deterministic_policies_have_entropy_zero_and_a_finite_gradient(name: str, low: float) -> None:
    """One choice of each node is certain; 3e38 above the others as well as minus infinity below it."""
    circuit = large_circuit(name)
    logits = torch.full((circuit.num_parameters,), low)
    logits[[where.start for where in circuit.compiled.parameter_slices.values()]] = 0.0
    pi = CircuitDistribution(circuit, logits.requires_grad_())
    queries = [pi.entropy, pi.log_prob_variance] if circuit.is_deterministic else [pi.entropy_lower_bound]
    for query in queries:
        answer = query()
        assert answer.item() == 0.0
        (gradient,) = torch.autograd.grad(answer, logits, retain_graph=True)
        assert torch.isfinite(gradient).all()
