"""QMIX: the team's value rises with every agent's utility, by weights that depend on the state."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spnpolicy.base.ranges import Width
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import chosen_value, squared_td_loss
from spnpolicy.maths.returns import greedy_value
from spnpolicy.networks.agents import agent_network
from spnpolicy.networks.encoders import state_encoder_for
from spnpolicy.networks.mixers import QMixer, WeightTransform
from spnpolicy.parts.exploration import act_epsilon_greedy
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import foresee, regress
from spnpolicy.parts.settings import ValueSettings, data_needs
from spnpolicy.parts.targets import value_target


@dataclass(frozen=True)
class Config(ValueSettings):
    """Settings of QMIX."""

    embedding: Width = 32
    """Hidden units of the mixing network."""
    mixer_hidden: Width = 64
    """Hidden units of the networks that give the mixing weights from the state."""
    mixing_weights: WeightTransform = "absolute"
    """How mixing weights are made positive; "softplus" keeps them above 0."""


class MixedValue(nn.Module):
    """The agents' utilities and the mixer on top of them: one network with one target."""

    def __init__(self, spec: EnvSpec, config: Config):
        super().__init__()
        self.utilities = agent_network(spec, config)
        self.mixer = QMixer(
            spec.num_agents,
            spec.state_size,
            embedding=config.embedding,
            hidden=config.mixer_hidden,
            weights=config.mixing_weights,
            encoder=state_encoder_for(config.network, spec),
        )

    def of(self, utility_t: Float[Tensor, "*batch agents actions"], batch: Batch) -> Float[Tensor, "*batch"]:
        """Return Q_tot of what was done, from the utilities of all actions."""
        return self.mixer(chosen_value(utility_t, batch.actions), batch.state)

    @torch.no_grad()
    def best_following(
        self, batch: Batch, selector_tp1: Float[Tensor, "*batch agents actions"] | None
    ) -> Float[Tensor, "*batch"]:
        """Return Q_tot of the agents' best actions after each step, without gradient."""
        utility_tp1 = self.utilities.following(batch)
        best_tp1 = greedy_value(utility_tp1, batch.next_available_actions, selector_tp1=selector_tp1)
        return self.mixer(best_tp1, batch.next_state)


@saves("critic", "target_critic", "critic_optimizer", "num_updates")
class QMIX:
    """Monotonic value decomposition: Q_tot(s, u) = f(Q_1(o_1, u_1), ..., Q_n(o_n, u_n); s), f rising in each Q_i.

    Learned from the team's reward, the mean over agents, with y = r + discount * f(max_a Q_1(o_1', a), ...; s'). The
    weights of f are functions of the state, which is needed in training only. What is not monotonic in any order
    of the agents' actions can only be approximated: on the climbing game no fit has a mean squared error below 110.82.

    Source: Rashid et al. 2018.
    """

    act = act_epsilon_greedy

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("qmix"):
            self.critic = MixedValue(spec, config)
        self.utilities = self.critic.utilities
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config, self.utilities.memory_size)
        self._generator, self.order_generator = streams.numpy("exploration"), streams.torch("minibatches")

    def joint_value(
        self,
        observation: Float[Tensor, "*batch agents features"],
        state: Float[Tensor, "*batch state"],
        actions: Int[Tensor, "*batch agents"],
    ) -> Float[Tensor, "*batch"]:
        """Return Q_tot of joint actions; for networks without memory."""
        return self.critic.mixer(chosen_value(self.utilities(observation), actions), state)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on (y - Q_tot)^2 for utilities and mixer together, or several on a rollout."""
        utility_t, selector = foresee(self.config, self.utilities, batch) if self.config.double_q else (None, None)
        target_t = value_target(self.config, batch, self.target_critic.best_following(batch, selector))
        return regress(self, batch, target_t, self._step, utility_t)

    def _step(self, rows: Batch, target_t: Tensor, utility_t: Tensor | None = None) -> dict[str, float]:
        value_t = self.critic.of(self.utilities.now(rows) if utility_t is None else utility_t, rows)
        numbers = improve(self, critic=squared_td_loss(value_t, target_t, rows.valid))
        return numbers | {"value": value_t.mean().item()}
