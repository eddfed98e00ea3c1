"""What environments declare of their observations, against what they really are."""

import numpy as np
import pytest

from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.envs import make_env
from tests.spnpolicy.envs.env_cases import foraging_at


def seen(spec, observation, name):
    """The entities of a set as the declaration says, (envs, agents, count, size), and their places in cells."""
    entities = spec.entities
    part = next(part for part in entities.parts if part.name == name)
    block = observation[..., part.start : part.stop].reshape(*observation.shape[:-1], part.count, part.size)
    places = block[..., list(part.positions)]
    if part is not entities.own and not entities.is_relative:
        own = observation[..., entities.own.start : entities.own.stop][..., list(entities.own.positions)]
        places = places - own[..., None, :]
    is_there = np.ones(block.shape[:-1], bool) if part.presence is None else block[..., part.presence] > part.absent
    return block, places * entities.cells, is_there


def rows_and_columns(cells, size):
    return np.stack(np.divmod(cells, size), -1)


@pytest.mark.parametrize("variant", ["latch", "claim"])
def test_coverage_shows_what_it_declares(variant):
    size, agents = 6, 4
    env = make_env("coverage", agents=agents, goals=3, size=size, variant=variant, num_envs=20)
    step, generator = env.reset(seed=0), np.random.default_rng(0)
    for _ in range(12):
        step = env.step(generator.integers(0, 6, (20, agents)))
    board = env._board
    here, goals = rows_and_columns(board.agent_cells, size), rows_and_columns(board.goal_cells, size)
    _, place, is_there = seen(env.spec, step.observation, "goals")
    np.testing.assert_allclose(place, goals[:, None] - here[:, :, None], atol=1e-5)
    assert is_there.all()
    others = [[(i + k) % agents for k in range(1, agents)] for i in range(agents)]
    block, place, _ = seen(env.spec, step.observation, "others")
    np.testing.assert_allclose(place, here[:, others] - here[:, :, None], atol=1e-5)
    np.testing.assert_array_equal(block[..., 2], board.agent_flags[:, others])
    _, place, _ = seen(env.spec, step.observation, "itself")
    np.testing.assert_allclose(place[:, :, 0], here, atol=1e-5)
    np.testing.assert_array_equal(step.state.reshape(step.observation.shape), step.observation)


@pytest.mark.parametrize("rescale", [True, False])
def test_foraging_shows_what_it_declares(rescale):
    env = make_env("foraging_arrays", rescale=rescale, num_envs=20)
    env.reset(seed=0)
    players, food = env._players.copy(), env._food.copy()
    food[::2, 1, 2] = 0
    step = foraging_at(env, players, food)
    _, place, is_there = seen(env.spec, step.observation, "food")
    left = [row[row[:, 2] > 0, :2] for row in food]
    for index in range(20):
        for agent in range(2):
            np.testing.assert_allclose(
                place[index, agent][is_there[index, agent]], left[index] - players[index, agent, :2], atol=1e-5
            )
    assert (is_there.sum(-1) == np.where(np.arange(20) % 2, 3, 2)[:, None]).all()
    _, place, is_there = seen(env.spec, step.observation, "others")
    np.testing.assert_allclose(place[:, :, 0], players[:, ::-1, :2] - players[:, :, :2], atol=1e-5)
    assert is_there.all()


def test_the_assignment_game_shows_what_it_declares():
    env = make_env("assignment_game", agents=3, tasks=5, num_envs=4)
    step = env.reset(seed=0)
    block, _, _ = seen(env.spec, step.observation, "tasks")
    np.testing.assert_array_equal(block[..., 0], env._worth)
    assert env.spec.entities.own.size == 0


def test_a_declaration_survives_json():
    entities = make_env("foraging_arrays").spec.entities
    assert decode(Entities, encode(entities), path="entities") == entities


ITSELF = EntitySet("itself", 0, 1, 2, (0, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Entities(ITSELF, (EntitySet("goals", 3, 2, 2, (0, 1)),)), "ends at column 2, the next begins at 3"),
        (lambda: Entities(ITSELF, (EntitySet("goals", 1, 2, 2, (0, 1)),)), "ends at column 2, the next begins at 1"),
        (lambda: Entities(ITSELF, (EntitySet("goals", 2, 2, 2, (0,)),)), "as many in every part"),
        (lambda: Entities(ITSELF, (EntitySet("itself", 2, 2, 2, (0, 1)),)), "sets of different names"),
        (lambda: Entities(ITSELF, (), cells=0.0), "entities.cells is 0.0"),
        (lambda: Entities(EntitySet("itself", 0, 2, 1), ()), "1: it is the agent itself"),
        (lambda: EntitySet("goals", 0, 2, 2, (0, 2)), "entities.goals is"),
        (lambda: EntitySet("goals", 0, 2, 2, presence=2), "entities.goals is"),
        (lambda: EntitySet("goals", 0, 2, 2, identity=2), "entities.goals is"),
        (lambda: EntitySet("goals", 0, 2, 2, (0, 1), identity=1), r"entities.goals.identity is 1.*a column of its own"),
        (lambda: EntitySet("goals", 0, 2, 2, identity=1, is_shared=True), r"entities.goals.identity is 1.*is_shared"),
        (lambda: EntitySet("goals", -1, 2, 2), "entities.goals.start is -1"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
