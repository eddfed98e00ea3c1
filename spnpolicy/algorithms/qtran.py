"""QTRAN: a free joint value, and utilities that are made to agree with it where it matters."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spnpolicy.base.ranges import Weight, Width
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths import losses
from spnpolicy.maths.masks import zero_where_stuck
from spnpolicy.networks import mixers
from spnpolicy.networks.agents import agent_network
from spnpolicy.networks.encoders import state_network
from spnpolicy.parts.exploration import act_epsilon_greedy
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import foresee, regress
from spnpolicy.parts.settings import ValueSettings, data_needs
from spnpolicy.parts.targets import value_target


@dataclass(frozen=True)
class Config(ValueSettings):
    """Settings of QTRAN."""

    variant: Literal["base", "alt"] = "base"
    """What is asked of joint actions that are not the agents' best: "base" only that their value is not exceeded,
    "alt" that for each agent some action reaches it."""
    lambda_opt: Weight = 1.0
    """Weight of agreeing with the joint value at the agents' best actions."""
    lambda_nopt: Weight = 1.0
    """Weight of what is asked elsewhere: 1 as the authors have it on matrix games; public code takes 0.1, with which
    their game is solved in 10 of 10 fits as well."""
    embedding: Width = 64
    """Length of the code of an agent's observation and action, and hidden units of the networks behind it."""


class Factorization(nn.Module):
    """All that learns: the agents' utilities, the joint value, and the offset V_jt(s) between them."""

    def __init__(self, spec: EnvSpec, config: Config):
        super().__init__()
        self.utilities = agent_network(spec, config)
        self.joint = mixers.JointCritic(spec, config, config.embedding)
        hidden = (config.embedding, config.embedding)
        self.offset = state_network(config.network, spec, 1, hidden=hidden, output_gain=0.01)


class Terms(NamedTuple):
    """The three parts of the loss, and what they are about."""

    td: Float[Tensor, ""]
    """How far the joint value is from its target; moves the joint value only."""
    opt: Float[Tensor, ""]
    """How far the transformed value is from it at the agents' best actions; moves utilities and offset only."""
    nopt: Float[Tensor, ""]
    """How far it breaks the condition of the variant elsewhere; moves utilities and offset only."""
    value: Float[Tensor, "*batch"]
    """Q_jt of what was done."""


@saves("critic", "target_critic", "critic_optimizer", "num_updates")
class QTRAN:
    """Value factorization by transformation: sum_i q_i(o_i, u_i) + V_jt(s) stands for a joint value Q_jt(s, u).

    Q_jt learns from the team's reward, the mean over agents, with y = r + discount * Q_jt(s', best actions by q). The
    transformed value must equal Q_jt at the agents' best actions and be an upper bound of it elsewhere; then these
    actions are best for Q_jt. No gradient of these two conditions reaches Q_jt, and no target network is used in them.

    Source: Son et al. 2019.
    """

    act = act_epsilon_greedy

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("qtran"):
            self.critic = Factorization(spec, config)
        self.utilities = self.critic.utilities
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config, self.utilities.memory_size)
        self._generator, self.order_generator = streams.numpy("exploration"), streams.torch("minibatches")

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on the sum of the three terms, or several on a rollout."""
        utility_t, selector = foresee(self.config, self.utilities, batch) if self.config.double_q else (None, None)
        return regress(self, batch, self.targets(batch, selector), self._step, utility_t)

    def _step(self, rows: Batch, target_t: Tensor, utility_t: Tensor | None = None) -> dict[str, float]:
        terms = self.terms(rows, target_t, utility_t)
        loss = terms.td + self.config.lambda_opt * terms.opt + self.config.lambda_nopt * terms.nopt
        numbers = improve(self, critic=loss)
        return numbers | {name: float(term.detach().mean()) for name, term in terms._asdict().items()}

    def terms(
        self,
        batch: Batch,
        target_t: Float[Tensor, "*batch"],
        utility_t: Float[Tensor, "*batch agents actions"] | None = None,
    ) -> Terms:
        """Return the parts of the loss on a batch; the utilities are worked out if they are not given."""
        utility_t = self.utilities.now(batch) if utility_t is None else utility_t
        codes = self.critic.joint.codes(batch)
        value_t = self.critic.joint(codes, batch.actions, batch.state)
        best = greedy_actions(utility_t.detach(), batch.available_actions)
        offset = self.critic.offset(batch.state).squeeze(-1)
        with torch.no_grad():
            best_value = self.critic.joint(codes, best, batch.state)
        gap_at_best = losses.chosen_value(utility_t, best).sum(-1) + offset - best_value
        if self.config.variant == "base":
            chosen = losses.chosen_value(utility_t, batch.actions).sum(-1)
            violation = (chosen + offset - value_t.detach()).clamp_max(0.0).square()
        else:
            with torch.no_grad():
                others = self.critic.joint.deviations(codes, batch.actions, batch.state)
            gaps = mixers.deviation_sums(utility_t, batch.actions) + offset[..., None, None] - others
            violation = smallest_gap(gaps, batch.actions, batch.available_actions).square().sum(-1)
        return Terms(
            losses.squared_td_loss(value_t, target_t, batch.valid),
            losses.mean_of_valid(gap_at_best.square(), batch.valid),
            losses.mean_of_valid(violation, batch.valid),
            value_t,
        )

    @torch.no_grad()
    def targets(
        self, batch: Batch, selector_tp1: Float[Tensor, "*batch agents actions"] | None
    ) -> Float[Tensor, "*batch"]:
        """Return what the joint value learns; by default the target network chooses the agents' next actions too."""
        chooser = self.target_critic.utilities.following(batch) if selector_tp1 is None else selector_tp1
        best = greedy_actions(chooser, batch.next_available_actions)
        value_tp1 = self.target_critic.joint(self.target_critic.joint.following_codes(batch), best, batch.next_state)
        value_tp1 = zero_where_stuck(value_tp1, batch.next_available_actions)
        return value_target(self.config, batch, value_tp1)


def greedy_actions(
    utilities: Float[Tensor, "*batch actions"], available: Bool[Tensor, "*batch actions"]
) -> Int[Tensor, "*batch"]:
    """Return the best available action of each row; the first one where none is available."""
    return utilities.masked_fill(~available, -torch.inf).argmax(-1)


def smallest_gap(
    gaps: Float[Tensor, "*batch agents actions"],
    actions: Int[Tensor, "*batch agents"],
    available: Bool[Tensor, "*batch agents actions"],
) -> Float[Tensor, "*batch agents"]:
    """Return each agent's smallest gap over its available actions; the one taken is always among them."""
    allowed = available.scatter(-1, actions.unsqueeze(-1), True)
    return gaps.masked_fill(~allowed, torch.inf).amin(-1)
