"""Pictures: size, content and determinism."""

import numpy as np
import pytest

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.envs.coverage.coverage import Coverage
from spnpolicy.envs.sprites import AGENT_COLORS, BOARD

CELL = 32


def cell_pixels(env, picture, cell):
    """Cut one cell out of a picture, knowing only that the board is centred and one margin below the top."""
    margin = max(8, CELL // 3)
    left = (picture.shape[1] - env.size * CELL) // 2
    row, column = divmod(cell, env.size)
    return picture[margin + row * CELL : margin + (row + 1) * CELL, left + column * CELL : left + (column + 1) * CELL]


def has_color(pixels, color):
    return bool((np.abs(pixels.astype(int) - color).max(axis=2) < 8).any())


def game():
    env = Coverage(agents=3, size=5)
    env.set_layout(np.array([[0, 12, 24]]), np.array([[1, 20, 4]]))
    return env


def test_picture_shows_what_is_where():
    env = game()
    picture = env.render(cell=CELL)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.shape[0] > 5 * CELL
    assert picture.shape[1] >= 5 * CELL
    for agent, cell in enumerate([0, 12, 24]):
        assert has_color(cell_pixels(env, picture, cell), AGENT_COLORS[agent])
    for goal in (1, 20, 4):
        assert len(np.unique(cell_pixels(env, picture, goal).reshape(-1, 3), axis=0)) > 10
    inside = cell_pixels(env, picture, 7)[4:-4, 4:-4]
    np.testing.assert_array_equal(inside, np.broadcast_to(BOARD, inside.shape))


def test_picture_marks_claimed_goals():
    env = game()
    free = cell_pixels(env, env.render(cell=CELL), 1)
    env.step(np.array([[4, 0, 0]]))
    picture = env.render(cell=CELL)
    taken = cell_pixels(env, picture, 1)
    assert has_color(taken, AGENT_COLORS[0])
    assert free[3, 3].sum() > taken[3, 3].sum(), "the corner of a claimed cell is tinted"
    assert not has_color(cell_pixels(env, picture, 0), AGENT_COLORS[0])


def test_wedges_point_where_agents_may_go_the_longer_the_surer():
    env = game()
    marginals = np.zeros((3, 6))
    marginals[0, 4], marginals[1, [1, 3]], marginals[2, 0] = 1.0, (0.9, 0.1), 1.0
    plain, drawn = env.render(cell=CELL), env.render(cell=CELL, marginals=marginals)
    changed = {
        cell: int((cell_pixels(env, plain, cell) != cell_pixels(env, drawn, cell)).any(-1).sum()) for cell in range(25)
    }
    # Agent 0 in cell 0 goes right, agent 1 in cell 12 up and perhaps left, agent 2 in cell 24 stays.
    assert changed[1] > 100
    assert changed[7] > 100 > changed[11] > 0
    assert not any(changed[cell] for cell in (5, 13, 17, 19, 23, 24))


def test_an_agent_that_has_broken_down_is_crossed_out():
    env = Coverage(agents=3, goals=2, size=3, broken=1, num_envs=40)
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros((40, 3), int))
    index = int(np.flatnonzero([env.board(i).broken.any() for i in range(40)])[0])
    board = env.board(index)
    for agent, cell in enumerate(board.agent_cells[0]):
        middle = cell_pixels(env, env.render(index, cell=CELL), int(cell))[9:-9, 9:-9]
        corner = middle[:3, :3].astype(int).sum(-1).min()
        assert (corner < 220) == bool(board.broken[0, agent])


def test_agents_in_one_cell_are_all_shown():
    env = Coverage(agents=3, size=3, variant="simultaneous")
    env.set_layout(np.array([[0, 1, 2]]), np.array([[6, 7, 8]]))
    env.step(np.array([[4, 0, 3]]))
    pixels = cell_pixels(env, env.render(cell=CELL), 1)
    for agent in range(3):
        assert has_color(pixels, AGENT_COLORS[agent])


def test_caption_changes_with_the_step():
    env = game()
    first = env.render(cell=CELL)
    env.step(np.zeros((1, 3), int))
    second = env.render(cell=CELL)
    bottom = max(8, CELL // 3) + 5 * CELL + 3
    np.testing.assert_array_equal(first[:bottom], second[:bottom])
    assert (first[bottom:] != second[bottom:]).any()


def test_picture_is_deterministic_and_harmless():
    env = game()
    before = env.state_dict()
    np.testing.assert_array_equal(env.render(), env.render())
    np.testing.assert_equal(env.state_dict(), before)


def test_final_picture_shows_the_end():
    env = Coverage(agents=1, size=2, num_envs=2)
    env.set_layout(np.array([[0], [0]]), np.array([[1], [3]]))
    step = env.step(np.array([[4], [0]]))
    np.testing.assert_array_equal(step.terminated, [True, False])
    assert has_color(cell_pixels(env, env.render(0, cell=CELL, final=True), 1), AGENT_COLORS[0])
    assert env.board(0).steps == [0]
    assert env.board(0, final=True).steps == [1]
    np.testing.assert_array_equal(env.render(1, final=True), env.render(1))
    saved = env.state_dict()
    for forget in (lambda: env.step(np.zeros((2, 1), int)), env.reset, lambda: env.load_state_dict(saved)):
        env.set_layout(np.array([[0], [0]]), np.array([[1], [3]]))
        env.step(np.array([[4], [0]]))
        forget()
        np.testing.assert_array_equal(env.render(0, final=True), env.render(0))


def test_other_sizes_can_be_drawn():
    env = Coverage(agents=12, size=20)
    env.reset(seed=0)
    picture = env.render(cell=12)
    assert picture.shape[1] >= 240
    for agent in range(7):
        assert has_color(picture, AGENT_COLORS[agent])


def test_impossible_pictures_are_refused():
    env = game()
    with pytest.raises(ConfigError, match="cell=4 is too small; it must be 12 or more"):
        env.render(cell=4)
    with pytest.raises(EnvError, match=r"there is no env 1; the batch has 0 \.\. 0"):
        env.render(1)
    with pytest.raises(EnvError, match="call reset"):
        Coverage().render()
