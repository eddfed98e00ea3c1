"""Exploration: how often and how agents try something other than their best action."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from spnpolicy.base.errors import ConfigError
from spnpolicy.data.env import Step
from spnpolicy.data.protocol import Memory
from spnpolicy.maths import categorical
from spnpolicy.maths.masks import require_some_action
from spnpolicy.networks.agents import AgentNetwork


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
    require_some_action(available)
    greedy = np.where(available, values, -np.inf).argmax(axis=-1)
    if epsilon <= 0.0:
        return greedy
    # The largest of independent uniform numbers sits at each allowed place with the same probability.
    scores = generator.random(values.shape, dtype=np.float32)
    random = np.where(available, scores, -1.0).argmax(axis=-1)
    return np.where(generator.random(greedy.shape) < epsilon, random, greedy)


def act_epsilon_greedy(
    network: AgentNetwork, step: Step, *, epsilon: float, generator: np.random.Generator, memory: Memory | None = None
) -> Int[np.ndarray, "envs agents"]:
    """Value the actions of all agents in one forward pass and choose epsilon-greedily.

    Args:
        network: its outputs are action values.
        step: what the agents see.
        epsilon: probability of a random action.
        generator: source of the randomness.
        memory: of a recurrent network.
    """
    values = network.look(step, memory).numpy()
    # An action that does not exist has value -inf: it must not be drawn either, whatever the mask says.
    available = step.available_actions & (values != -np.inf)
    return epsilon_greedy(values, available, epsilon=epsilon, generator=generator)


def act_by_policy(
    network: AgentNetwork, step: Step, *, generator: torch.Generator | None, memory: Memory | None = None
) -> Int[np.ndarray, "envs agents"]:
    """Draw every agent's action from its own policy, or take the most probable ones.

    Args:
        network: its outputs are logits.
        step: what the agents see.
        generator: source of the randomness; None for the most probable actions.
        memory: of a recurrent network.

    Raises:
        EnvError: an agent has no available action; the message names environment and agent.
    """
    logits = network.look(step, memory)
    require_some_action(step.available_actions)
    log_probs = categorical.masked_log_probs(logits, torch.tensor(step.available_actions))
    chosen = log_probs.argmax(-1) if generator is None else categorical.sample(log_probs, generator)
    return chosen.numpy()
