"""COMA: counterfactual multi-agent policy gradients, a critic that tells each agent what its own action changed."""

import math
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spnpolicy.base.ranges import Repeats, Share
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Memory
from spnpolicy.maths import categorical, losses, masks
from spnpolicy.maths.masks import require_some_action
from spnpolicy.networks.agents import AgentNetwork, agent_network
from spnpolicy.networks.encoders import Network, encoder_for, state_encoder_for
from spnpolicy.networks.features import FourierFeatures
from spnpolicy.parts import counterfactual
from spnpolicy.parts.actor_critic import actor_loss
from spnpolicy.parts.learner import count_update, frozen_copy, make_optimizer, saves, step_on
from spnpolicy.parts.settings import AgentCriticSettings, EpsilonSchedule, data_needs
from spnpolicy.parts.targets import following_value, normalized, value_target, window_of


@dataclass(frozen=True)
class Config(AgentCriticSettings):
    """Settings of COMA."""

    trace: Share = 0.8
    """lambda of the critic's returns: 0 for one-step targets, 1 for the return to the end of the rollout."""
    exploration: EpsilonSchedule = field(default_factory=lambda: EpsilonSchedule(0.5, 0.01))
    """Share of the uniform distribution in the policies, which is also learned with."""
    critic_steps: Repeats = 10
    """Steps of the critic on each rollout, of which the actors do one step; the authors do one per time step, which is
    as many as the default rollout has. On the assignment game of 4 agents, after 32,000 env steps in 32 environments,
    it reached 0.75 of the optimum with 10 and 0.44 with 1; with rollouts of one step, 1,000 instead of 100, 0.76 with
    either (means of 2 runs)."""


class CounterfactualCritic(nn.Module):
    """The team's value of every action of each agent, with the others' actions fixed; it remembers nothing."""

    def __init__(self, spec: EnvSpec, config: Config):
        super().__init__()
        network, self._most = config.network, max(spec.cardinalities)
        self.encoder, self.state = encoder_for(network, spec), state_encoder_for(network, spec)
        sizes = cast(int, self.encoder.out_features), cast(int, self.state.out_features)
        seen = spec._replace(observation_size=sum(sizes) + spec.num_agents * self._most)
        # Everything is encoded already, but which agent did what is told by number: so must be who asks.
        plain = Network(hidden=network.hidden, features=FourierFeatures(0))
        self.agents = AgentNetwork(seen, plain, shared=config.share_parameters)

    def forward(
        self,
        observation: Float[Tensor, "*batch agents features"],
        state: Float[Tensor, "*batch state"],
        actions: Int[Tensor, "*batch agents"],
    ) -> Float[Tensor, "*batch agents actions"]:
        """Return the values at joint actions; an agent's own action has no influence on its row."""
        seen = self.encoder(observation)
        whole = self.state(state).unsqueeze(-2).expand(*seen.shape[:-1], -1)
        return self.agents(torch.cat([seen, whole, counterfactual.others_actions(actions, self._most)], -1))


@saves("actor", "critic", "target_critic", "actor_optimizer", "critic_optimizer", "num_updates")
class COMA:
    """Every action is compared with what the agent would have done on average, the others' actions kept as they were.

    The critic sees the state, o_i and the others' actions u_-i, and gives the team's Q_i(., u_-i) for every action of
    agent i. The actor follows A_i = Q_i(u_i) - sum_a pi_i(a) Q_i(a), with critic values from before the update. The
    policy pi = (1 - epsilon) softmax + epsilon uniform is what acts and what is learned with. The critic's target is

        G_t = r_t + discount * (1 - d_t) * [(1 - trace) * Q_target(s_t+1, u_t+1) + trace * G_t+1]

    with the joint action taken next. Where none is known, behind a time limit and the end of the rollout, the others'
    actions are drawn from their policies and the mean over the agent's own is taken: right on average, and exact for
    the agent itself. Actors may have a memory, the critic has none. The reward is the mean over agents.

    Source: Foerster et al. 2018.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        self._spec = spec
        with streams.initialization("coma"):
            self.actor = agent_network(spec, config)
            self.critic = CounterfactualCritic(spec, config)
        self.target_critic = frozen_copy(self.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config, self.actor.memory_size)._replace(passes=config.critic_steps)
        self._generator, self._bootstrap_generator = streams.torch("exploration"), streams.torch("bootstrap")

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Draw each agent's action from its policy with its uniform share, or take the most probable one."""
        logits = self.actor.look(step, memory)
        require_some_action(step.available_actions)
        log_prob = categorical.masked_log_probs(logits, torch.tensor(step.available_actions))
        if not explore:
            return log_prob.argmax(-1).numpy()
        floored = counterfactual.with_floor(log_prob, self.config.exploration.at(progress))
        return categorical.sample(floored, self._generator).numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the actors and one of the critic on a rollout, then what is left of the critic's steps."""
        config, epsilon = self.config, self.config.exploration.at(progress)
        logits_t, logits_tp1 = self.actor.both(batch)
        log_prob_t = self._log_probs(logits_t, batch.available_actions, epsilon)
        value_t = self.critic(batch.observation, batch.state, batch.actions)
        target_t = self._target(batch, self._log_probs(logits_tp1, batch.next_available_actions, epsilon))
        critic_loss = _critic_loss(value_t, target_t, batch)
        advantage_t = counterfactual.counterfactual_advantage(value_t.detach(), log_prob_t.detach(), batch.actions)
        advantage_t = normalized(config, advantage_t, batch.valid)
        loss, entropy = actor_loss(log_prob_t, batch.actions, advantage_t, config.entropy.at(progress), batch.valid)
        numbers = step_on(self, actor=loss, critic=critic_loss)
        if all(map(math.isfinite, numbers.values())):
            # A step that is not finite changes nothing by itself.
            for _ in range(config.critic_steps - 1):
                value_t = self.critic(batch.observation, batch.state, batch.actions)
                step_on(self, critic=_critic_loss(value_t, target_t, batch))
            count_update(self)
        return numbers | {"entropy": entropy.item()}

    def _log_probs(self, logits: Tensor, available: Tensor, epsilon: float) -> Tensor:
        allowed = masks.usable(available, self._spec.cardinalities)
        return counterfactual.with_floor(categorical.masked_log_probs(logits, allowed), epsilon)

    @torch.no_grad()
    def _target(self, batch: Batch, log_prob_tp1: Tensor) -> Float[Tensor, "time batch agents"]:
        cut = window_of(batch).cut.unsqueeze(-1)
        drawn = categorical.sample(log_prob_tp1, self._bootstrap_generator).to(batch.actions.device)
        action_tp1 = drawn.where(cut, batch.actions.roll(-1, 0))
        value_tp1 = self.target_critic(batch.next_observation, batch.next_state, action_tp1)
        bootstrap = following_value(value_tp1, log_prob_tp1, batch)
        reward = batch.reward.mean(-1, keepdim=True).expand_as(bootstrap)
        return value_target(self.config, batch, bootstrap, reward=reward)


def _critic_loss(value_t: Tensor, target_t: Tensor, batch: Batch) -> Float[Tensor, ""]:
    return losses.squared_td_loss(losses.chosen_value(value_t, batch.actions), target_t, batch.valid)
