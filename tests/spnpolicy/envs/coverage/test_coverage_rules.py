"""Coverage against an independent oracle, step by step, and single games against batches."""

import numpy as np
import pytest
from coverage_oracle import OracleGame
from hypothesis import given, settings
from hypothesis import strategies as st

from spnpolicy.base.errors import CheckpointError, ConfigError
from spnpolicy.envs.coverage.coverage import VARIANTS, Coverage

UP, DOWN, LEFT, RIGHT, CLAIM = 1, 2, 3, 4, 5


@st.composite
def games(draw, *, may_break=False):
    """Options of a small game that can be solved, with a seed for layouts and actions."""
    agents = draw(st.integers(1, 4))
    goals = draw(st.integers(1, agents))
    smallest = int(np.ceil(np.sqrt(agents + goals)))
    options = {
        "agents": agents,
        "goals": goals,
        "size": draw(st.integers(max(2, smallest), 5)),
        "variant": draw(st.sampled_from(VARIANTS)),
        "episode_limit": draw(st.integers(1, 40)),
        **({"broken": draw(st.integers(0, agents - goals)), "announced": draw(st.booleans())} if may_break else {}),
    }
    return options, draw(st.integers(0, 2**32 - 1))


def random_layouts(options, num_envs, generator):
    cells = options["size"] ** 2
    layouts = np.stack([generator.permutation(cells) for _ in range(num_envs)])
    return layouts[:, : options["agents"]], layouts[:, options["agents"] : options["agents"] + options["goals"]]


def oracle_of(options, agent_cells, goal_cells, breaks):
    size = options["size"]
    agents, goals = ([divmod(int(cell), size) for cell in cells] for cells in (agent_cells, goal_cells))
    announced = options.get("announced", True)
    return OracleGame(size, agents, goals, options["variant"], options["episode_limit"], breaks.tolist(), announced)


def restarted_oracles(env, options, rows):
    """Build oracles for games that have just begun, from what the environment shows of their layouts."""
    boards = {row: env.board(row) for row in rows}
    return {
        row: oracle_of(options, board.agent_cells[0], board.goal_cells[0], board.breaks[0])
        for row, board in boards.items()
    }


@settings(max_examples=60, deadline=None)
@given(games(may_break=True))
def test_agrees_with_the_oracle(game):
    options, seed = game
    generator = np.random.default_rng(seed)
    num_envs = 6
    env = Coverage(num_envs=num_envs, **options)
    agent_cells, goal_cells = random_layouts(options, num_envs, generator)
    shown = env.set_layout(agent_cells, goal_cells)
    oracles = restarted_oracles(env, options, range(num_envs))
    for row, oracle in oracles.items():
        assert (oracle.agents, oracle.goals) == (
            [divmod(int(cell), options["size"]) for cell in agent_cells[row]],
            [divmod(int(cell), options["size"]) for cell in goal_cells[row]],
        )
        np.testing.assert_allclose(shown.observation[row], oracle.observation(), atol=1e-6)
    for _ in range(60):
        actions = generator.integers(0, 6, (num_envs, options["agents"]))
        step = env.step(actions)
        for row, oracle in oracles.items():
            reward, terminated, truncated = oracle.step(actions[row].tolist())
            assert (step.reward[row] == reward).all()
            assert step.terminated[row] == terminated
            assert step.truncated[row] == truncated
            np.testing.assert_allclose(step.final_observation[row], oracle.observation(), atol=1e-6)
        ended = np.flatnonzero(step.terminated | step.truncated).tolist()
        oracles |= restarted_oracles(env, options, ended)
        for row in ended:
            np.testing.assert_allclose(step.observation[row], oracles[row].observation(), atol=1e-6)
        if options["broken"]:
            for row, oracle in oracles.items():
                stuck = [i for i in range(options["agents"]) if oracle.is_broken(i)]
                assert np.flatnonzero(~step.available_actions[row, :, 1:].any(-1)).tolist() == stuck
                assert step.available_actions[row, :, 0].all()


@settings(max_examples=25, deadline=None)
@given(games())
def test_batch_equals_single(game):
    options, seed = game
    generator = np.random.default_rng(seed)
    num_envs = 5
    agent_cells, goal_cells = random_layouts(options, num_envs, generator)
    actions = generator.integers(0, 6, (options["episode_limit"], num_envs, options["agents"]))
    batch = Coverage(num_envs=num_envs, **options)
    batch.set_layout(agent_cells, goal_cells)
    together = [batch.step(joint) for joint in actions]
    for row in range(num_envs):
        single = Coverage(num_envs=1, **options)
        single.set_layout(agent_cells[row : row + 1], goal_cells[row : row + 1])
        for time, want in enumerate(together):
            step = single.step(actions[time, row : row + 1])
            for name in ("final_observation", "final_state", "reward", "terminated", "truncated"):
                np.testing.assert_array_equal(getattr(step, name)[0], getattr(want, name)[row], err_msg=name)
            if step.terminated[0] or step.truncated[0]:
                break
        else:
            pytest.fail("an episode did not end within its limit")


def test_state_is_a_view_of_all_observations():
    step = Coverage(agents=3, size=5, num_envs=4).reset(seed=0)
    assert np.shares_memory(step.state, step.observation)
    np.testing.assert_array_equal(step.state, step.observation.reshape(4, -1))


@pytest.mark.parametrize("variant", ["latch", "simultaneous"])
@pytest.mark.parametrize("shown", [1, 3, 9])
def test_agents_who_see_the_nearest_goals_see_free_ones_first_and_by_number(shown, variant):
    options = {"agents": 5, "goals": 4, "size": 6, "variant": variant, "num_envs": 10}
    env, whole = Coverage(shown=shown, **options), Coverage(**options)
    random, seen_claimed = np.random.default_rng(0), 0
    step, complete = env.reset(seed=2), whole.reset(seed=2)
    for _ in range(20):
        count = min(shown, 4)
        goals = step.observation[..., 3:].reshape(10, 5, count, 4)
        all_goals = complete.observation[..., 3:15].reshape(10, 5, 4, 3)
        np.testing.assert_array_equal(step.observation[..., :3], complete.observation[..., :3])
        np.testing.assert_array_equal(step.state, step.observation.reshape(10, -1))
        for row, agent in np.ndindex(10, 5):
            far = np.abs(all_goals[row, agent, :, :2] * 5).sum(-1).round().astype(int)
            keys = [(bool(all_goals[row, agent, j, 2]), far[j], j) for j in range(4)]
            numbers = [j for _, _, j in sorted(keys)[:count]]
            assert goals[row, agent, :, 3].tolist() == numbers
            np.testing.assert_allclose(goals[row, agent, :, :3], all_goals[row, agent, numbers], atol=1e-6)
        seen_claimed += int(goals[..., 2].sum())
        actions = random.integers(6, size=(10, 5))
        step, complete = env.step(actions), whole.step(actions)
        np.testing.assert_array_equal(step.reward, complete.reward)
    assert seen_claimed > 0 or shown == 1
    assert env.spec.entities.sets[0].identity == 3


def test_first_agent_gets_the_goal():
    # row 0: agent 0, goal 0, agent 1; goal 1 in the lower left corner
    env = Coverage(agents=2, size=3, variant="latch")
    env.set_layout(np.array([[0, 2]]), np.array([[1, 6]]))
    step = env.step(np.array([[RIGHT, LEFT]]))
    assert step.observation[0, 0, 2] == 1.0
    assert step.observation[0, 1, 2] == 0.0
    # agent 0 is latched and stays; agent 1 walks on over the claimed goal and wins
    for joint in ([LEFT, LEFT], [LEFT, DOWN], [UP, DOWN]):
        step = env.step(np.array([joint]))
    assert step.terminated[0]
    np.testing.assert_array_equal(step.reward, [[1.0, 1.0]])
    np.testing.assert_allclose(step.final_observation[0, 0, :3], [0.0, 0.5, 1.0])


def test_claim_needs_the_claim_action():
    env = Coverage(agents=1, size=2, variant="claim")
    env.set_layout(np.array([[0]]), np.array([[1]]))
    assert not env.step(np.array([[RIGHT]])).terminated[0]
    assert env.step(np.array([[CLAIM]])).terminated[0]


def test_simultaneous_forgets_goals_that_were_left():
    env = Coverage(agents=2, size=3, variant="simultaneous")
    env.set_layout(np.array([[0, 8]]), np.array([[1, 6]]))
    assert env.step(np.array([[RIGHT, LEFT]])).observation[0, 0, 2] == 1.0
    step = env.step(np.array([[LEFT, LEFT]]))
    assert not step.terminated[0]
    assert step.observation[0, 0, 2] == 0.0
    assert env.step(np.array([[RIGHT, CLAIM]])).terminated[0]


def test_success_on_the_last_step_is_no_truncation():
    env = Coverage(agents=1, size=2, episode_limit=1)
    env.set_layout(np.array([[0]]), np.array([[1]]))
    step = env.step(np.array([[RIGHT]]))
    assert step.terminated[0]
    assert not step.truncated[0]


def test_breakdowns_are_uniform_and_change_no_layout():
    options = {"agents": 5, "goals": 3, "size": 4, "num_envs": 6_000}
    env, same, plain = Coverage(broken=2, **options), Coverage(broken=2, **options), Coverage(**options)
    for each in (env, same, plain):
        each.reset(seed=3)
    boards, others = ([each.board(row) for row in range(6_000)] for each in (env, plain))
    assert all(np.array_equal(one.agent_cells, other.agent_cells) for one, other in zip(boards, others, strict=True))
    breaks = np.concatenate([board.breaks for board in boards])
    assert np.array_equal(breaks, np.concatenate([same.board(row).breaks for row in range(6_000)]))
    is_broken = breaks < 10**6
    # Standard errors are 0.006 and 0.007; five of them: a false alarm in fewer than 1 of 100,000 seeds.
    assert np.bincount(is_broken.sum(1), minlength=3) / 6_000 == pytest.approx([1 / 3] * 3, abs=0.031)
    assert is_broken.mean(0) == pytest.approx([0.2] * 5, abs=0.026)
    assert np.bincount(breaks[is_broken]) / is_broken.sum() == pytest.approx([0.25] * 4, abs=0.03)
    assert plain.spec.has_action_masks is False
    assert env.spec.has_action_masks is True


def test_a_team_that_could_not_do_the_task_without_the_broken_is_refused():
    with pytest.raises(ConfigError, match="broken=2 of agents=4 may leave too few for goals=3; use broken=1"):
        Coverage(agents=4, goals=3, broken=2)


def test_the_best_team_knows_who_will_break():
    env = Coverage(agents=2, goals=1, size=5, broken=1)
    env.set_layout(np.array([[0, 24]]), np.array([[2]]))
    board = env._board
    for breaks, steps in (([9, 9], 2), ([2, 9], 2), ([1, 9], 6), ([9, 5], 2)):
        board.breaks[:] = breaks
        assert env.optimal_steps().tolist() == [steps]


def test_breakdowns_go_on_from_a_saved_state():
    options = {"agents": 4, "goals": 2, "size": 4, "broken": 2, "episode_limit": 7, "num_envs": 5}
    first, second = Coverage(**options), Coverage(**options)
    first.reset(seed=5)
    generator = np.random.default_rng(0)
    for _ in range(9):
        first.step(generator.integers(0, 6, (5, 4)))
    shown = second.load_state_dict(first.state_dict())
    for _ in range(30):
        actions = generator.integers(0, 6, (5, 4))
        expected, shown = first.step(actions), second.step(actions)
        np.testing.assert_array_equal(shown.observation, expected.observation)
        np.testing.assert_array_equal(shown.available_actions, expected.available_actions)


def test_layouts_are_distinct_and_uniform():
    env = Coverage(agents=2, goals=1, size=2, num_envs=24_000)
    env.reset(seed=0)
    state = env.state_dict()
    cells = np.concatenate([state["agent_cells"], state["goal_cells"]], axis=1)
    counts = np.unique(cells @ np.array([16, 4, 1]), return_counts=True)[1]
    # 4 * 3 * 2 = 24 ordered layouts, 1,000 expected of each; chi-square with 23 degrees of freedom,
    # false alarm rate below 1e-6 at 75 (and the seed is fixed)
    assert counts.size == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 75
    np.testing.assert_array_equal(env.board(5).agent_cells[0], state["agent_cells"][5])


def test_reset_without_seed_goes_on_with_the_stream():
    first, second = Coverage(num_envs=3, size=20), Coverage(num_envs=3, size=20)
    start = first.reset(seed=4).observation
    np.testing.assert_array_equal(start, second.reset(seed=4).observation)
    later = first.reset().observation
    assert (later != start).any()
    np.testing.assert_array_equal(later, second.reset().observation)


def test_fresh_environments_differ():
    assert (Coverage(size=50, agents=6).reset().observation != Coverage(size=50, agents=6).reset().observation).any()


def test_fixed_placement_is_one_layout():
    env = Coverage(placement="fixed", layout_seed=3, num_envs=4, episode_limit=2, size=6)
    start = env.reset(seed=0).observation
    assert (start == start[:1]).all()
    for _ in range(2):
        step = env.step(np.zeros((4, 3), int))
    assert step.truncated.all()
    np.testing.assert_array_equal(step.observation, start)
    other = Coverage(placement="fixed", layout_seed=4, num_envs=4, size=6).reset(seed=0).observation
    assert (other != start).any()


def test_actions_are_all_allowed_and_read_only():
    step = Coverage(num_envs=2).reset(seed=0)
    assert step.available_actions.all()
    assert not step.available_actions.flags.writeable


def test_many_goals_need_a_wider_lookup():
    env = Coverage(agents=130, size=17, variant="latch")
    agents, goals = np.arange(130)[None], np.roll(np.arange(150, 280), 116)[None]
    env.set_layout(agents, goals)
    # agent 129 in cell 129 (row 7) walks down twice to cell 163, which is goal 129
    actions = np.zeros((1, 130), int)
    actions[0, 129] = DOWN
    env.step(actions)
    step = env.step(actions)
    flags = step.observation[0, 0, 3 : 3 + 3 * 130].reshape(130, 3)[:, 2]
    np.testing.assert_array_equal(np.flatnonzero(flags), [129])


@pytest.mark.parametrize(
    ("agents", "goals", "message"),
    [
        ([[0, 1]], [[1, 2]], "layout of env 0 uses cell 1 twice"),
        ([[0, 9]], [[1, 2]], r"agent_cells has values outside 0 \.\. 8"),
        ([[0, 1]], [[-1, 2]], r"goal_cells has values outside 0 \.\. 8"),
        ([[0, 1, 3]], [[4, 2]], r"agent_cells has shape \(1, 3\)"),
    ],
)
def test_impossible_layouts_are_refused(agents, goals, message):
    with pytest.raises(ConfigError, match=message):
        Coverage(agents=2, size=3).set_layout(np.array(agents), np.array(goals))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("agent_cells", np.full((2, 3), 25), r"agent_cells of the saved state has values outside 0 \.\. 24"),
        ("steps", np.array([0, 200]), r"steps of the saved state has values outside 0 \.\. 199"),
        ("goal_flags", np.zeros((2, 2), bool), r"goal_flags of the saved state has shape \(2, 2\)"),
        ("agent_flags", np.zeros((2, 3), int), r"agent_flags of the saved state has shape \(2, 3\) and dtype int"),
        ("layouts", {"generator": {}, "position": 0}, "damaged"),
        ("layouts", {"generator": None, "position": 3.5}, "damaged"),
    ],
)
def test_impossible_saved_states_are_refused(name, value, message):
    env = Coverage(num_envs=2)
    env.reset(seed=0)
    saved = env.state_dict()
    with pytest.raises(CheckpointError, match=message):
        env.load_state_dict({**saved, name: value})
    np.testing.assert_equal(env.state_dict(), saved)


def test_saved_state_of_other_options_is_refused():
    env, other = Coverage(variant="latch"), Coverage(variant="claim")
    env.reset(seed=0)
    with pytest.raises(CheckpointError, match="saved state has variant='latch', this environment variant='claim'"):
        other.load_state_dict(env.state_dict())
