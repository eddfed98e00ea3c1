"""The sampling relative of spn_ac: its gradient is that of the exact ELBO on average, and how far it scatters."""

from functools import cache

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, structures
from factor_q import FactorGraph, Factors
from spnpolicy.algorithms import make_algorithm
from spnpolicy.algorithms.reinforce_vi import draw, score_function_loss
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.envs import make_env
from spnpolicy.maths.objective import elbo
from tests.spnpolicy.learning_cases import CHAIN_VALUE_OF_B, ENDINGS, chain, chain_observation, game_spec, learn, rates

ESTIMATES, SAMPLES, TEMPERATURE = 100_000, 4, 0.7
STANDARD_ERRORS = 4.0


def problem(rows):
    """A circuit over two agents that can be correlated, its logits in every row, and values with an offset."""
    circuit = structures.keep_set([2, 3], [(0,), (1,), (0, 1)], labels=6)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64)
    tables = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2,), (3,), (2, 3))]
    tables[0] = tables[0] + 5.0
    q = Factors(FactorGraph((2, 3), [(0,), (1,), (0, 1)]), [table.expand(rows, *table.shape) for table in tables])
    return circuit, logits.expand(rows, -1).clone().requires_grad_(), q


def exact_gradient():
    circuit, logits, q = problem(1)
    elbo(CircuitDistribution(circuit, logits), q, TEMPERATURE).sum().backward()
    return logits.grad[0]


@cache
def estimates(baseline):
    """One estimate of the gradient of the ELBO per row."""
    loss_of = own_mean_included if baseline == "own mean" else lambda drawn: score_function_loss(drawn, baseline)
    circuit, logits, q = problem(ESTIMATES)
    drawn = draw(CircuitDistribution(circuit, logits), [q], TEMPERATURE, SAMPLES, torch.Generator().manual_seed(0))
    loss_of(drawn).backward()
    return -ESTIMATES * logits.grad


def own_mean_included(drawn):
    value = drawn.soft_return - drawn.soft_return.mean(0)
    return -(drawn.log_prob * value).mean()


def standard_errors(found, expected):
    error = (found.mean(0) - expected).abs()
    scatter = found.std(0) / len(found) ** 0.5
    matters = scatter > 0
    assert matters.sum() >= 5
    return (error[matters] / scatter[matters]).max().item()


@pytest.mark.parametrize("baseline", ["leave_one_out", "none"])
def test_the_mean_estimate_is_the_exact_gradient(baseline):
    found = estimates(baseline)
    assert standard_errors(found, exact_gradient()) < STANDARD_ERRORS


def test_a_sample_in_its_own_baseline_shrinks_the_gradient():
    found, exact = estimates("own mean"), exact_gradient()
    assert standard_errors(found, exact) > 2 * STANDARD_ERRORS
    assert standard_errors(found, exact * (SAMPLES - 1) / SAMPLES) < STANDARD_ERRORS


def test_leaving_one_out_lowers_the_scatter():
    with_baseline, without = (estimates(name).var(0).sum().item() for name in ("leave_one_out", "none"))
    assert with_baseline < without / 3


def test_no_gradient_flows_through_the_returns():
    circuit, logits, q = problem(50)
    flat = q.flat.clone().requires_grad_()
    pi = CircuitDistribution(circuit, logits)
    drawn = draw(pi, [Factors.from_flat(q.graph, flat)], TEMPERATURE, SAMPLES, torch.Generator().manual_seed(0))
    assert drawn.log_prob.requires_grad
    assert not drawn.soft_return.requires_grad
    score_function_loss(drawn, "none").backward()
    assert flat.grad is None


def test_the_mean_return_is_the_elbo():
    circuit, logits, q = problem(ESTIMATES)
    pi = CircuitDistribution(circuit, logits.detach())
    found = draw(pi, [q], TEMPERATURE, SAMPLES, torch.Generator().manual_seed(1)).soft_return.flatten()
    error = (found.mean() - elbo(pi, q, TEMPERATURE)[0]).abs()
    assert error < STANDARD_ERRORS * found.std() / len(found) ** 0.5


@pytest.mark.full
@pytest.mark.parametrize("baseline", ["leave_one_out", pytest.param("none", marks=pytest.mark.slow)])
def test_it_learns_a_bandit(baseline):
    env = make_env("matrix_game", payoff=[[0.0, 1.0], [0.2, 0.0]], num_envs=32)
    algorithm = learn(
        "reinforce_vi", env, updates=120, discount=0.0, network={"hidden": (32,)}, critic={"learning_rate": 1e-2},
        actor={"learning_rate": 1e-2}, temperature={"fixed": 0.1}, baseline=baseline,
    )  # fmt: skip
    step = env.reset()
    assert algorithm.act(step, explore=False).tolist() == [[0, 1]] * 32
    assert (algorithm.act(step, explore=True) == [0, 1]).all(-1).mean() > 0.8


@pytest.mark.full
@pytest.mark.parametrize("ending", ENDINGS)
def test_time_limits_bootstrap_and_ends_do_not(ending):
    algorithm = learn(
        "reinforce_vi", chain(ending), updates=220, discount=0.8, network={"hidden": (32,)}, **rates(critic=5e-3),
        target={"rate": 0.3}, batch_size=64, temperature={"fixed": 1e-5},
    )  # fmt: skip
    (q,) = algorithm.learner.critic(chain_observation()[0]).q
    value = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(q.max()[0].detach(), [0.8 * value, value], rtol=0.01)


@pytest.mark.parametrize("options", [{"samples": 1}, {"baseline": "mean"}])
def test_nonsense_is_refused(options):
    with pytest.raises(ConfigError, match=list(options)[-1] if "baseline" in options else "samples"):
        make_algorithm("reinforce_vi", game_spec([[0.0, 1.0], [1.0, 0.0]]), Streams(0), **options)


def test_one_sample_without_baseline_is_the_scattered_reference():
    spec = game_spec([[0.0, 1.0], [1.0, 0.0]])
    assert make_algorithm("reinforce_vi", spec, Streams(0), samples=1, baseline="none").config.samples == 1
