"""Weights from data: closed form, EM and gradient.

The public density-estimation data sets are in no package registry, so data is drawn from known distributions here.
"""

from collections import Counter

import numpy as np
import pytest
import torch

from circuits import Circuit, CircuitBuilder, CircuitDistribution, EvidenceError, NotTractableError, StructureError
from circuits.errors import ImpossibleEvidenceError
from circuits.learning import FitOptions, expectation_maximization, fit_gradient, maximum_likelihood
from circuits.structures import keep_set, markov_chain, mean_field, tree
from tests import oracles, strategies
from tests.seeds import first_now

DETERMINISTIC = ("mean_field", "markov_chain", "tree", "keep_set", "hand_built")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_distribution(circuit: Circuit, generator: torch.Generator) -> CircuitDistribution:
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64)
    return CircuitDistribution(circuit, logits)


def mean_log_prob(circuit: Circuit, logits: torch.Tensor, data: torch.Tensor) -> float:
    return float(CircuitDistribution(circuit, logits).log_prob(data).mean())


def count_edges(cards: tuple[int, ...], nodes: list[tuple], data: np.ndarray, weights: np.ndarray) -> dict:
    """Walk every row down from the root and count the choices; {node: counts}."""
    support = oracles.supports(cards, nodes)
    counts = {i: np.zeros(len(rest[-1])) for i, (kind, *rest) in enumerate(nodes) if kind != "product"}
    for row, weight in zip(data, weights, strict=True):
        stack = [len(nodes) - 1]
        while stack:
            index = stack.pop()
            kind, *rest = nodes[index]
            if kind == "product":
                stack += rest[0]
            elif kind == "sum":
                (choice,) = [i for i, child in enumerate(rest[0]) if tuple(row) in support[child]]
                counts[index][choice] += weight
                stack.append(rest[0][choice])
            else:
                counts[index][rest[1].index(row[rest[0]])] += weight
    return counts


@pytest.mark.parametrize("family", DETERMINISTIC)
@pytest.mark.parametrize("seed", first_now(range(8)))
@pytest.mark.parametrize("smoothing", [0.0, 1.0, 2.5])
def test_closed_form_equals_counting(family: str, seed: int, smoothing: float) -> None:
    generator = seeded(seed)
    circuit = strategies.circuit_of(family, 300 + seed)
    data = random_distribution(circuit, generator).sample(torch.Size([40]), generator=generator)
    weights = torch.rand(40, generator=generator, dtype=torch.float64) if seed % 2 else torch.ones(40)
    nodes = strategies.plain_nodes(circuit)
    counts = count_edges(circuit.cardinalities, nodes, data.numpy(), weights.numpy())
    logits = maximum_likelihood(circuit, data, weights=weights if seed % 2 else None, smoothing=smoothing)
    CircuitDistribution(circuit, logits, validate_args=True)
    for node, own in counts.items():
        found = logits[circuit.parameters_of(node)].exp().numpy()
        if found.size:
            own = own + smoothing / len(own)
            expected = own / own.sum() if own.sum() else np.full(len(own), 1 / len(own))
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"node {node}")


@pytest.mark.parametrize("family", DETERMINISTIC)
@pytest.mark.parametrize("seed", first_now(range(6), 0.5))
def test_no_perturbation_of_the_closed_form_is_more_likely(family: str, seed: int) -> None:
    generator = seeded(1000 + seed)
    circuit = strategies.circuit_of(family, 500 + seed)
    data = random_distribution(circuit, generator).sample(torch.Size([200]), generator=generator)
    logits = maximum_likelihood(circuit, data, smoothing=0.0)
    best = mean_log_prob(circuit, logits, data)
    for scale in (1e-3, 0.1, 1.0):
        for _ in range(10):
            noise = scale * torch.randn(logits.shape, generator=generator, dtype=torch.float64)
            assert mean_log_prob(circuit, logits + noise, data) <= best + 1e-12


def test_the_closed_form_finds_the_full_joint_table() -> None:
    """A chain that looks back at everything can hold any table, so its fit is the empirical distribution."""
    circuit = markov_chain([2, 3, 2], order=2)
    data = torch.stack([torch.randint(k, (300,), generator=seeded(5)) for k in (2, 3, 2)], 1)
    pi = CircuitDistribution(circuit, maximum_likelihood(circuit, data, smoothing=0.0))
    for row, count in Counter(map(tuple, data.tolist())).items():
        assert float(pi.log_prob(torch.tensor([row])).exp()) == pytest.approx(count / 300)


def test_row_weights_are_repeated_rows() -> None:
    circuit = tree([2, 3, 2], [-1, 0, 0])
    data = torch.tensor([[0, 1, 1], [1, 2, 0], [1, 0, 1]])
    repeats = torch.tensor([3, 1, 2])
    weighted = maximum_likelihood(circuit, data, weights=repeats)
    torch.testing.assert_close(weighted, maximum_likelihood(circuit, data.repeat_interleave(repeats, 0)))


def test_many_rows_are_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = keep_set([3, 2, 3, 2], labels=4)
    data = random_distribution(circuit, seeded(2)).sample(torch.Size([500]), generator=seeded(3))
    whole = maximum_likelihood(circuit, data)
    monkeypatch.setattr("circuits.learning.counts._CHUNK", 1000)
    torch.testing.assert_close(maximum_likelihood(circuit, data), whole)
    with torch.inference_mode():
        torch.testing.assert_close(maximum_likelihood(circuit, data), whole)


def mixture(components: int = 2, cards: tuple[int, ...] = (2, 2, 2, 2, 2)) -> Circuit:
    builder = CircuitBuilder(cards, name="mixture")
    parts = [builder.product(*(builder.input(v) for v in range(len(cards)))) for _ in range(components)]
    return builder.build(builder.sum(*parts))


def copies() -> Circuit:
    """Two variables that always agree."""
    builder = CircuitBuilder([2, 2])
    same = [builder.product(builder.input(0, [v]), builder.input(1, [v])) for v in (0, 1)]
    return builder.build(builder.sum(*same))


def test_closed_form_refuses_what_it_cannot_do() -> None:
    data = torch.zeros(3, 5, dtype=torch.long)
    with pytest.raises(NotTractableError, match=r"sum node \d+ .*expectation_maximization"):
        maximum_likelihood(mixture(), data)
    chain = markov_chain([2, 2])
    with pytest.raises(EvidenceError, match=r"2 rows have missing values .* row 1, variable 0.*expectation_max"):
        maximum_likelihood(chain, torch.tensor([[0, 1], [-1, 1], [-1, -1]]))
    with pytest.raises(ImpossibleEvidenceError, match=r"rows 1, 3 have probability zero.*structure forbids"):
        maximum_likelihood(copies(), torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0]]))
    only_possible = torch.tensor([1.0, 0.0, 1.0, 0.0])
    maximum_likelihood(copies(), torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0]]), weights=only_possible)


BAD_DATA = {
    r"shape \(3,\).*\(rows, variables\) with 2": (torch.zeros(3, dtype=torch.long), None),
    r"shape \(1, 3\)": (torch.zeros(1, 3, dtype=torch.long), None),
    r"type torch.float32; use integers": (torch.zeros(1, 2), None),
    "no rows": (torch.zeros(0, 2, dtype=torch.long), None),
    r"row 1 gives variable 1 the value 3; its values are 0 to 2": (torch.tensor([[0, 0], [0, 3]]), None),
    r"row 0 gives variable 0 the value -2": (torch.tensor([[-2, 0]]), None),
    r"weights have shape \(2,\)": (torch.tensor([[0, 0]]), torch.ones(2)),
    r"weight of row 1 is -1.0": (torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, -1.0])),
    r"weight of row 0 is nan": (torch.tensor([[0, 0]]), torch.tensor([float("nan")])),
    "all row weights are zero": (torch.tensor([[0, 0]]), torch.zeros(1)),
}


@pytest.mark.parametrize("message", BAD_DATA)
@pytest.mark.parametrize("learn", [maximum_likelihood, expectation_maximization, fit_gradient])
def test_bad_data_is_named(learn, message: str) -> None:
    data, weights = BAD_DATA[message]
    with pytest.raises(EvidenceError, match=message):
        learn(mean_field([2, 3]), data, weights=weights)


def hide(data: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    return torch.where(torch.rand(data.shape, generator=generator) < share, -1, data)


def log_prior(circuit: Circuit, logits: torch.Tensor, smoothing: float) -> float:
    slices = [circuit.parameters_of(node) for node in range(circuit.num_nodes)]
    return sum(smoothing * float(logits[s].mean()) for s in slices if s.stop > s.start)


@pytest.mark.parametrize("family", strategies.FAMILIES)
@pytest.mark.parametrize("seed", first_now(range(5), 0.4))
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_em_never_lowers_the_log_likelihood(family: str, seed: int, missing: float) -> None:
    generator = seeded(seed)
    circuit = strategies.circuit_of(family, 700 + seed)
    data = random_distribution(circuit, generator).sample(torch.Size([60]), generator=generator)
    data = hide(data, missing, generator)
    fit = expectation_maximization(circuit, data, options=FitOptions(epochs=30), generator=generator)
    assert (np.diff(fit.log_likelihoods) >= -1e-12).all()
    assert len(fit.log_likelihoods) == fit.best_epoch + 1


@pytest.mark.parametrize("seed", range(5))
def test_em_with_smoothing_never_lowers_likelihood_plus_prior(seed: int) -> None:
    circuit = mixture(3)
    data = hide(
        random_distribution(circuit, seeded(seed)).sample(torch.Size([50]), generator=seeded(seed)), 0.2, seeded(9)
    )
    objective = []
    for epochs in range(8):
        options = FitOptions(epochs=epochs, smoothing=2.0)
        fit = expectation_maximization(circuit, data, options=options, generator=seeded(seed))
        objective.append(50 * fit.log_likelihoods[-1] + log_prior(circuit, fit.logits, 2.0))
    assert (np.diff(objective) >= -1e-9).all()


@pytest.mark.parametrize("family", DETERMINISTIC)
@pytest.mark.parametrize("smoothing", [0.0, 1.5])
def test_one_step_of_em_is_the_closed_form_for_deterministic_circuits(family: str, smoothing: float) -> None:
    generator = seeded(4)
    circuit = strategies.circuit_of(family, 900)
    data = random_distribution(circuit, generator).sample(torch.Size([100]), generator=generator)
    weights = torch.rand(100, generator=generator)
    options = FitOptions(epochs=5, smoothing=smoothing)
    fit = expectation_maximization(circuit, data, weights=weights, options=options, generator=generator)
    assert fit.converged
    assert fit.best_epoch <= 2
    closed = maximum_likelihood(circuit, data, weights=weights, smoothing=smoothing)
    torch.testing.assert_close(fit.logits.exp(), closed.exp(), atol=1e-10, rtol=0)


def test_a_part_step_of_em_mixes_old_and_new_counts() -> None:
    """By hand: 10 rows, 8 zeros, from weights (1/2, 1/2): 10 (0.75 * 0.5 + 0.25 * 0.8) + 2 of 10 + 4."""
    data = torch.tensor([[0]] * 8 + [[1]] * 2)
    options = FitOptions(epochs=1, step_size=0.25, smoothing=4.0, initial=torch.zeros(2))
    fit = expectation_maximization(mean_field([2]), data, options=options)
    assert fit.logits.exp().tolist() == pytest.approx([7.75 / 14, 6.25 / 14])


def test_em_recovers_known_parameters_with_missing_values() -> None:
    """40,000 rows, 30 % hidden at random: every weight that matters comes back within 0.03 (five standard errors)."""
    circuit = tree([2, 3, 2, 2], [-1, 0, 1, 1])
    true = CircuitDistribution(circuit, 0.8 * random_distribution(circuit, seeded(11)).logits)
    data = hide(true.sample(torch.Size([40_000]), generator=seeded(12)), 0.3, seeded(13))
    fit = expectation_maximization(circuit, data, options=FitOptions(tolerance=1e-7), generator=seeded(14))
    assert fit.converged
    assert (fit.logits.exp() - true.weights).abs().max() < 0.03
    assert float(true.kl_divergence(CircuitDistribution(circuit, fit.logits))) < 1e-3


def test_em_recovers_a_mixture_in_batches_with_early_stopping() -> None:
    """Not deterministic, 20 % hidden; KL to the truth over all 32 joint values, in nats."""
    circuit = mixture(2)
    true = CircuitDistribution(circuit, 2.0 * random_distribution(circuit, seeded(21)).logits)
    data = hide(true.sample(torch.Size([8_000]), generator=seeded(22)), 0.2, seeded(23))
    options = FitOptions(epochs=30, batch_size=500, step_size=0.3, patience=5)
    seen: list[int] = []
    options = FitOptions(**{**options.__dict__, "progress": lambda epoch, *_: seen.append(epoch)})
    fit = expectation_maximization(
        circuit, data[:6_000], validation=data[6_000:], options=options, generator=seeded(24)
    )
    everything = true.enumerate_support()
    log_true = true.log_prob(everything)
    found = CircuitDistribution(circuit, fit.logits).log_prob(everything)
    assert float((log_true.exp() * (log_true - found)).sum()) < 0.01
    assert seen == list(range(len(fit.log_likelihoods)))
    assert fit.best_epoch == int(np.argmax(fit.validation_log_likelihoods))
    assert len(seen) == 31 or len(seen) == fit.best_epoch + 6 or fit.converged


def test_validation_stops_before_the_data_is_learned_by_heart() -> None:
    circuit = mixture(12, (3,) * 6)
    data = random_distribution(mixture(2, (3,) * 6), seeded(1)).sample(torch.Size([240]), generator=seeded(2))
    options = FitOptions(epochs=300, smoothing=0.05, patience=5)
    fit = expectation_maximization(circuit, data[:60], validation=data[60:], options=options, generator=seeded(3))
    assert len(fit.log_likelihoods) == fit.best_epoch + 6 < 301
    best = mean_log_prob(circuit, fit.logits, data[60:])
    assert best == pytest.approx(max(fit.validation_log_likelihoods))
    assert best > fit.validation_log_likelihoods[-1]


def test_em_starts_from_given_logits_and_repeats_with_a_generator() -> None:
    circuit = mixture(2)
    data = random_distribution(circuit, seeded(31)).sample(torch.Size([50]), generator=seeded(32))
    first, second = (expectation_maximization(circuit, data, generator=seeded(33)) for _ in range(2))
    assert first.log_likelihoods == second.log_likelihoods
    initial = torch.zeros(circuit.num_parameters)
    fit = expectation_maximization(circuit, data, options=FitOptions(initial=initial, epochs=0))
    torch.testing.assert_close(fit.logits, torch.full_like(fit.logits, np.log(0.5)))
    assert fit.log_likelihoods == (pytest.approx(5 * np.log(0.5)),)


@pytest.mark.parametrize("learn", [expectation_maximization, fit_gradient])
def test_impossible_rows_and_bad_options_are_named(learn) -> None:
    data = torch.tensor([[0, 0], [0, 1], [1, -1], [1, 0]])
    with pytest.raises(ImpossibleEvidenceError, match="data rows 1, 3 have probability zero"):
        learn(copies(), data)
    with pytest.raises(ImpossibleEvidenceError, match="validation rows 1, 3 have probability zero"):
        learn(copies(), data[:1], validation=data)
    with pytest.raises(StructureError, match=r"initial logits have shape \(3,\)"):
        learn(copies(), data[:1], options=FitOptions(initial=torch.zeros(3)))
    for bad in ({"epochs": -1}, {"patience": 0}, {"batch_size": 0}, {"step_size": 0.0}, {"tolerance": -1.0}):
        with pytest.raises(StructureError, match=next(iter(bad))):
            FitOptions(**bad)
    with pytest.raises(EvidenceError, match="smoothing is -1"):
        FitOptions(smoothing=-1.0)
    with pytest.raises(StructureError, match="step_size is 2.0"):
        expectation_maximization(copies(), data[:1], options=FitOptions(step_size=2.0))


def test_gradient_reaches_the_closed_form() -> None:
    circuit = keep_set([2, 3, 2], labels=4)
    data = random_distribution(circuit, seeded(41)).sample(torch.Size([300]), generator=seeded(42))
    options = FitOptions(epochs=400, step_size=0.1, smoothing=30.0)
    fit = fit_gradient(circuit, data, options=options, generator=seeded(43))
    closed = maximum_likelihood(circuit, data, smoothing=30.0)
    torch.testing.assert_close(fit.logits.exp(), closed.exp(), atol=2e-3, rtol=0)


def test_gradient_follows_autograd() -> None:
    """One step of Adam has the sign of the gradient of the log-likelihood, as autograd through log_prob gives it."""
    circuit = mixture(2)
    data = random_distribution(circuit, seeded(51)).sample(torch.Size([40]), generator=seeded(52))
    logits = torch.randn(circuit.num_parameters, generator=seeded(53), dtype=torch.float64, requires_grad=True)
    CircuitDistribution(circuit, logits).log_prob(data).mean().backward()
    assert logits.grad is not None
    options = FitOptions(epochs=1, step_size=1e-4, initial=logits.detach())
    fit = fit_gradient(circuit, data, options=options)
    stepped = logits.detach() + 1e-4 * logits.grad.sign()
    expected = CircuitDistribution(circuit, stepped).log_weights
    torch.testing.assert_close(fit.logits, expected, atol=1e-8, rtol=0)
    assert fit.log_likelihoods[1] > fit.log_likelihoods[0]


def test_gradient_in_batches_with_missing_values_and_validation() -> None:
    circuit = mixture(2)
    true = CircuitDistribution(circuit, 2.0 * random_distribution(circuit, seeded(61)).logits)
    data = hide(true.sample(torch.Size([3_000]), generator=seeded(62)), 0.2, seeded(63))
    # The patience carries it over the plateau on which both components still are alike; some starts stay below the top.
    options = FitOptions(epochs=100, batch_size=500, step_size=0.1, patience=100)
    fits = [
        fit_gradient(circuit, data[:2_000], validation=data[2_000:], options=options, generator=seeded(seed))
        for seed in (64, 65, 66)
    ]
    fit = max(fits, key=lambda fit: max(fit.validation_log_likelihoods))
    everything = true.enumerate_support()
    log_true = true.log_prob(everything)
    found = CircuitDistribution(circuit, fit.logits).log_prob(everything)
    assert float((log_true.exp() * (log_true - found)).sum()) < 0.01
    assert fit.best_epoch == int(np.argmax(fit.validation_log_likelihoods))
