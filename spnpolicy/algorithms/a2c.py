"""Advantage actor-critic: IA2C, with critics of the agents' own observations, and MAA2C, whose see the state."""

from dataclasses import dataclass

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import squared_td_loss
from spnpolicy.networks.agents import agent_network
from spnpolicy.parts.actor_critic import action_log_probs, actor_loss
from spnpolicy.parts.exploration import act_by_policy
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.settings import AgentCriticSettings, data_needs
from spnpolicy.parts.targets import advantages, normalized


@dataclass(frozen=True)
class Config(AgentCriticSettings):
    """Settings of IA2C and MAA2C."""


@saves("actor", "critic", "target_critic", "actor_optimizer", "critic_optimizer", "num_updates")
class IA2C:
    """Every agent follows the gradient of its own reward, as if the others were part of the environment.

    With the lambda-return y_i, bootstrapped from the target critic, the actors minimise the mean of
    -(y_i - V_i(o_i)) log pi_i(u_i | o_i) - weight H(pi_i), and the critics that of (y_i - V_i(o_i))^2. The critic looks
    at one observation and remembers nothing, even where the actor does.

    Source: Mnih et al. 2016; Papoudakis et al. 2021.
    """

    name, critic_sees_state = "ia2c", False
    act = act_by_policy

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization(self.name):
            self.actor = agent_network(spec, config)
            self.critic = agent_network(spec, config, recurrent=False, outputs=1, sees_state=self.critic_sees_state)
        self.target_critic = frozen_copy(self.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config, self.actor.memory_size)
        self._generator = streams.torch("exploration")

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step of actors and critics on a rollout."""
        config = self.config
        value_t, value_tp1 = self.critic.now(batch).squeeze(-1), self.target_critic.following(batch).squeeze(-1)
        advantage_t, target_t = advantages(config, batch, value_t, value_tp1)
        advantage_t = normalized(config, advantage_t, batch.valid)
        log_probs = action_log_probs(self.actor, batch)
        loss, entropy = actor_loss(log_probs, batch.actions, advantage_t, config.entropy.at(progress), batch.valid)
        numbers = improve(self, actor=loss, critic=squared_td_loss(value_t, target_t, batch.valid))
        return numbers | {"value": value_t.mean().item(), "entropy": entropy.item()}


class MAA2C(IA2C):
    """Centralised training, decentralised play: V_i(o_i, s) judges agent i, and pi_i(u_i | o_i) acts.

    A critic that sees the state s explains more of the return, so less noise reaches the actors; the losses are those
    of IA2C. The expected gradient is that of independent learners too, so it ends in the same equilibria: on the
    climbing game in the one worth 7, not in the best one.

    Source: Papoudakis et al. 2021; Lowe et al. 2017 for critics that see more.
    """

    name, critic_sees_state = "maa2c", True
