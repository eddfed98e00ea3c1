"""Exploration: how often and how agents try something other than their best action."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from spnpolicy.envs.protocol import Step
from spnpolicy.errors import ConfigError, EnvError


def linear_schedule(progress: float, *, start: float, end: float, share: float) -> float:
    """Go straight from `start` to `end` during the first `share` of training, then stay there.

    Args:
        progress: share of training already done, in [0, 1].
        start: value at progress 0.
        end: value from progress `share` on.
        share: part of training that the change takes; 0 means `end` at once.
    """
    if progress >= share:
        return end
    return start + (end - start) * progress / share


@dataclass(frozen=True)
class EpsilonSchedule:
    """Probability of a random action over the course of training."""

    start: float = 1.0
    """Probability at the start."""
    end: float = 0.05
    """Probability once the schedule is over."""
    share: float = 0.5
    """Share of training over which the probability falls linearly."""

    def __post_init__(self):
        for name in ("start", "end", "share"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"exploration.{name} is {value}, but must be between 0 and 1.")

    def at(self, progress: float) -> float:
        """Return the probability at this share of training."""
        return linear_schedule(progress, start=self.start, end=self.end, share=self.share)


def epsilon_greedy(
    values: Float[np.ndarray, "envs agents actions"],
    available: Bool[np.ndarray, "envs agents actions"],
    *,
    epsilon: float,
    generator: np.random.Generator,
) -> Int[np.ndarray, "envs agents"]:
    """Choose for each agent its best available action, or with probability `epsilon` any available one.

    With `epsilon` 0 nothing is drawn, so greedy play does not move the generator.

    Raises:
        EnvError: an agent has no available action; the message names environment and agent.
    """
    if not available.any(axis=-1).all():
        env, agent = np.argwhere(~available.any(axis=-1))[0]
        raise EnvError(f"env {env}: agent {agent} has no available action; the mask must allow at least one.")
    greedy = np.where(available, values, -np.inf).argmax(axis=-1)
    if epsilon <= 0.0:
        return greedy
    # The largest of independent uniform numbers sits at each allowed place with the same probability.
    scores = generator.random(values.shape, dtype=np.float32)
    random = np.where(available, scores, -1.0).argmax(axis=-1)
    return np.where(generator.random(greedy.shape) < epsilon, random, greedy)


def act_epsilon_greedy(
    network: nn.Module, step: Step, *, epsilon: float, generator: np.random.Generator
) -> Int[np.ndarray, "envs agents"]:
    """Value the actions of all agents in one forward pass and choose epsilon-greedily.

    Args:
        network: from observations [envs, agents, features] to action values [envs, agents, actions].
        step: what the agents see.
        epsilon: probability of a random action.
        generator: source of the randomness.
    """
    # A copy, because torch refuses to share memory with read-only arrays.
    device = next(network.parameters()).device
    observation = torch.tensor(step.observation, dtype=torch.float32, device=device)
    with torch.inference_mode():
        values = network(observation).cpu().numpy()
    # An action that does not exist has value -inf: it must not be drawn either, whatever the mask says.
    available = step.available_actions & (values != -np.inf)
    return epsilon_greedy(values, available, epsilon=epsilon, generator=generator)
