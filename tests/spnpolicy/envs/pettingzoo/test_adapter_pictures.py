"""Pictures of PettingZoo games and of foraging: what is drawn is what is the case, the end of an episode included."""

import numpy as np
import pytest
from painted_games import AlwaysPainted, Painted

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.envs import make_env
from spnpolicy.envs.foraging.render import APPLE
from spnpolicy.envs.pettingzoo.adapter import ParallelBatch
from spnpolicy.envs.pettingzoo.share import episode_seed
from spnpolicy.envs.sprites import AGENT_COLORS, board_corner
from tests.spnpolicy.envs.env_cases import random_actions

NAME = "pettingzoo:painted_games."
STAY = np.zeros((2, 2), int)


def shown(env, index=0, *, final=False):
    """Return step and episode of a painted game, as its picture shows them; layout_of resets the first game once."""
    picture = env.render(index, final=final)
    assert picture.shape == (20, 30, 3)
    assert len(np.unique(picture[1:])) == 1
    return int(picture[1, 1, 0]) // 10, int(picture[0, 0, 0]) // 10 - (index == 0)


def test_a_game_shows_its_present_and_the_end_of_an_episode_just_over():
    env = make_env(NAME + "Painted", num_envs=2, length=3, render_mode="rgb_array")
    env.reset(seed=0)
    for time in range(3):
        for row in range(2):
            assert shown(env, row) == shown(env, row, final=True) == (time, 1)
        step = env.step(STAY)
    assert step.terminated.all()
    for row in range(2):
        assert shown(env, row, final=True) == (3, 1)
        assert shown(env, row) == (0, 2)
    env.step(STAY)
    assert shown(env, final=True) == shown(env) == (1, 2)


@pytest.mark.parametrize("forget", ["reset", "load", "restart"])
def test_the_end_is_forgotten_when_play_goes_on_elsewhere(forget):
    env = ParallelBatch(lambda: Painted("rgb_array", length=2), num_envs=1, render_mode="rgb_array")
    env.reset(seed=0)
    saved = env.state_dict()
    for _ in range(2):
        env.step(STAY[:1])
    assert shown(env, final=True) == (2, 1)
    {"reset": env.reset, "load": lambda: env.load_state_dict(saved), "restart": lambda: env.restart([0])}[forget]()
    assert shown(env, final=True)[0] == 0


def test_the_time_limit_of_the_batch_ends_with_a_picture_too():
    env = make_env(NAME + "Painted", num_envs=1, episode_limit=2, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(STAY[:1])
    assert env.step(STAY[:1]).truncated.all()
    assert shown(env, final=True) == (2, 1)


def test_pictures_are_kept_by_whoever_asked():
    env = make_env(NAME + "Painted", render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(STAY[:1])
    env.render()
    assert not first[1:].any()


def test_nothing_is_drawn_unless_it_is_asked_for():
    """A painted game fails when it is drawn without its render mode."""
    env = make_env(NAME + "Painted", num_envs=2, length=2)
    env.reset(seed=0)
    for _ in range(5):
        assert env.step(STAY).discarded is None
    with pytest.raises(EnvError, match="pictures need render_mode='rgb_array' and workers=0"):
        env.render()


def test_drawing_changes_no_game():
    plain, drawn = (make_env(NAME + "Painted", num_envs=2, length=3, **mode) for mode in ({}, {"render_mode": "human"}))
    pictured = make_env(NAME + "Painted", num_envs=2, length=3, render_mode="rgb_array")
    steps = [env.reset(seed=3) for env in (plain, drawn, pictured)]
    for _ in range(7):
        for other in steps[1:]:
            for field, a, b in zip(other._fields, steps[0], other, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=field)
        pictured.render(1)
        steps = [env.step(STAY) for env in (plain, drawn, pictured)]
    np.testing.assert_equal(plain.state_dict(), pictured.state_dict())


def test_a_game_that_always_draws_needs_not_be_told():
    for source in (AlwaysPainted, "painted_games.AlwaysPainted"):
        env = ParallelBatch(source, num_envs=2, render_mode="rgb_array")
        env.reset(seed=0)
        assert shown(env, 1) == (0, 1)


def test_pictures_are_drawn_in_this_process():
    env = make_env(NAME + "Painted", num_envs=2, workers=1, render_mode="rgb_array")
    try:
        env.reset(seed=0)
        with pytest.raises(EnvError, match="workers=0"):
            env.render()
    finally:
        env.close()
    many = make_env(NAME + "Painted", num_envs=64, render_mode="rgb_array")
    many.reset(seed=0)
    assert shown(many, 63) == (0, 1)


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("small_games.Pair", "draws no pictures: .*its render_mode is None"),
        ("painted_games.Windowed", "draws no pictures: .*the render_modes in its metadata are: 'human'"),
        ("painted_games.Forgetful", "must take render_mode and keep it"),
    ],
)
def test_games_without_pictures_are_refused(game, message):
    with pytest.raises(ConfigError, match=message):
        make_env(f"pettingzoo:{game}", render_mode="rgb_array")


@pytest.mark.usefixtures("as_installed")
def test_modes_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="render_mode=3 must be a word such as 'rgb_array'"):
        make_env(NAME + "Painted", render_mode=3)
    with pytest.raises(ConfigError, match="render_mode='rgb_aray'; the render_modes .* are: 'human', 'rgb_array'"):
        make_env(NAME + "Painted", render_mode="rgb_aray")
    with pytest.raises(ConfigError, match="foraging cannot be rendered with render_mode='human'"):
        make_env("foraging", render_mode="human")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", "returned None;"),
        ("numbers", r"returned an array of shape \(4, 4, 3\) and dtype float64"),
        ("grey", r"returned an array of shape \(4, 4\)"),
        ("transparent", r"returned an array of shape \(4, 4, 4\)"),
        ("empty", r"returned an array of shape \(0, 4, 3\)"),
        ("error", "raised ValueError: no paint"),
    ],
)
def test_what_is_no_picture_is_an_error_that_says_where(kind, message):
    env = make_env(NAME + "Misdrawn", render_mode="rgb_array", kind=kind)
    env.reset(seed=0)
    with pytest.raises(EnvError, match=rf"Misdrawn\[env 0, episode 0, step 0\]: render\(\) {message}"):
        env.render()
    env.step(STAY[:1])
    with pytest.raises(EnvError, match=message):
        env.step(STAY[:1])


def test_impossible_pictures_are_refused():
    env = make_env(NAME + "Painted", num_envs=2, render_mode="rgb_array")
    with pytest.raises(EnvError, match="call reset"):
        env.render()
    env.reset(seed=0)
    for index in (2, -1):
        with pytest.raises(EnvError, match=rf"there is no env {index}; the batch has 0 \.\. 1"):
            env.render(index)


def test_spread_looks_as_the_package_draws_it():
    from mpe2 import simple_spread_v3

    env = make_env("pettingzoo:mpe2.simple_spread_v3", num_envs=2, max_cycles=6, render_mode="rgb_array")
    step, generator = env.reset(seed=4), np.random.default_rng(0)
    direct = simple_spread_v3.parallel_env(max_cycles=6, render_mode="rgb_array")
    direct.reset(seed=episode_seed(4, 1, 0))
    pictures = [env.render(1)]
    np.testing.assert_array_equal(pictures[0], direct.render())
    for _ in range(6):
        actions = random_actions(step, generator)
        direct.step(dict(zip(direct.agents, actions[1].tolist(), strict=True)))
        step = env.step(actions)
        pictures.append(env.render(1, final=True))
        np.testing.assert_array_equal(pictures[-1], direct.render())
    assert step.truncated.all()
    assert (env.render(1) != pictures[-1]).any()
    # an action changes the velocity at first, and the place one step later
    assert len({picture.tobytes() for picture in pictures}) == 6


def cells_with(picture, color, size, cell):
    """Return the cells in which a colour fills a good part; the position of the board is the only thing known."""
    left, top = board_corner(picture.shape[1], size, cell)
    board = picture[top : top + size * cell, left : left + size * cell]
    is_color = (np.abs(board.astype(int) - color).max(axis=2) < 24).reshape(size, cell, size, cell)
    return {tuple(place) for place in np.argwhere(is_color.mean(axis=(1, 3)) > 0.15).tolist()}


@pytest.mark.full
def test_foraging_shows_food_and_agents_where_they_are():
    env = make_env("foraging", task="Foraging-5x5-2p-1f-v3", num_envs=4, rescale=False, render_mode="rgb_array")
    step, generator = env.reset(seed=0), np.random.default_rng(0)
    ends = {True: 0, False: 0}
    for _ in range(120):
        step = env.step(random_actions(step, generator))
        for row in range(4):
            picture = env.render(row, final=True)
            seen = step.final_observation[row, 0]
            food = {tuple(seen[:2].astype(int).tolist())} if seen[2] > 0 else set()
            assert cells_with(picture, APPLE, 5, 48) == food
            for agent in range(2):
                place = tuple(seen[3 + 3 * agent : 5 + 3 * agent].astype(int).tolist())
                assert cells_with(picture, AGENT_COLORS[agent], 5, 48) == {place}
            if step.terminated[row] or step.truncated[row]:
                ends[bool(step.terminated[row])] += 1
                assert (env.render(row) != picture).any()
    assert min(ends.values()) > 0


def test_foraging_pictures_tell_levels_and_steps_apart():
    from spnpolicy.envs.foraging.render import render_foraging

    field = np.zeros((4, 6), int)
    field[1, 2] = 2
    base = render_foraging(field, [(0, 0, 1)], share=0.5, time=3)
    assert base.dtype == np.uint8
    left, top, cell = *board_corner(base.shape[1], 6, 40), 40
    for change, area in {
        "food": (slice(top + cell, top + 2 * cell), slice(left + 2 * cell, left + 3 * cell)),
        "agent": (slice(top, top + cell), slice(left, left + cell)),
        "caption": (slice(top + 4 * cell + 3, None), slice(None)),
    }.items():
        other = render_foraging(
            field + (field > 0) * (change == "food"),
            [(0, 0, 2 if change == "agent" else 1)],
            share=0.5,
            time=4 if change == "caption" else 3,
        )
        differs = (other != base).any(axis=2)
        assert differs[area].any(), change
        differs[area] = False
        assert not differs.any(), change


def test_foraging_has_no_picture_without_the_mode():
    from spnpolicy.envs.foraging.lbforaging import parallel_env

    game = parallel_env()
    game.reset(seed=0)
    assert game.render() is None
