"""QMIX: a mixer that never falls, what it can fit and what it cannot, and targets that use the next state."""

import itertools

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.networks import mixers
from spnpolicy.networks.mixers import QMixer
from tests.spnpolicy.learning_cases import (
    CHAIN_VALUE_OF_B,
    CLIMBING,
    MONOTONIC,
    as_window,
    chain,
    chain_observation,
    full_batch,
    game_spec,
    learn,
    rates,
)

BAD_BASIN = [[0.0, -5.0], [-5.0, 10.0]]
QTRAN_GAME = [[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]]
BEST_MONOTONE_MSE = {"climbing": 110.82, "bad basin": 4.17, "qtran": 32.0}


def random_mixers(count, weights, spread=1.0):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        mixer = QMixer(3, 2, embedding=3, hidden=4, weights=weights)
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.normal_(generator=generator).mul_(spread)
        utilities = torch.randn(8, 3, generator=generator) * 3
        yield mixer, utilities, torch.randn(8, 2, generator=generator)


def slopes(count, weights):
    found = []
    for mixer, utilities, state in random_mixers(count, weights):
        utilities.requires_grad_()
        found.append(torch.autograd.grad(mixer(utilities, state).sum(), utilities)[0])
    return torch.stack(found)


def test_the_joint_value_never_falls_when_a_utility_rises():
    positive = slopes(1000, "absolute")
    assert (positive >= 0).all()
    assert (positive > 0.01).float().mean() > 0.5
    assert (slopes(100, "softplus") > 0).all()


def test_weights_without_a_transform_would_fall(monkeypatch):
    monkeypatch.setitem(mixers.WEIGHT_TRANSFORMS, "absolute", lambda weight: weight)
    assert (slopes(100, "absolute") < 0).any()


def test_the_joint_value_equals_its_formula_and_depends_on_the_state():
    mixer, utilities, state = next(random_mixers(1, "softplus"))
    with torch.no_grad():
        for row in range(len(state)):
            s, q = state[row], utilities[row]
            read = mixer.reader.weight @ s + mixer.reader.bias
            hidden = (len(read) - 2 * 3) // 2
            inner, outer, offset = (part.clamp(min=0) for part in (read[:hidden], read[hidden:-6], read[-6:-3]))
            first = torch.log1p(mixer.first_weight(inner).exp()).reshape(3, 3)
            last = torch.log1p(mixer.last_weight(outer).exp())
            total = mixer.last_offset(offset)[0]
            for unit in range(3):
                x = sum(first[agent, unit] * q[agent] for agent in range(3)) + read[-3 + unit]
                total = total + last[unit] * (x if x > 0 else x.exp() - 1)
            torch.testing.assert_close(mixer(utilities, state)[row], total)
        moved = mixer(utilities[:1].expand(8, -1), state)
    assert moved.std() > 0.1


def test_the_joint_value_is_convex_in_the_utilities():
    # Both ELU and a sum with positive weights are convex: why not every monotonic table can be fitted.
    for mixer, utilities, state in random_mixers(50, "absolute"):
        here, there = utilities, utilities.roll(1, 0)
        with torch.no_grad():
            middle = mixer((here + there) / 2, state)
            mean = (mixer(here, state) + mixer(there, state)) / 2
        assert (middle <= mean + 1e-3).all()


def best_monotone_mse(payoff):
    """Smallest mean squared error of any table that is monotonic in some order of rows and columns, by min-max."""
    table = np.array(payoff)
    size = len(table)
    edges = itertools.combinations_with_replacement(range(size, -1, -1), size)
    upper_sets = [np.arange(size) >= np.array(edge)[:, None] for edge in edges]
    results = []
    for rows, columns in itertools.product(itertools.permutations(range(size)), repeat=2):
        ordered = table[np.ix_(rows, columns)]
        fit = np.full(table.shape, -np.inf)
        for upper in upper_sets:
            smallest = np.full(table.shape, np.inf)
            for beyond in upper_sets:
                both = upper & ~beyond
                if both.any():
                    smallest[both] = np.minimum(smallest[both], ordered[both].mean())
            fit = np.where(upper, np.maximum(fit, smallest), fit)
        results.append(np.square(fit - ordered).mean())
    return min(results)


@pytest.mark.parametrize(("name", "payoff"), [("climbing", CLIMBING), ("bad basin", BAD_BASIN), ("qtran", QTRAN_GAME)])
def test_the_bounds_that_follow_are_those_of_all_monotonic_tables(name, payoff):
    assert best_monotone_mse(payoff) == pytest.approx(BEST_MONOTONE_MSE[name], abs=0.005)
    assert best_monotone_mse(MONOTONIC) == pytest.approx(0.0, abs=1e-12)


def fit(payoff, updates, seed=0, batch=None, **options):
    """Train on all joint actions at once; return the learner, every loss, the learned table and the greedy payoff."""
    options = {"network": {"hidden": (32,)}, "critic": {"learning_rate": 5e-3}} | options
    algorithm = make_algorithm("qmix", game_spec(payoff), Streams(seed), **options)
    batch = batch or full_batch(payoff)
    found = []
    for update in range(updates):
        if update == updates - updates // 4:
            algorithm.critic_optimizer.param_groups[0]["lr"] /= 10.0
        found.append(algorithm.update(batch, progress=0.0)["critic_loss"])
    with torch.no_grad():
        values = algorithm.joint_value(batch.observation, batch.state, batch.actions).reshape(np.shape(payoff))
        greedy = algorithm.critic.utilities(batch.observation[:1])[0].argmax(-1).tolist()
    return found, values, payoff[greedy[0]][greedy[1]]


def test_a_monotonic_game_is_fitted_even_where_the_state_is_always_zero():
    batch = full_batch(MONOTONIC)
    state = torch.zeros_like(batch.state)
    losses, values, payoff = fit(MONOTONIC, 450, batch=batch._replace(state=state, next_state=state))
    assert losses[-1] < 1e-3
    np.testing.assert_allclose(values, MONOTONIC, atol=0.1)
    assert payoff == 10.0


def assert_never_below_the_bound(seeds, updates, **options):
    for seed in seeds:
        losses, _, payoff = fit(CLIMBING, updates, seed, **options)
        assert min(losses) >= BEST_MONOTONE_MSE["climbing"]
        assert losses[-1] < 176.0
        assert payoff < 11.0


def test_the_climbing_game_cannot_be_fitted():
    assert_never_below_the_bound([0, 4], 200)


@pytest.mark.slow
@pytest.mark.parametrize("mixing_weights", ["absolute", "softplus"])
def test_the_climbing_game_cannot_be_fitted_by_any_of_many(mixing_weights):
    assert_never_below_the_bound(range(5), 1000, mixing_weights=mixing_weights)


def test_the_climbing_game_would_be_fitted_by_weights_of_any_sign(monkeypatch):
    monkeypatch.setitem(mixers.WEIGHT_TRANSFORMS, "absolute", lambda weight: weight)
    assert min(fit(CLIMBING, 200)[0]) < 80.0


def test_the_best_fit_of_a_bad_basin_has_the_right_greedy_action():
    losses, values, payoff = fit(BAD_BASIN, 300)
    assert losses[-1] == pytest.approx(BEST_MONOTONE_MSE["bad basin"], abs=0.02)
    np.testing.assert_allclose(values, [[-10 / 3, -10 / 3], [-10 / 3, 10.0]], atol=0.1)
    assert payoff == 10.0


def test_the_qtran_game_ends_in_a_local_fit_that_pays_nothing():
    losses, _, payoff = fit(QTRAN_GAME, 250)
    assert losses[-1] == pytest.approx(35.56, abs=0.1)
    assert payoff == 0.0


def joint_value_at_chain(algorithm, ending):
    """Learned and true values of A and B for every joint action of two agents with 2 and 3 actions."""
    joint = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    observation, state = (part.repeat_interleave(len(joint), 0) for part in chain_observation())
    with torch.no_grad():
        found = algorithm.joint_value(observation, state, joint.repeat(2, 1)).reshape(2, -1)
    value_b = CHAIN_VALUE_OF_B[ending]
    return found, np.broadcast_to([[0.8 * value_b], [value_b]], found.shape)


CHAIN = {"discount": 0.8, "network": {"hidden": (32,)}, "critic": {"learning_rate": 1e-3}, "target": {"rate": 0.2}}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("terminated", {"windows": True, "sequence_length": 4}),
        ("truncated", {"share_parameters": False}),
        ("truncated", {"double_q": False}),
        ("truncated", {"windows": True, "sequence_length": 4}),
    ],
)
def test_time_limits_bootstrap_and_ends_do_not(ending, options):
    options = CHAIN | options
    algorithm = learn("qmix", chain(ending), updates=650, **options)
    np.testing.assert_allclose(*joint_value_at_chain(algorithm, ending), rtol=0.01)


def recurrent_values(algorithm):
    """Q_tot of A and then B as a recurrent learner sees them in one window that begins with an episode."""
    observation, state = (part.unsqueeze(1) for part in chain_observation())
    ended = torch.zeros(2, 1, dtype=torch.bool)
    zero = torch.zeros(2, 1, 2)
    mask = torch.ones(2, 1, 2, 3, dtype=torch.bool)
    memory = torch.zeros(1, 2, algorithm.needs.memory_size)
    window = Batch(
        observation, state, zero.long(), zero, ended, mask, observation, state, mask, ended, ~ended, memory
    )  # fmt: skip
    with torch.no_grad():
        return algorithm.critic.of(algorithm.critic.utilities.now(window), window).flatten()


SLOW_GUESS = pytest.param("truncated", 0.2, marks=pytest.mark.slow)


# What is remembered where the clock stops (A, B, B) is never learned from: its value is a guess of the network.
@pytest.mark.full
@pytest.mark.parametrize(("ending", "tolerance"), [("terminated", 0.01), SLOW_GUESS])
def test_a_recurrent_learner_knows_the_chain(ending, tolerance):
    options = CHAIN | {"network": {"kind": "recurrent", "hidden": (16,)}, "sequence_length": 4, **rates(critic=2e-3)}
    algorithm = learn("qmix", chain(ending), updates=350, batch_size=128, **options)
    value_b = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(recurrent_values(algorithm), [0.8 * value_b, value_b], rtol=tolerance)


def disagreeing(**options):
    """A learner whose online and target networks differ, and a batch with a next state of its own."""
    algorithm = make_algorithm(
        "qmix", EnvSpec((3, 3), 4, 2, True), Streams(0), network={"hidden": (16,)}, discount=0.5, **options
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*algorithm.critic.parameters(), *algorithm.target_critic.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    seen, following = torch.randn(2, 40, 2, 4, generator=generator)
    state, next_state = torch.randn(2, 40, 2, generator=generator)
    mask = torch.rand(40, 2, 3, generator=generator) < 0.7
    mask[..., 0] = True
    reward = torch.randn(40, 2, generator=generator)
    ended = torch.arange(40) % 4 == 0
    actions = torch.randint(3, (40, 2), generator=generator)
    return algorithm, Batch(seen, state, actions, reward, ended, mask, following, next_state, mask)


@pytest.mark.parametrize("double_q", [True, False])
def test_the_target_mixes_the_best_next_utilities_in_the_next_state(double_q):
    algorithm, batch = disagreeing(double_q=double_q)
    with torch.no_grad():
        own = algorithm.target_critic.utilities(batch.next_observation)
        chooser = algorithm.critic.utilities(batch.next_observation) if double_q else own
        choice = chooser.masked_fill(~batch.next_available_actions, -torch.inf).argmax(-1, keepdim=True)
        mixed = algorithm.target_critic.mixer(own.gather(-1, choice).squeeze(-1), batch.next_state)
        y = batch.reward.mean(-1) + 0.5 * mixed * (~batch.terminated)
        expected = (y - algorithm.joint_value(batch.observation, batch.state, batch.actions)).square().mean()
    assert algorithm.update(batch, progress=0.0)["critic_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_rows_that_are_not_valid_count_nothing():
    found = []
    for spoiled in (False, True):
        algorithm, batch = disagreeing()
        if spoiled:
            window = as_window(batch)
            reward = window.reward.clone()
            reward[0, 7] = 1e6
            valid = window.valid.clone()
            valid[0, 7] = False
            batch = window._replace(reward=reward, valid=valid)
        else:
            kept = torch.arange(40) != 7
            batch = Batch(*(None if part is None else part[kept] for part in batch))
        found.append(algorithm.update(batch, progress=0.0)["critic_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"mixer_hidden is 0, but must be between 1 and"):
        make_algorithm("qmix", EnvSpec((2,), 1, 1, False), Streams(0), mixer_hidden=0)
    with pytest.raises(ConfigError, match=r"mixing_weights"):
        make_algorithm("qmix", EnvSpec((2,), 1, 1, False), Streams(0), mixing_weights="square")
