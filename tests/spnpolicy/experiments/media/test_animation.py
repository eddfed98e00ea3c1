"""Animations of environments of others: which runs can be drawn, what is shown, and what becomes of large pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution
from circuits.structures import mean_field
from spnpolicy.base.errors import ConfigError
from spnpolicy.data.env import BatchedEnv, EnvSpec, Step
from spnpolicy.data.protocol import Algorithm
from spnpolicy.envs import ENVIRONMENTS, make_env
from spnpolicy.envs.sprites import BORDER, PAPER, PictureTooLargeError
from spnpolicy.experiments.answers.picture import state_of
from spnpolicy.experiments.media import animation, boards
from spnpolicy.experiments.media.animation import play
from spnpolicy.experiments.media.boards import MOST_PIXELS, MOUNT_PIXELS, check_drawable, load_to_draw
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import train
from spnpolicy.training.runs import LoadedRun

FRAME = MOUNT_PIXELS + 1


class Still(Algorithm):
    """A policy that always plays action 0."""

    config = None

    def act(self, step, *, explore, progress):
        assert not explore
        return np.zeros(step.reward.shape, int)


def run_of(env):
    return LoadedRun(RunConfig("vdn", "still"), env, Still(), 0)


class Slides(BatchedEnv):
    """Two environments whose pictures are of one colour: 50 * env + step. The first one ends after 3 steps."""

    name, num_envs, episode_limit = "slides", 2, 5
    spec, action_names = EnvSpec((1,), 1, 1, False), ("stay",)
    size = (40, 60)

    def __init__(self, fails_at=None):
        self.time, self.fails_at = 0, fails_at

    def reset(self, *, seed=None):
        return self.look()

    def step(self, actions):
        self.time += 1
        return self.look()

    def look(self):
        is_over = np.array([self.time == 3, self.time == 5])
        discarded = None if self.time != self.fails_at else np.array([False, True])
        if discarded is not None:
            is_over |= discarded
        none = np.zeros(2, bool)
        seen, state, mask = np.zeros((2, 1, 1), np.float32), np.zeros((2, 1), np.float32), np.ones((2, 1, 1), bool)
        return Step(seen, state, state, is_over, none, mask, seen, state, mask, discarded)

    def render(self, index, *, final=False):
        assert final == (self.time > 0)
        return np.full((*self.size, 3), 50 * index + self.time, np.uint8)


def test_pictures_of_others_lie_on_paper():
    (first, *_), _ = play(run_of(Slides()), seed=0)
    assert first.shape == (40 + 2 * FRAME, 60 + 2 * FRAME, 3)
    assert not first[FRAME:-FRAME, FRAME:-FRAME].any()
    assert (first[MOUNT_PIXELS, MOUNT_PIXELS:-MOUNT_PIXELS] == BORDER).all()
    assert (first[:MOUNT_PIXELS] == PAPER).all()


def test_every_episode_is_shown_from_its_start_to_its_end():
    episodes = play(run_of(Slides()), seed=0)
    assert [[int(picture[20, 20, 0]) for picture in episode] for episode in episodes] == [
        [0, 1, 2, 3],
        [50, 51, 52, 53, 54, 55],
    ]


def test_first_and_last_pictures_of_a_row_are_held():
    episodes = [[np.zeros((8, 8, 3), np.uint8)] * length for length in (3, 4, 2)]
    held = [shot.milliseconds for shot in animation.shots_of(episodes, columns=2)]
    step, start, hold = animation.STEP_MILLISECONDS, animation.START_MILLISECONDS, animation.HOLD_MILLISECONDS
    assert held == [start, step, step, hold, start, hold]
    assert len({step, start, hold}) == 3


class Sure(Still):
    """A joint policy that moves every agent right."""

    def policy_at(self, step):
        envs, agents = step.reward.shape
        logits = torch.full((envs, agents, 6), -torch.inf)
        logits[..., 4] = 0.0
        return CircuitDistribution(mean_field([6] * agents), logits.flatten(1))


def test_marginals_are_shown_in_every_picture_but_that_of_an_end():
    env = make_env("coverage", agents=2, goals=1, size=4, episode_limit=3, num_envs=2)
    policy = Sure()
    plain = play(LoadedRun(RunConfig("vdn", "coverage"), env, policy, 0), seed=1)
    shown = play(LoadedRun(RunConfig("spn_ac", "coverage"), env, policy, 0), seed=1, shows_marginals=True)
    assert [len(episode) for episode in shown] == [len(episode) for episode in plain] == [4, 4]
    assert shown[0][0].shape[0] > plain[0][0].shape[0]
    step = env.reset(seed=1)
    for time in range(4):
        marginals = policy.policy_at(step).marginals()[0].numpy() if time < 3 else None
        expected = boards.board_of(env, 0, side=animation.WITH_MARGINALS_PIXELS, final=True, marginals=marginals)
        np.testing.assert_array_equal(shown[0][time], expected)
        step = env.step(np.zeros((2, 2), int))


def test_marginals_that_nobody_knows_or_draws_are_refused():
    env = make_env("coverage", num_envs=1)
    with pytest.raises(ConfigError, match="vdn has no joint distribution over actions to ask. Train one that has"):
        play(run_of(env), seed=0, shows_marginals=True)
    with pytest.raises(ConfigError, match="slides does not draw marginals; coverage does"):
        play(LoadedRun(RunConfig("spn_ac", "slides"), Slides(), Sure(), 0), seed=0, shows_marginals=True)


def test_an_episode_that_fails_ends_with_its_last_good_picture():
    episodes = play(run_of(Slides(fails_at=2)), seed=0)
    assert [[int(picture[20, 20, 0]) for picture in episode] for episode in episodes] == [[0, 1, 2, 3], [50, 51]]


@pytest.mark.parametrize(("size", "shown"), [((700, 1400), (0.5, 1)), ((900, 300), (1, 1 / 3)), ((8, 350), (None, 1))])
def test_large_pictures_shrink_and_keep_their_shape(size, shown):
    env = Slides()
    env.size = size
    picture = play(run_of(env), seed=0)[1][0]
    height, width = (length - 2 * FRAME for length in picture.shape[:2])
    assert [height, width] == [s if f is None else round(f * MOST_PIXELS) for s, f in zip(size, shown, strict=True)]
    assert (picture[FRAME:-FRAME, FRAME:-FRAME] == 50).all()


def test_the_size_of_an_animation_is_known_before():
    episodes = [[np.zeros((8, 6 + width, 3), np.uint8)] * length for length, width in ((3, 0), (4, 2), (2, 0))]
    for columns in (1, 2, 3):
        shots = list(animation.shots_of(episodes, columns=columns))
        size = animation.size_of(episodes, columns=columns)
        assert size[1:] == shots[0].picture.shape[:2]
        assert size.shots == len(shots)
        assert size.pixels == sum(shot.picture.size for shot in shots) // 3


def test_pictures_that_would_not_fit_into_memory_are_refused_before(monkeypatch):
    with pytest.raises(PictureTooLargeError, match="1,000 x 1,000 cells would be a picture of .* smaller board"):
        play(run_of(started("coverage", size=1000)), seed=0)
    monkeypatch.setattr(animation, "MOST_BYTES", 100_000)
    with pytest.raises(PictureTooLargeError, match="slides would hold 12 pictures of 78 x 58 pixels"):
        play(run_of(Slides()), seed=0)


def started(name, **options):
    env = make_env(name, **options)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_shows_its_state_beside_an_answer_or_nothing(name):
    """Whatever its `render` takes: none can choose the size of a cell but coverage."""
    shown = state_of(started(name, **({"render_mode": "rgb_array"} if name == "foraging" else {})))
    assert (shown is None) == (name in ("matrix_game", "two_step", "assignment_game"))
    assert shown is None or shown.ndim == 3
    assert state_of(Slides()).shape[2] == 3


def test_environments_that_cannot_be_drawn_are_told_what_they_lack():
    with pytest.raises(ConfigError, match=r"matrix_game draws no pictures.*render\(index, \*, final=False\)"):
        check_drawable(make_env("matrix_game"))
    with pytest.raises(ConfigError, match="foraging was made without render_mode='rgb_array'"):
        check_drawable(make_env("foraging"))
    half = SimpleNamespace(name="half", render=lambda index: None)
    with pytest.raises(ConfigError, match="half: render lacks `final`"):
        check_drawable(half)
    for env in (make_env("foraging", render_mode="rgb_array"), make_env("coverage"), Slides()):
        check_drawable(env)


@pytest.fixture
def folder_of(tmp_path):
    """Return a function that trains for a moment and returns the folder of the run."""

    def trained(env, **options):
        settings = TrainConfig(steps=40, num_envs=4, warmup_steps=8, batch_size=8, evaluation_episodes=1)
        train(RunConfig("iql", env, {"network": {"hidden": (4,)}}, options, settings), tmp_path / "run")
        return tmp_path / "run"

    return trained


def test_a_run_trained_in_workers_is_drawn_in_this_process(folder_of):
    run = load_to_draw(folder_of("foraging", workers=1, task="Foraging-5x5-2p-1f-v3"), num_envs=2)
    assert run.config.env_options["workers"] == 1
    episodes = play(run, seed=0)
    assert len(episodes) == 2
    assert all(len(episode) > 1 for episode in episodes)
    assert len({picture.tobytes() for episode in episodes for picture in episode}) > 2


@pytest.mark.parametrize(("display", "driver", "expected"), [
    (None, None, "dummy"), ("", None, "dummy"), (":0", None, None), (None, "x11", "x11"),
])  # fmt: skip
def test_where_there_is_no_display_none_is_looked_for(display, driver, expected, folder_of, monkeypatch):
    given = {"DISPLAY": display, "SDL_VIDEODRIVER": driver}
    environ = {name: value for name, value in given.items() if value is not None}
    folder = folder_of("coverage", size=3, agents=2)
    monkeypatch.setattr(boards.os, "environ", environ)
    monkeypatch.setattr(boards.sys, "platform", "linux")
    run = load_to_draw(folder, num_envs=1)
    assert environ.get("SDL_VIDEODRIVER") == expected
    assert run.env.num_envs == 1
