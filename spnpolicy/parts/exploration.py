"""Exploration: how often and how agents try something other than their best action."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from spnpolicy.data.env import Step
from spnpolicy.data.protocol import Memory
from spnpolicy.maths import categorical
from spnpolicy.maths.masks import require_some_action


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
    learner: Any, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
) -> Int[np.ndarray, "envs agents"]:
    """Choose for each agent its best action by utility, epsilon-greedily if `explore`: a method of learners.

    The learner has `utilities`, the agents' network, `config.exploration` and a `_generator` of NumPy.
    """
    values = learner.utilities.look(step, memory).numpy()
    # An action that does not exist has value -inf: it must not be drawn either, whatever the mask says.
    available = step.available_actions & (values != -np.inf)
    epsilon = learner.config.exploration.at(progress) if explore else 0.0
    return epsilon_greedy(values, available, epsilon=epsilon, generator=learner._generator)


def act_by_policy(
    learner: Any, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
) -> Int[np.ndarray, "envs agents"]:
    """Draw every agent's action from its own policy, without `explore` the most probable ones: a method of learners.

    The learner has an `actor`, the agents' network, and a `_generator` of torch.

    Raises:
        EnvError: an agent has no available action; the message names environment and agent.
    """
    logits = learner.actor.look(step, memory)
    require_some_action(step.available_actions)
    log_probs = categorical.masked_log_probs(logits, torch.tensor(step.available_actions))
    chosen = categorical.sample(log_probs, learner._generator) if explore else log_probs.argmax(-1)
    return chosen.numpy()
