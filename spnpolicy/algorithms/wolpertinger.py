"""Wolpertinger: an actor proposes a point in the space of joint actions, a critic chooses among the nearest ones."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spnpolicy.base.ranges import Repeats
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, seen
from spnpolicy.maths.losses import mean_of_valid, squared_td_loss
from spnpolicy.maths.masks import require_some_action, usable, zero_where_stuck
from spnpolicy.networks.encoders import state_network
from spnpolicy.networks.nearest import EmbeddingKind, JointCritic, best_of, nearest_joint_actions
from spnpolicy.networks.proposals import sometimes_uniform
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import regress
from spnpolicy.parts.settings import AdamSettings, GreedySettings, LinearSchedule, TargetUpdate, data_needs, step_size
from spnpolicy.parts.targets import value_target


@dataclass(frozen=True)
class Config(GreedySettings):
    """Settings of Wolpertinger."""

    critic: AdamSettings = field(default_factory=step_size(1e-3))
    """How action values descend."""
    actor: AdamSettings = field(default_factory=step_size(1e-4))
    """How the proposed point descends."""
    neighbours: Repeats = 32
    """Joint actions that the critic chooses from; all of them if there are no more. The authors take 5 to 10 % of all,
    and find that 1 often fails."""
    embedding: EmbeddingKind = "one_hot"
    """Where joint actions lie: "one_hot" at corners, "code" on a line per agent, for actions that have an order."""
    noise: LinearSchedule = field(default_factory=lambda: LinearSchedule(start=0.5, end=0.1, share=0.5))
    """Standard deviation of the noise on the proposed point; one-hot coordinates span 1, codes 2. It changes nothing
    where all joint actions are neighbours, therefore `exploration` besides."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target actor and critic follow: as everywhere here. The authors' rate of 0.001 is for millions of steps;
    after 1,000 it still keeps a third of the first, random weights."""


class Actor(nn.Module):
    """The proposed point f(s): a network of the state, bounded to the box that holds all joint actions."""

    def __init__(self, config: Config, spec: EnvSpec, size: int, bounds: tuple[float, float]):
        super().__init__()
        self._bounds = bounds
        self.network = state_network(config.network, spec, size, output_gain=0.01)

    def forward(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch size"]:
        """Return the point of each state."""
        low, high = self._bounds
        return low + (high - low) * self.network(state).sigmoid()


@saves("actor", "target_actor", "actor_optimizer", "critic", "target_critic", "critic_optimizer", "num_updates")
class Wolpertinger:
    """Deterministic policy gradient in a space of points, and the best of the joint actions near the point.

    pi(s) = argmax of Q(s, u) over the k joint actions u nearest to f(s); they are found exactly, without enumeration.
    The critic learns y = r + discount * (1 - d) * Q_target(s', pi_target(s')), with the whole policy, from what was
    executed. The actor climbs grad_a Q(s, a) at the proposed point a = f(s) itself. Both move at once, from the values
    before the step. The common reward is the mean over agents.

    Source: Dulac-Arnold et al. 2015.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("wolpertinger"):
            self.critic = JointCritic(spec, config.network, config.embedding)
            embedding = self.critic.embedding
            self.actor = Actor(config, spec, embedding.size, embedding.bounds)
        self.target_actor, self.target_critic = frozen_copy(self.actor), frozen_copy(self.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config)
        self._cardinalities = spec.cardinalities
        self._generator, self.order_generator = streams.torch("exploration"), streams.torch("minibatches")

    @torch.no_grad()
    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose the best neighbour of the proposed point; with `explore`, of a point with noise on it.

        Raises:
            EnvError: an agent has no available action; the message names environment and agent.
        """
        exists = self.critic.embedding.exists
        require_some_action(step.available_actions & exists.cpu().numpy())
        available = torch.tensor(step.available_actions, device=exists.device) & exists
        state = seen(step, "state", exists.device)
        point = self.actor(state)
        if explore:
            noise = torch.randn(point.shape, generator=self._generator).to(point.device)
            point = point + self.config.noise.at(progress) * noise
        actions, _ = self._best_neighbour(self.critic, state, point, available)
        if explore:
            epsilon = self.config.exploration.at(progress)
            actions = sometimes_uniform(actions, available, epsilon=epsilon, generator=self._generator)
        return actions.cpu().numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the critic, one of the actor, and one of their targets, or several on a rollout."""
        return regress(self, batch, self._targets(batch), self._step)

    def _step(self, rows: Batch, target_t: Tensor) -> dict[str, float]:
        value_t = self.critic(rows.state, rows.actions.unsqueeze(-2)).squeeze(-1)
        actor_loss, proposed_value = self._actor_loss(rows)
        critic_loss = squared_td_loss(value_t, target_t, rows.valid)
        numbers = improve(self, critic=critic_loss, actor=actor_loss)
        return numbers | {"value": value_t.detach().mean().item(), "proposed_value": proposed_value.item()}

    def _actor_loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return a loss with the gradient -grad_a Q(s, a) grad f(s), and the mean of Q(s, f(s)).

        The slope of Q is taken out first, so that no gradient of this loss reaches the critic's parameters.
        """
        point = self.actor(batch.state)
        place = point.detach().requires_grad_()
        value = self.critic.at(batch.state, place.unsqueeze(-2)).squeeze(-1)
        (slope,) = torch.autograd.grad(value.sum(), place)
        return -mean_of_valid((slope * point).sum(-1), batch.valid), mean_of_valid(value.detach(), batch.valid)

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Float[Tensor, "*batch"]:
        available = usable(batch.next_available_actions, self._cardinalities)
        point = self.target_actor(batch.next_state)
        _, value_tp1 = self._best_neighbour(self.target_critic, batch.next_state, point, available)
        return value_target(self.config, batch, zero_where_stuck(value_tp1, batch.next_available_actions))

    def _best_neighbour(
        self, critic: JointCritic, state: Tensor, point: Tensor, available: Bool[Tensor, "*batch agents actions"]
    ) -> tuple[Int[Tensor, "*batch agents"], Float[Tensor, "*batch"]]:
        distance = critic.embedding.distances(point).masked_fill(~available, math.inf)
        neighbours, _ = nearest_joint_actions(distance, self.config.neighbours)
        return best_of(critic, state, neighbours)
