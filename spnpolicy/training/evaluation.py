"""Evaluation: greedy play and sampled play, exactly one whole episode in each of many parallel environments."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.data.env import BatchedEnv, Step
from spnpolicy.data.protocol import Algorithm
from spnpolicy.training.episodes import Episodes, EpisodeTracker
from spnpolicy.training.player import Player

SAMPLED = "sampled_"
"""What the names of the means of sampled play begin with."""
PLAYS = {"sampled": 1.0, "cooled": 4.0}
"""Ways to draw from a joint policy, and by how much its log probabilities are stretched: drawn at a quarter of the
temperature, rare joint actions nearly vanish, and still nothing goes round in circles for ever."""

Act = Callable[[Step], Int[np.ndarray, "envs agents"]]


@dataclass(frozen=True)
class EvaluationResult:
    """What a number of evaluation episodes gave, one entry per episode."""

    episodes: Episodes
    """Returns, lengths and successes, ordered by environment."""
    fraction_of_optimum: Float[np.ndarray, " episodes"] | None
    """Discounted return divided by the best possible one from the same start; nan where that is not positive,
    None where the environment does not know its optimum."""
    drawn: "dict[str, EvaluationResult]" = field(default_factory=dict)
    """The same episodes with actions drawn from the joint policy, by the ways that were asked for, see `PLAYS`; empty
    where there is none. Where these are better, the mode goes round in circles."""

    def summary(self) -> dict[str, float]:
        """Return the means over episodes, ready for a metrics record."""
        means = {
            "return": float(self.episodes.returns.mean()),
            "discounted_return": float(self.episodes.discounted_returns.mean()),
            "length": float(self.episodes.lengths.mean()),
            "success": float(self.episodes.successes.mean()),
        }
        if self.fraction_of_optimum is not None:
            known = self.fraction_of_optimum[np.isfinite(self.fraction_of_optimum)]
            means["fraction_of_optimum"] = float(known.mean()) if len(known) else float("nan")
        for play, result in self.drawn.items():
            means |= {f"{play}_{name}": value for name, value in result.summary().items()}
        return means

    def rows(self, discount: float) -> list[tuple[str, str, str]]:
        """Return name, mean and standard error of each number, as texts; `discount` is for the name of one."""
        episodes = self.episodes
        columns = {
            "success": episodes.successes.astype(float),
            "steps": episodes.lengths,
            "return": episodes.returns,
            f"discounted return ({discount:g})": episodes.discounted_returns,
        }
        if self.fraction_of_optimum is not None:
            columns["fraction of the optimum"] = self.fraction_of_optimum
        # The fraction of the optimum is nan in layouts where the optimum itself is nothing.
        known = {name: values[np.isfinite(values)] for name, values in columns.items()}
        return [
            (name, f"{values.mean():8.4f}", f"+- {values.std() / math.sqrt(len(values)):.4f}")
            for name, values in known.items()
            if len(values)
        ]


class EvaluationStopped(Exception):
    """An evaluation was asked to stop; its episodes are lost, and nothing else."""


def evaluate(
    algorithm: Algorithm,
    env: BatchedEnv,
    episodes: int,
    discount: float,
    seed: int,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    plays: Sequence[str] = ("sampled",),
) -> EvaluationResult:
    """Play `episodes` whole episodes without exploration, side by side, one in each environment.

    One episode per environment, because the first so many to finish out of a stream would mostly be short
    ones. An environment that is done goes on playing unobserved until the last one is done.

    Args:
        algorithm: who acts, with `explore=False`.
        env: a batch of exactly `episodes` environments, not the ones used for training.
        episodes: number of episodes.
        discount: worth of a reward one step later, for the discounted return.
        seed: fixes the episodes, so that different algorithms meet the same ones.
        should_stop: asked before every step.
        plays: names of `PLAYS`: ways in which the episodes are also played, where the algorithm has a joint policy to
            draw from (a method `draw`); what is drawn depends on `seed` only.

    Raises:
        ConfigError: the environment is not a batch of `episodes`.
        EnvError: an episode goes on past `env.episode_limit`.
        EvaluationStopped: `should_stop` said so.
    """
    if env.num_envs != episodes:
        raise ConfigError(
            f"evaluation of {episodes} episodes needs as many environments, but {env.name} has "
            f"{env.num_envs}. Make it with num_envs={episodes}."
        )
    player = Player(algorithm)
    greedy = _play(lambda step: player.act(step, explore=False), env, discount, seed, should_stop)
    draw = getattr(algorithm, "draw", None)
    if draw is None:
        return greedy
    drawn: dict[str, EvaluationResult] = {}
    for play in plays:
        generator = torch.Generator().manual_seed(seed)
        act = partial(draw, sharpness=PLAYS[play], generator=generator)
        drawn[play] = _play(act, env, discount, seed, should_stop)
    return replace(greedy, drawn=drawn)


def _play(act: Act, env: BatchedEnv, discount: float, seed: int, should_stop: Callable[[], bool]) -> EvaluationResult:
    """Play one episode in each environment, as `evaluate` says."""
    step = env.reset(seed=seed)
    optimum = _optimal_return(env, discount)
    tracker = EpisodeTracker(env.num_envs, discount)
    finished: list[Episodes] = []
    pending = np.ones(env.num_envs, dtype=bool)
    steps_left = env.episode_limit
    while steps_left:
        if should_stop():
            raise EvaluationStopped
        step = env.step(act(step))
        # An episode lost to a failing environment is played again from its start.
        steps_left = env.episode_limit if step.discarded is not None and step.discarded.any() else steps_left - 1
        ended = tracker.add(step)
        is_first = pending[ended.env]
        finished.append(Episodes(*(column[is_first] for column in ended)))
        pending[ended.env] = False
        if not pending.any():
            break
    else:
        raise EnvError(
            f"{env.name}[env {int(np.flatnonzero(pending)[0])}]: the episode is not over after "
            f"{env.episode_limit} steps, its limit; the environment must set `truncated` there."
        )
    played = _by_environment(finished)
    return EvaluationResult(played, _fraction(played.discounted_returns, optimum))


def _optimal_return(env: Any, discount: float) -> np.ndarray | None:
    # Optional in the protocol: only some tasks know their optimum, and only for the episodes under way.
    compute = getattr(env, "optimal_return", None)
    return None if compute is None else np.asarray(compute(discount), dtype=np.float64)


def _fraction(returns: np.ndarray, optimum: np.ndarray | None) -> np.ndarray | None:
    if optimum is None:
        return None
    return np.divide(returns, optimum, out=np.full(len(returns), np.nan), where=optimum > 0)


def _by_environment(finished: list[Episodes]) -> Episodes:
    joined = Episodes(*(np.concatenate(columns) for columns in zip(*finished, strict=True)))
    order = np.argsort(joined.env)
    return Episodes(*(column[order] for column in joined))
