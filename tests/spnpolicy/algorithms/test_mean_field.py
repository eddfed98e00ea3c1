"""Mean field by coordinate ascent: it climbs, ends where independent policies must end, and plays by the rules."""

import itertools
import math

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, structures
from factor_q import FactorGraph, Factors
from spnpolicy.algorithms import make_algorithm
from spnpolicy.algorithms.mean_field import coordinate_ascent
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.envs import make_env
from spnpolicy.maths.objective import elbo
from tests.spnpolicy.learning_cases import CHAIN_VALUE_OF_B, ENDINGS, chain, chain_observation, game_spec, learn, rates

FIXED = {"fixed": 1e-5}
CARDINALITIES = (3, 2, 4)


def random_q(rows, seed, scale=2.0):
    scopes = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    generator = torch.Generator().manual_seed(seed)
    shapes = [[CARDINALITIES[v] for v in scope] for scope in scopes]
    tables = [scale * torch.randn(rows, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return Factors(FactorGraph(CARDINALITIES, scopes), tables)


def everything(rows, cardinalities=CARDINALITIES):
    exists = torch.arange(max(cardinalities)) < torch.tensor(cardinalities)[:, None]
    return exists.expand(rows, -1, -1)


def enumerated(q, marginals, temperature):
    """E[Q] + temperature * H of independent policies in every row, by enumeration of joint actions."""
    values = []
    for row in range(len(marginals)):
        total = 0.0
        for u in itertools.product(*map(range, q.cardinalities)):
            p = math.prod(marginals[row, i, a].item() for i, a in enumerate(u))
            payoff = sum(table[(row, *(u[i] for i in scope))].item() for scope, table in q)
            total += p * (payoff - temperature * math.log(p)) if p > 0 else 0.0
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


def test_more_sweeps_never_lower_the_elbo():
    q = random_q(12, 0)
    reached = [
        enumerated(q, coordinate_ascent(q, everything(12), 0.5, sweeps=sweeps, starts=1).marginals(), 0.5)
        for sweeps in range(1, 7)
    ]
    for before, after in itertools.pairwise(reached):
        assert (after >= before - 1e-9).all()
    assert (reached[-1] > reached[0] + 1e-3).any()


def test_it_ends_where_the_circuit_without_joint_sums_ends():
    """The best of many runs of gradient ascent on the logits of independent policies has the same ELBO."""
    q = random_q(6, 1, scale=1.0)
    found = coordinate_ascent(q, everything(6), 1.0, sweeps=300, starts=10)
    value = enumerated(q, found.marginals(), 1.0)
    torch.testing.assert_close(elbo(found, q, 1.0), value, rtol=0, atol=1e-9)
    circuit, starts = structures.mean_field(CARDINALITIES), 10
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(starts, 6, circuit.num_parameters, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        best = elbo(CircuitDistribution(circuit, logits), q, 1.0)
        (-best.sum()).backward()
        optimizer.step()
    torch.testing.assert_close(best.amax(0).detach(), value, rtol=0, atol=2e-3)


def test_of_two_equal_optima_it_finds_one_and_misses_log_two():
    temperature = 0.05
    tables = [torch.zeros(1, 2), torch.zeros(1, 2), 10 * torch.eye(2)[None]]
    q = Factors(FactorGraph((2, 2), [(0,), (1,), (0, 1)]), [table.double() for table in tables])
    found = coordinate_ascent(q, everything(1, (2, 2)), temperature, sweeps=50, starts=4)
    assert elbo(found, q, temperature).item() == pytest.approx(10.0, abs=1e-6)
    soft = temperature * math.log(2 * math.exp(10 / temperature) + 2)
    assert soft == pytest.approx(10 + temperature * math.log(2))
    uniform_only = coordinate_ascent(q, everything(1, (2, 2)), temperature, sweeps=50, starts=1)
    assert elbo(uniform_only, q, temperature).item() < 6, "the uniform start alone is a saddle point"


def test_forbidden_actions_have_probability_zero_and_no_influence():
    q = random_q(3, 4)
    allowed = everything(3).clone()
    allowed[:, 0, 1] = False
    allowed[:, 2, 3] = False
    found = coordinate_ascent(q, allowed, 0.5, sweeps=200, starts=20)
    marginals = found.marginals()
    assert (marginals[~allowed] == 0).all()
    kept = {0: [0, 2], 1: [0, 1], 2: [0, 1, 2]}
    scopes, tables = zip(*q, strict=True)
    smaller = []
    for scope, table in zip(scopes, tables, strict=True):
        for axis, agent in enumerate(scope):
            table = table.index_select(axis + 1, torch.tensor(kept[agent]))
        smaller.append(table)
    reduced = Factors(FactorGraph((2, 2, 3), scopes), smaller)
    alone = coordinate_ascent(reduced, everything(3, (2, 2, 3)), 0.5, sweeps=200, starts=20)
    torch.testing.assert_close(elbo(found, q, 0.5), elbo(alone, reduced, 0.5), rtol=0, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("solver", [pytest.param("gradient", marks=pytest.mark.slow), "coordinate_ascent"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_time_limits_bootstrap_and_ends_do_not(ending, solver):
    algorithm = learn(
        "mean_field", chain(ending), updates=220, discount=0.8, network={"hidden": (32,)}, **rates(critic=5e-3),
        target={"rate": 0.3}, batch_size=64, temperature=FIXED, solver=solver, sweeps=2, starts=2,
    )  # fmt: skip
    critic = algorithm.learner.critic
    (q,) = critic(chain_observation()[0]).q
    value = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(q.max()[0].detach(), [0.8 * value, value], rtol=0.01)


@pytest.mark.slow
def test_coordinate_ascent_needs_no_policy_network_and_plays_a_game():
    env = make_env("matrix_game", payoff=[[1.0, 5.0], [5.0, 9.0]], num_envs=32)
    algorithm = learn(
        "mean_field",
        env,
        updates=60,
        discount=0.0,
        network={"hidden": (32,)},
        critic={"learning_rate": 2e-2},
        solver="coordinate_ascent",
    )
    step = env.reset()
    assert algorithm.act(step, explore=False).tolist() == [[1, 1]] * 32
    fresh = make_algorithm("mean_field", env.spec, Streams(0), network={"hidden": (32,)}, solver="coordinate_ascent")
    for name, value in fresh.learner.actor.state_dict().items():
        assert torch.equal(value, algorithm.learner.actor.state_dict()[name])


def test_masks_hold_in_play_and_greedy_play_moves_no_stream():
    env = chain("terminated", num_envs=200, cardinalities=(2, 4, 3))
    streams = Streams(0)
    algorithm = make_algorithm("mean_field", env.spec, streams, network={"hidden": (8,)}, solver="coordinate_ascent")
    step = env.reset(seed=0)
    before = streams.torch("exploration").get_state()
    greedy = algorithm.act(step, explore=False)
    np.testing.assert_array_equal(greedy, algorithm.act(step, explore=False))
    assert torch.equal(before, streams.torch("exploration").get_state())
    for actions in (greedy, algorithm.act(step, explore=True)):
        assert np.take_along_axis(step.available_actions, actions[..., None], axis=-1).all()
    assert not torch.equal(before, streams.torch("exploration").get_state())


def test_an_unknown_solver_is_refused():
    with pytest.raises(ConfigError, match="solver"):
        make_algorithm("mean_field", game_spec([[0.0, 1.0], [1.0, 0.0]]), Streams(0), solver="newton")


@pytest.mark.parametrize(
    ("solver", "least"), [({"solver": "coordinate_ascent"}, 0.93), ({"potentials": "residual"}, 0.75)]
)
def test_with_rivalry_agents_learn_to_divide_tasks_and_a_larger_team_knows_it_at_once(solver, least):
    """Agents who each take their own best task earn 0.74 of the optimum, 0.69 where they are twelve."""
    env = make_env("assignment_game", agents=6, num_envs=64)
    descent = {"learning_rate": 1e-2, "method": "muon"}
    learner = learn(
        "mean_field", env, updates=200, rollout=1, num_pairs=0, rivalry=4, critic=descent, actor=descent,
        network={"kind": "exchangeable", "hidden": [16], "features": {"frequencies": 0}},
        temperature={"fixed": 0.01}, **solver,
    )  # fmt: skip
    # Without coordinate ascent, the more agents there are the warmer is what they learned.
    for agents in (6, 12, *[60] * ("solver" in solver)):
        env = make_env("assignment_game", agents=agents, num_envs=50)
        learner.retarget(env.spec)
        step = env.reset(seed=1)
        best = env.optimal_return(1.0).mean()
        assert env.step(learner.act(step, explore=False)).reward[:, 0].mean() > least * best
