"""Value decomposition networks: the team's value is the sum of the agents' utilities."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy import losses, networks, returns
from spnpolicy.algorithms.protocol import Batch
from spnpolicy.envs.protocol import EnvSpec, Step
from spnpolicy.exploration import EpsilonSchedule, act_epsilon_greedy
from spnpolicy.features import FourierFeatures
from spnpolicy.training import optimization
from spnpolicy.training.seeding import Streams


@dataclass(frozen=True)
class Config:
    """Settings of VDN."""

    learning_rate: float = 5e-4
    """Step size of the optimiser (Adam)."""
    discount: float = 0.95
    """Worth of a reward one step later; a training run sets it."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the utility network's hidden layers; all agents share it."""
    double_q: bool = True
    """Let the online network choose the next actions that the target network values."""
    features: FourierFeatures = field(default_factory=FourierFeatures)
    """What the network sees of an observation."""
    max_gradient_norm: float = 10.0
    """Norm to which a longer gradient is cut."""
    exploration: EpsilonSchedule = field(default_factory=EpsilonSchedule)
    """How often agents act at random."""
    target: networks.TargetUpdate = field(default_factory=networks.TargetUpdate)
    """Pace of the target network."""


class VDN:
    """Value decomposition: Q_tot(o, u) = sum_i Q_i(o_i, u_i), learned from the team's reward.

    The common reward is the mean over agents, so a reward that all agents share counts once. The target is
    y = r + discount * sum_i max_a Q_i(o_i', a). Only Q_tot has a meaning: the Q_i are fixed up to constants
    that cancel in the sum. On a one-step game it learns the best additive approximation of the payoff.

    Source: Sunehag et al. 2018.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("vdn"):
            self.utilities = networks.AgentNetwork(spec, config.hidden, config.features)
        self.target_utilities = networks.frozen_copy(self.utilities)
        self.optimizer = optimization.make_optimizer(self.utilities.parameters(), config.learning_rate)
        self._generator = streams.numpy("exploration")
        self.num_updates = 0

    def joint_value(
        self, observation: Float[Tensor, "*batch agents features"], actions: Int[Tensor, "*batch agents"]
    ) -> Float[Tensor, "*batch"]:
        """Return Q_tot of joint actions."""
        return losses.chosen_value(self.utilities(observation), actions).sum(-1)

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose epsilon-greedily by utility; the agents' best actions together maximise Q_tot."""
        rate = self.config.exploration.at(progress) if explore else 0.0
        return act_epsilon_greedy(self.utilities, step, epsilon=rate, generator=self._generator)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one joint gradient step on (y - Q_tot)^2."""
        with torch.no_grad():
            target_t = returns.q_target(
                batch.reward.mean(-1), self.config.discount, batch.terminated, self._next_value(batch)
            )
        joint_value_t = self.joint_value(batch.observation, batch.actions)
        loss = losses.squared_td_loss(joint_value_t, target_t)
        limit = self.config.max_gradient_norm
        gradient_norm = optimization.descend((loss, self.optimizer), max_gradient_norm=limit)[0]
        if gradient_norm < float("inf"):
            self.num_updates += 1
            self.config.target.apply(self.target_utilities, self.utilities, self.num_updates)
        return {
            "loss": float(loss.detach()),
            "joint_value": float(joint_value_t.detach().mean()),
            "gradient_norm": gradient_norm,
        }

    def _next_value(self, batch: Batch) -> Float[Tensor, " batch"]:
        selector = self.utilities(batch.next_observation) if self.config.double_q else None
        utility_tp1 = self.target_utilities(batch.next_observation)
        best = returns.greedy_value(utility_tp1, batch.next_available_actions, selector_tp1=selector)
        return best.sum(-1)

    def to(self, device: torch.device) -> None:
        """Move the utilities and their target to a device."""
        for network in (self.utilities, self.target_utilities):
            network.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return what continuing needs: utilities, their target, optimiser and counter."""
        parts = {name: getattr(self, name).state_dict() for name in self._parts}
        return parts | {"num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])
        self.num_updates = state["num_updates"]

    _parts = ("utilities", "target_utilities", "optimizer")
