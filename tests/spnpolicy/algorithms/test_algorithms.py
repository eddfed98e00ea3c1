"""Contracts that every registered algorithm keeps, and what IQL and VDN are known to learn."""

import copy
import math
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from circuits import ImpossibleEvidenceError
from spnpolicy.algorithms import ALGORITHMS, algorithm_class, config_class, make_algorithm
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.masks import existing_actions
from spnpolicy.parts.settings import DataSettings
from spnpolicy.training.player import Player, needs_of
from spnpolicy.training.storage.checkpoints import load_checkpoint, save_checkpoint
from spnpolicy.training.storage.state_tree import flatten
from tests.spnpolicy.chain_env import ChainEnv
from tests.spnpolicy.learning_cases import CLIMBING, MONOTONIC, full_batch, play, rates, store_for

INSTALLED = [name for name, entry in ALGORITHMS.items() if find_spec(entry.target.partition(":")[0])]
RECURRENT = [name for name in INSTALLED if "recurrent" in config_class(name).network_kinds]
VARIANTS = [(name, {}) for name in INSTALLED]
MEMORY = {"network": {"kind": "recurrent", "hidden": (8,)}}
VARIANTS += [(name, MEMORY | {"share_parameters": False}) for name in RECURRENT]
OWN = {"rbm": {"sweeps": 3}, "aql": {"num_proposed": 8, "num_uniform": 8}, "reinforce": {"rollout": 8}}
"""Smaller than the defaults, for the speed of the tests."""


def small(name):
    return {"network": {"hidden": (8,)}} | OWN.get(name, {})


def variant_id(value):
    return value if isinstance(value, str) else "-".join(value)


def learner(name, env, seed=0, **options):
    """An algorithm with a store that has been filled by playing."""
    algorithm = make_algorithm(name, env.spec, Streams(seed), **options)
    store = store_for(algorithm, env.spec)
    player, step = play(algorithm, env, store, max(10, needs_of(algorithm).rollout or 0))
    return algorithm, store, player, step


@pytest.mark.one_in(2)
@pytest.mark.parametrize("has_action_masks", [False, True])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=variant_id)
def test_only_available_actions_and_finite_numbers(name, options, has_action_masks):
    env = ChainEnv(50, cardinalities=(2, 4, 3), has_action_masks=has_action_masks)
    algorithm, store, player, step = learner(name, env, **small(name) | options)
    for progress in (0.0, 0.5, 1.0):
        player, step = play(algorithm, env, store, 10, progress, player, step)
        numbers = algorithm.update(store.draw(64), progress=progress)
        assert all(np.isfinite(value) and type(value) is float for value in numbers.values())
    step = env.reset(seed=1)
    actions = Player(algorithm).act(step, explore=False)
    assert np.take_along_axis(step.available_actions, actions[..., None], axis=-1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=variant_id)
def test_no_forbidden_action_in_a_million_steps(name, options):
    """Half of them while learning goes on, half greedy; most masks forbid something."""
    env = ChainEnv(2000, cardinalities=(2, 4, 3), has_action_masks=True)
    algorithm, store, player, step = learner(name, env, **small(name) | options)
    for part in range(25):
        player, step = play(algorithm, env, store, 10, part / 25, player, step)
        algorithm.update(store.draw(64), progress=part / 25)
    greedy = Player(algorithm)
    for _ in range(250):
        actions = greedy.act(step, explore=False)
        assert np.take_along_axis(step.available_actions, actions[..., None], axis=-1).all()
        step = env.step(actions)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_mask_that_allows_nothing_is_refused(name):
    env = ChainEnv(3, cardinalities=(2, 3), has_action_masks=True)
    algorithm = make_algorithm(name, env.spec, Streams(0), **small(name))
    step = env.reset(seed=0)
    mask = step.available_actions.copy()
    mask[1, 0] = False
    for explore in (True, False):
        with pytest.raises((EnvError, ImpossibleEvidenceError)):
            Player(algorithm).act(step._replace(available_actions=mask), explore=explore)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=variant_id)
def test_state_goes_through_a_checkpoint_and_learning_goes_on_bit_for_bit(name, options, tmp_path):
    env = ChainEnv(16, cardinalities=(2, 3))
    streams = Streams(0)
    original = make_algorithm(name, env.spec, streams, **small(name) | options)
    store = store_for(original, env.spec)
    player, step = play(original, env, store, max(10, needs_of(original).rollout or 0))
    batches = [store.draw(32) for _ in range(8)]
    for batch in batches[:4]:
        original.update(batch, progress=0.1)
    state = {"algorithm": original.state_dict(), "streams": streams.state_dict(), "player": player.state_dict()}
    loaded = load_checkpoint(save_checkpoint(tmp_path, state))
    other_streams = Streams(0)
    other = make_algorithm(name, env.spec, other_streams, **small(name) | options)
    other.load_state_dict(loaded["algorithm"])
    other_streams.load_state_dict(loaded["streams"])
    other_player = Player(other)
    other_player.load_state_dict(loaded["player"])
    for batch in batches[4:]:
        assert original.update(batch, progress=0.2) == other.update(batch, progress=0.2)
        ours, theirs = (each.act(step, explore=True, progress=0.2) for each in (player, other_player))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", INSTALLED)
def test_an_update_that_is_not_finite_changes_nothing_and_says_so(name, bad):
    env = ChainEnv(16, cardinalities=(2, 3))
    has_target = hasattr(config_class(name)(), "target")
    algorithm, store, _, _ = learner(name, env, **small(name), **({"target": {"rate": 0.5}} if has_target else {}))
    batch = store.draw(32)
    # Twice, so that the optimiser has moments and the target differs from the network.
    for _ in range(2):
        algorithm.update(batch, progress=0.1)
    before = copy.deepcopy(algorithm.state_dict())
    reward = batch.reward.clone()
    reward.view(-1)[3] = bad
    numbers = algorithm.update(batch._replace(reward=reward), progress=0.1)
    assert not all(map(math.isfinite, numbers.values()))
    ours, theirs = flatten(before), flatten(algorithm.state_dict())
    assert ours[0] == theirs[0]
    assert all(torch.equal(ours[1][place], theirs[1][place]) for place in ours[1])
    assert all(map(math.isfinite, algorithm.update(batch, progress=0.1).values()))


@pytest.mark.parametrize("name", INSTALLED)
def test_where_the_task_is_over_nobody_needs_an_action(name):
    """Masks of a terminal state may be empty: an update does the same as if everything were available there."""
    env = ChainEnv(16, cardinalities=(2, 3), has_action_masks=True)
    algorithm, store, _, _ = learner(name, env, **small(name))
    batch = store.draw(32)
    masks = batch.next_available_actions
    everything, nothing = masks.clone(), masks.clone()
    everything[batch.terminated] = existing_actions(env.spec.cardinalities)
    rows = nothing[batch.terminated]
    rows[:, 0], rows[::2] = False, False
    nothing[batch.terminated] = rows
    twin, *_ = learner(name, env, **small(name))
    ours = algorithm.update(batch._replace(next_available_actions=everything), progress=0.1)
    assert twin.update(batch._replace(next_available_actions=nothing), progress=0.1) == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("name", INSTALLED)
def test_construction_depends_on_the_seed_only(name):
    spec = EnvSpec((3, 3), 4, 4, False)
    observation = (
        ChainEnv(1)
        .reset()
        ._replace(
            observation=np.random.default_rng(0).normal(size=(40, 2, 4)).astype(np.float32),
            state=np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32),
            reward=np.zeros((40, 2), dtype=np.float32),
            available_actions=np.ones((40, 2, 3), dtype=bool),
        )
    )
    before = torch.get_rng_state()
    learners = [make_algorithm(name, spec, Streams(seed)) for seed in (1, 1, 2)]
    actions = [each.act(observation, explore=False) for each in learners]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(actions[0], actions[1])
    states = [flatten(each.state_dict())[1] for each in learners]
    assert all(torch.equal(states[0][place], states[1][place]) for place in states[0])
    assert any(not torch.equal(states[0][place], states[2][place]) for place in states[0])


@pytest.mark.parametrize("name", INSTALLED)
def test_greedy_play_moves_no_stream_and_repeats_itself(name):
    env = ChainEnv(16, cardinalities=(2, 3), has_action_masks=True)
    streams = Streams(0)
    algorithm = make_algorithm(name, env.spec, streams, **small(name))
    step = env.reset(seed=0)
    Player(algorithm).act(step, explore=True)
    before = flatten(streams.state_dict())
    first, second = (Player(algorithm).act(step, explore=False) for _ in range(2))
    after = flatten(streams.state_dict())
    np.testing.assert_array_equal(first, second)
    assert before[0] == after[0]
    assert all(torch.equal(before[1][place], after[1][place]) for place in before[1])


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_policy_needs_its_memory_and_forgets_at_the_end_of_an_episode(name):
    env = ChainEnv(6, cardinalities=(2, 3))
    algorithm = make_algorithm(name, env.spec, Streams(0), **small(name) | MEMORY)
    step = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"acts through spnpolicy.training.player.Player"):
        algorithm.act(step, explore=False)
    player = Player(algorithm)
    for _ in range(3):
        player.act(step, explore=False)
    remembered = player.state_dict()["hidden"].clone()
    over = step.terminated.copy()
    over[2] = True
    player.act(step._replace(terminated=over), explore=False)
    assert (player.memory[2] == 0.0).all()
    keeps = [0, 1, 3, 4, 5]
    assert torch.equal(player.memory[keeps], remembered[keeps])
    assert (remembered != 0.0).any()


def fit(name, batch, updates=1500, **options):
    size = batch.available_actions.shape[-1]
    spec = EnvSpec((size, size), 1, 1, False)
    algorithm = make_algorithm(name, spec, Streams(0), network={"hidden": (32,)}, **rates(critic=5e-3), **options)
    for _ in range(updates):
        algorithm.update(batch, progress=0.0)
    return algorithm


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("payoff", "mse"), [(CLIMBING, 175.09), (MONOTONIC, 6.25)])
def test_vdn_learns_the_additive_projection(payoff, mse):
    table = np.array(payoff)
    expected = table.mean(1, keepdims=True) + table.mean(0, keepdims=True) - table.mean()
    batch = full_batch(payoff)
    algorithm = fit("vdn", batch)
    learned = algorithm.joint_value(batch.observation, batch.actions).detach().reshape(table.shape)
    np.testing.assert_allclose(learned, expected, atol=0.05)
    assert algorithm.update(batch, progress=0.0)["critic_loss"] == pytest.approx(mse, abs=0.05)


def test_iql_learns_row_and_column_means_and_a_wrong_greedy_pair():
    table = np.array(CLIMBING)
    batch = full_batch(CLIMBING)
    algorithm = fit("iql", batch)
    values = algorithm.critic(batch.observation[:1])[0].detach()
    np.testing.assert_allclose(values[0], table.mean(1), atol=0.05)
    np.testing.assert_allclose(values[1], table.mean(0), atol=0.05)
    assert values.argmax(-1).tolist() == [2, 2]


def test_iql_agents_learn_from_their_own_reward_and_vdn_from_the_mean():
    batch = full_batch(MONOTONIC)
    batch = batch._replace(reward=torch.tensor([[1.0, 3.0]]).expand(4, 2))
    values = fit("iql", batch, 600).critic(batch.observation[:1])[0].detach()
    np.testing.assert_allclose(values, [[1.0, 1.0], [3.0, 3.0]], atol=0.02)
    joint = fit("vdn", batch, 600).joint_value(batch.observation, batch.actions).detach()
    np.testing.assert_allclose(joint, np.full(4, 2.0), atol=0.02)


@pytest.mark.parametrize("double_q", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("ending", "value_b"), [("terminated", 1.0), ("truncated", 5.0)])
@pytest.mark.parametrize("name", ["iql", "vdn"])
def test_time_limits_bootstrap_and_ends_do_not(name, ending, value_b, double_q):
    env = ChainEnv(32, ending, cardinalities=(2, 3), has_action_masks=True)
    algorithm = make_algorithm(
        name, env.spec, Streams(0), discount=0.8, network={"hidden": (32,)}, **rates(critic=5e-3), target={"rate": 0.1},
        double_q=double_q,
    )  # fmt: skip
    replay = store_for(algorithm, env.spec)
    play(algorithm, env, replay, 30)
    for _ in range(900):
        algorithm.update(replay.draw(128), progress=0.0)
    observation = torch.eye(2)[:, None].expand(2, 2, 2)
    best = algorithm.critic(observation).amax(-1).detach()
    values = best if name == "iql" else best.sum(-1, keepdim=True)
    expected = np.broadcast_to([[0.8 * value_b], [value_b]], values.shape)
    np.testing.assert_allclose(values, expected, rtol=0.01)


def test_registry_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown algorithm 'vnd'. Did you mean 'vdn'\?"):
        algorithm_class("vnd")
    with pytest.raises(ConfigError, match=r"critic: unknown setting 'learning_rte'. Did you mean 'learning_rate'\?"):
        make_algorithm("vdn", EnvSpec((2,), 1, 1, False), Streams(0), critic={"learning_rte": 1.0})
    with pytest.raises(ConfigError, match=r"iql.network.hidden\[0\] is 2.5"):
        make_algorithm("iql", EnvSpec((2,), 1, 1, False), Streams(0), network={"hidden": (2.5,)})
    assert config_class("iql")().critic.learning_rate == 5e-4


def test_listing_algorithms_does_not_load_torch():
    code = "import sys, spnpolicy.algorithms, spnpolicy.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


EITHER = [name for name in INSTALLED if issubclass(config_class(name), DataSettings)]
"""Who learns from replay and from fresh steps alike."""


@pytest.mark.one_in(3)
@pytest.mark.parametrize("options", [{"rollout": 6, "trace": 0.7}, {"rollout": None}, {"rollout": None, "trace": 0.7}])
@pytest.mark.parametrize("name", EITHER)
def test_fresh_steps_and_replay_serve_alike(name, options):
    env = ChainEnv(20, cardinalities=(2, 3), has_action_masks=True)
    algorithm, store, player, step = learner(name, env, **small(name) | options)
    assert needs_of(algorithm).rollout == options["rollout"]
    for progress in (0.0, 0.5):
        numbers = algorithm.update(store.draw(64), progress=progress)
        assert all(np.isfinite(value) for value in numbers.values())
        play(algorithm, env, store, 6, progress, player, step)


@pytest.mark.parametrize("name", [name for name in EITHER if name in RECURRENT])
def test_a_memory_is_warmed_up_by_rows_that_are_not_learned_from(name):
    """The rewards of those rows have no influence, but what was seen in them has."""
    env, found = ChainEnv(10, cardinalities=(2, 3)), []
    for reward, seen in ((0.0, 0.0), (math.nan, 0.0), (0.0, 1.0)):
        options = MEMORY | {"rollout": None, "burn_in": 2, "sequence_length": 3}
        algorithm, store, *_ = learner(name, env, **small(name) | options)
        batch = store.draw(30)
        assert len(batch.reward) == 5
        batch.reward[:2] += reward
        batch.observation[:2] += seen
        found.append(algorithm.update(batch, progress=0.0)["critic_loss"])
    assert found[0] == found[1] != found[2]
    assert math.isfinite(found[2])


@pytest.mark.parametrize("name", EITHER)
def test_settings_without_influence_are_refused(name):
    spec = ChainEnv(2, cardinalities=(2, 3)).spec
    for options, words in (
        ({"rollout": 4, "windows": True}, "windows is True, but rollout is 4"),
        ({"rollout": 4, "sequence_length": 8}, "sequence_length is 8, but rollout is 4"),
        ({"rollout": None, "sequence_length": 8}, "sequence_length is 8, but single transitions"),
        ({"rollout": 4, "burn_in": 8}, "burn_in is 8, but rollout is 4"),
        ({"rollout": None, "burn_in": 8}, "burn_in is 8, but the network has no memory"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_algorithm(name, spec, Streams(0), **small(name) | options)


@pytest.mark.parametrize("name", INSTALLED)
def test_kinds_of_rewards_and_actions_that_do_not_fit_are_refused(name):
    spec = ChainEnv(2, cardinalities=(2, 3)).spec
    with pytest.raises(ConfigError, match=rf"{name} chooses among discrete actions, but the environment's are cont"):
        make_algorithm(name, spec._replace(actions="continuous"), Streams(0), **small(name))
    if ALGORITHMS[name].reward == "common":
        with pytest.raises(ConfigError, match=rf"{name} learns from one reward of the whole team.*train.team_reward"):
            make_algorithm(name, spec._replace(reward="individual"), Streams(0), **small(name))
    else:
        make_algorithm(name, spec._replace(reward="individual"), Streams(0), **small(name))


@pytest.mark.parametrize("name", INSTALLED)
def test_the_registry_says_who_has_a_joint_policy(name):
    assert ALGORITHMS[name].has_joint_policy == hasattr(algorithm_class(name), "policy_at")


@pytest.mark.parametrize("name", ["iql", "vdn"])
def test_double_q_chooses_with_the_online_network_and_values_with_the_target(name):
    algorithm = make_algorithm(name, EnvSpec((3, 3), 4, 8, True), Streams(0), network={"hidden": (16,)})
    online, target = algorithm.critic, algorithm.target_critic
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # two networks that disagree
        for parameter in (*online.parameters(), *target.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    seen, mask = torch.randn(60, 2, 4, generator=generator), torch.rand(60, 2, 3, generator=generator) < 0.7
    mask[..., 0] = True
    zero, state = torch.zeros(60, 2), seen.flatten(1)
    batch = Batch(seen, state, zero.long(), zero, torch.zeros(60, dtype=torch.bool), mask, seen, state, mask)
    with torch.no_grad():
        choice = online(seen).masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
        values = target(seen).gather(-1, choice).squeeze(-1)
        best_of_target = target(seen).masked_fill(~mask, -torch.inf).amax(-1)
        following = online(seen)
        found = algorithm._targets(batch, following) / 0.95
    assert (values < best_of_target - 0.01).any()
    torch.testing.assert_close(found, values if name == "iql" else values.sum(-1))
    # The setting decides which of the two is learned from.
    taken = online(seen)[..., 0].detach()
    for double_q, target_values in ((False, best_of_target), (True, values)):
        algorithm.config = replace(algorithm.config, double_q=double_q)
        error = taken - 0.95 * target_values if name == "iql" else (taken - 0.95 * target_values).sum(-1)
        state = copy.deepcopy(algorithm.state_dict())
        loss = algorithm.update(batch, progress=0.0)["critic_loss"]
        assert loss == pytest.approx(error.square().mean().item(), rel=1e-4)
        algorithm.load_state_dict(state)
