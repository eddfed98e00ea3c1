"""Policies from a critic's tables alone, against enumeration of all joint actions."""

import itertools
import math

import pytest
import torch

from circuits import structures
from factor_q import Factors, complete
from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.parts.solvers import exact, natural_gradient
from tests.spnpolicy.algorithms.test_spn_ac import random_batch

KINDS, TEMPERATURE = (3, 2, 3), 0.4


def problem(rows=5, masked=True):
    """Tables of all agents and pairs, masks, and the Boltzmann policy of every row over all joint actions."""
    graph = complete(KINDS)
    generator = torch.Generator().manual_seed(0)
    q = Factors.from_flat(graph, torch.randn(rows, graph.num_entries, generator=generator))
    available = torch.arange(3) < torch.tensor(KINDS)[:, None]
    available = available.repeat(rows, 1, 1)
    if masked:
        available &= torch.rand(available.shape, generator=generator) < 0.7
        available[..., 0] = True
    joint = torch.tensor(list(itertools.product(*map(range, KINDS))))
    allowed = available[:, torch.arange(3), joint].all(-1)
    values = q(joint[:, None]).t()
    log_p = (values / TEMPERATURE).masked_fill(~allowed, -math.inf).log_softmax(-1)
    return q, available, joint, values, log_p


def entropy_of(log_p):
    return -(log_p.exp() * log_p.clamp_min(-1e9)).sum(-1)


@pytest.mark.parametrize("masked", [False, True])
def test_the_exact_solver_is_the_boltzmann_policy(masked):
    q, available, joint, values, log_p = problem(masked=masked)
    pi = exact(q, available, TEMPERATURE)
    torch.testing.assert_close(pi.entropy(), entropy_of(log_p), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pi.expectation(q), (log_p.exp() * values).sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pi.soft_value, pi.expectation(q) + TEMPERATURE * pi.entropy(), rtol=1e-4, atol=1e-5)
    other = Factors.from_flat(q.graph, q.flat.square())
    expected = (log_p.exp() * other(joint[:, None]).t()).sum(-1)
    torch.testing.assert_close(pi.expectation(other), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pi.marginals(), pi.compiled().marginals(), rtol=1e-4, atol=1e-5)
    assert torch.equal(pi.mode, joint[log_p.argmax(-1)])
    torch.testing.assert_close(pi.compiled().log_prob(pi.mode), log_p.amax(-1), rtol=1e-4, atol=1e-5)
    drawn = pi.sample((2_000,), generator=torch.Generator().manual_seed(1))
    share, p = (drawn == joint[log_p.argmax(-1)]).all(-1).float().mean(0), log_p.amax(-1).exp()
    # Four standard errors, five rows: a false alarm in 1 of 3,000 seeds.
    assert ((share - p).abs() < 4 * (p * (1 - p) / 2_000).sqrt()).all()


def test_natural_gradient_steps_close_the_gap_of_a_small_circuit():
    q, available, _, values, log_p = problem(rows=40)
    optimum = (log_p.exp() * values).sum(-1) + TEMPERATURE * entropy_of(log_p)
    circuit = structures.mean_field(KINDS)
    gaps = []
    for steps in (1, 3, 50):
        pi = natural_gradient(circuit, q, available, TEMPERATURE, steps=steps)
        gaps.append((optimum - pi.expectation(q) - TEMPERATURE * pi.entropy()).mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > 0.0
    everything = natural_gradient(structures.keep_set(KINDS, q.scopes, labels=18), q, available, TEMPERATURE, steps=1)
    torch.testing.assert_close(
        everything.expectation(q) + TEMPERATURE * everything.entropy(), optimum, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("solver", ["exact", "natural_gradient"])
def test_a_learner_with_a_solver_has_no_network_to_train_for_its_policy(solver):
    spec = EnvSpec((3, 2, 3), 4, 12, has_action_masks=False)
    learner = make_algorithm("spn_ac", spec, Streams(0), solver=solver, network={"hidden": (8,)})
    batch = random_batch(spec, 12, 0)
    before = [parameter.clone() for parameter in learner.actor.parameters()]
    numbers = learner.update(batch, progress=0.5)
    assert all(map(math.isfinite, numbers.values()))
    assert 0.0 < numbers["entropy"] <= math.log(18)
    assert all(map(torch.equal, before, learner.actor.parameters()))


def test_pairs_that_are_too_wide_for_elimination_are_refused():
    spec = EnvSpec((6,) * 12, 4, 48, has_action_masks=False)
    with pytest.raises(ConfigError, match="solver is 'exact', but elimination of .* take fewer pairs"):
        make_algorithm("spn_ac", spec, Streams(0), solver="exact", num_pairs=66, network={"hidden": (8,)})
