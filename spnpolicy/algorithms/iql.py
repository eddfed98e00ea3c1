"""Independent Q-learning: each agent learns as if the others were part of the environment."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.algorithms.protocol import Batch
from spnpolicy.envs.protocol import EnvSpec, Step
from spnpolicy.exploration import EpsilonSchedule, act_epsilon_greedy
from spnpolicy.features import FourierFeatures
from spnpolicy.losses import chosen_value, squared_td_loss
from spnpolicy.networks import AgentNetwork, TargetUpdate, frozen_copy
from spnpolicy.returns import greedy_value, q_target
from spnpolicy.training.optimization import descend, make_optimizer
from spnpolicy.training.seeding import Streams


@dataclass(frozen=True)
class Config:
    """Settings of independent Q-learning."""

    discount: float = 0.95
    """Worth of a reward one step later; a training run sets it."""
    learning_rate: float = 5e-4
    """Step size of Adam."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of the network that all agents share."""
    double_q: bool = True
    """Choose next actions with the online network, value them with the target network."""
    features: FourierFeatures = field(default_factory=FourierFeatures)
    """What the network sees of an observation."""
    max_gradient_norm: float = 10.0
    """Longer gradients are shortened to this norm."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target network follows."""
    exploration: EpsilonSchedule = field(default_factory=EpsilonSchedule)
    """Probability of a random action."""


class IQL:
    """Independent Q-learning with one network for all agents, which tells them apart by number.

    Agent i learns from its own reward: y_i = r_i + discount * max_a Q_i(o_i', a). The loss is the mean of
    (y_i - Q_i)^2 over transitions and agents. With one agent it is DQN.

    Source: Tan 1993; Tampuu et al. 2017.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("iql"):
            self.network = AgentNetwork(spec, config.hidden, config.features)
        self.target = frozen_copy(self.network)
        self.optimizer = make_optimizer(self.network.parameters(), config.learning_rate)
        self.updates = 0
        self._exploration = streams.numpy("exploration")

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose for each agent on its own, epsilon-greedily if `explore`."""
        epsilon = self.config.exploration.at(progress) if explore else 0.0
        return act_epsilon_greedy(self.network, step, epsilon=epsilon, generator=self._exploration)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on the mean squared error of all agents."""
        value_t = chosen_value(self.network(batch.observation), batch.actions)
        loss = squared_td_loss(value_t, self._targets(batch))
        (norm,) = descend((loss, self.optimizer), max_gradient_norm=self.config.max_gradient_norm)
        if math.isfinite(norm):
            self.updates += 1
            self.config.target.apply(self.target, self.network, self.updates)
        return {"loss": loss.item(), "value": value_t.mean().item(), "gradient_norm": norm}

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Float[Tensor, "batch agents"]:
        value_tp1 = greedy_value(
            self.target(batch.next_observation),
            batch.next_available_actions,
            selector_tp1=self.network(batch.next_observation) if self.config.double_q else None,
        )
        terminated_t = batch.terminated[:, None].expand_as(value_tp1)
        return q_target(batch.reward, self.config.discount, terminated_t, value_tp1)

    def to(self, device: torch.device) -> None:
        """Move both networks to a device."""
        self.network.to(device)
        self.target.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return both networks, the optimiser and the number of updates."""
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
