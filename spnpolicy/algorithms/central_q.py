"""Central Q-learning: the team as one agent, whose actions are the joint actions."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, seen
from spnpolicy.maths import losses
from spnpolicy.maths.masks import require_some_action
from spnpolicy.maths.returns import greedy_value
from spnpolicy.networks.encoders import state_network
from spnpolicy.parts import joint_actions
from spnpolicy.parts.exploration import epsilon_greedy
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import regress
from spnpolicy.parts.settings import DoubleSettings, data_needs
from spnpolicy.parts.targets import value_target

OUTPUT_GAIN = 0.01
"""Scale of the last layer's first weights: larger values would be bootstrapped long before a reward is seen."""


@dataclass(frozen=True)
class Config(DoubleSettings):
    """Settings of central Q-learning; a random action is a random joint action."""


@saves("critic", "target_critic", "critic_optimizer", "num_updates")
class CentralQ:
    """DQN over joint actions: one network maps the state to a value of every joint action.

    y = r + discount * max_u Q_target(s', u), where r is the mean of the agents' rewards and u runs over the joint
    actions of which every part is available. It needs prod_i k_i outputs: the reference wherever these can be listed.

    Raises:
        ConfigError: there are more than 100,000 joint actions.
    Source: Claus and Boutilier 1998 (joint action learners); Mnih et al. 2015; van Hasselt, Guez and Silver 2016.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        self._cardinalities = spec.cardinalities
        outputs = joint_actions.count_joint_actions("central_q", spec.cardinalities)
        with streams.initialization("central_q"):
            self.critic = state_network(config.network, spec, outputs, output_gain=OUTPUT_GAIN)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config)
        self._generator, self.order_generator = streams.numpy("exploration"), streams.torch("minibatches")

    def joint_values(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch joint"]:
        """Return the values of all joint actions, in the order of `joint_actions.joint_index`."""
        return self.critic(state)

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose the best joint action, or with the probability of the schedule any available one."""
        require_some_action(step.available_actions)
        mask = joint_actions.joint_mask(torch.tensor(step.available_actions), self._cardinalities)
        with torch.no_grad():
            device = next(self.critic.parameters()).device
            values = self.critic(seen(step, "state", device)).cpu()
        # The team is one agent here.
        chosen = epsilon_greedy(
            values.unsqueeze(1).numpy(),
            mask.unsqueeze(1).numpy(),
            epsilon=self.config.exploration.at(progress) if explore else 0.0,
            generator=self._generator,
        )
        return joint_actions.split_index(torch.from_numpy(chosen[:, 0]), self._cardinalities).numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on the mean of (y - Q)^2, or several on a rollout."""
        return regress(self, batch, self._targets(batch), self._step)

    def _step(self, rows: Batch, target_t: Tensor) -> dict[str, float]:
        index = joint_actions.joint_index(rows.actions, self._cardinalities)
        value_t = losses.chosen_value(self.joint_values(rows.state), index)
        numbers = improve(self, critic=losses.squared_td_loss(value_t, target_t, rows.valid))
        return numbers | {"value": losses.mean_of_valid(value_t.detach(), rows.valid).item()}

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Float[Tensor, "*batch"]:
        selector_tp1 = self.critic(batch.next_state) if self.config.double_q else None
        mask_tp1 = joint_actions.joint_mask(batch.next_available_actions, self._cardinalities)
        value_tp1 = greedy_value(self.target_critic(batch.next_state), mask_tp1, selector_tp1=selector_tp1)
        return value_target(self.config, batch, value_tp1)
