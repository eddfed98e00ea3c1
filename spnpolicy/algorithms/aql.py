"""Amortized Q-learning: the maximum over joint actions is looked for among draws of a learned proposal."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spnpolicy.base.ranges import Count, Range, Repeats, Weight
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, seen
from spnpolicy.maths.losses import mean_of_valid, squared_td_loss
from spnpolicy.maths.masks import require_some_action, usable, zero_where_stuck
from spnpolicy.networks import nearest, proposals
from spnpolicy.networks.encoders import state_encoder_for
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import regress
from spnpolicy.parts.settings import AdamSettings, GreedySettings, data_needs, step_size
from spnpolicy.parts.targets import value_target

GREEDY_SEED = 20_200_124
"""Seed of the candidates of greedy play, so that it depends on the state alone and moves no random stream."""


@dataclass(frozen=True)
class Config(GreedySettings):
    """Settings of amortized Q-learning."""

    critic: AdamSettings = field(default_factory=step_size(1e-4))
    """How action values descend."""
    actor: AdamSettings = field(default_factory=step_size(1e-4))
    """How the proposal descends."""
    proposal: Literal["autoregressive", "circuit"] = "autoregressive"
    """Family of the proposal: one agent after the other, or a circuit with exact entropy and mode."""
    labels: Annotated[int, Range(1, 4096)] = 36
    """Most labels per region of a circuit proposal: its capacity for joint behaviour."""
    num_proposed: Repeats = 100
    """Candidates that are drawn from the proposal."""
    num_uniform: Annotated[int, Range(0, 100_000)] = 400
    """Candidates that are drawn uniformly from the available joint actions; without them a proposal can collapse."""
    entropy_weight: Weight = 1e-2
    """Weight of the proposal's entropy in its loss, per nat."""
    entropy_draws: Count = 8
    """Draws from which the entropy of an autoregressive proposal is estimated; no more than are proposed."""


@saves("critic", "target_critic", "actor", "critic_optimizer", "actor_optimizer", "num_updates")
class AQL:
    """Q-learning whose maximum runs over candidates: draws of a proposal mu(u | s), the actor, and uniform ones.

    The target is y = r + discount * max of Q_target(s', u) over candidates at s'. The proposal raises the probability
    of the best candidate u* at s: its loss is -log mu(u* | s) - entropy_weight * H(mu(. | s)). A maximum over
    candidates is never above the true one; with enough uniform ones it is equal, and this is Q-learning. `candidates`
    among the numbers of an update is how many different ones there were. The common reward is the mean over agents.

    Greedy play chooses among candidates from a fixed seed, to which the proposal's most probable joint action is added.

    Source: Van de Wiele et al. 2020.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        self._cardinalities = spec.cardinalities
        with streams.initialization("aql"):
            self.critic = nearest.JointCritic(spec, config.network)
            encoder, hidden = state_encoder_for(config.network, spec), config.network.hidden
            self.actor: proposals.AutoregressiveProposal | proposals.CircuitProposal
            if config.proposal == "circuit":
                self.actor = proposals.CircuitProposal(spec.cardinalities, encoder, hidden, config.labels)
            else:
                self.actor = proposals.AutoregressiveProposal(spec.cardinalities, encoder, hidden)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        self.num_updates = 0
        self.needs = data_needs(config)
        self._generator, self._candidate_generator = streams.torch("exploration"), streams.torch("proposal")
        self.order_generator = streams.torch("minibatches")

    @torch.no_grad()
    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose the best candidate, or with probability epsilon any available joint action if `explore`.

        Raises:
            EnvError: an agent has no available action; the message names environment and agent.
        """
        exists = self.critic.embedding.exists
        allowed = torch.from_numpy(step.available_actions & exists.cpu().numpy()).to(exists.device)
        require_some_action(allowed.cpu().numpy())
        state = seen(step, "state", exists.device)
        if explore:
            generator, epsilon = self._generator, self.config.exploration.at(progress)
            best, _ = nearest.best_of(self.critic, state, self._candidates(state, allowed, generator))
            return proposals.sometimes_uniform(best, allowed, epsilon=epsilon, generator=generator).cpu().numpy()
        candidates = self._candidates(state, allowed, torch.Generator().manual_seed(GREEDY_SEED))
        likely = self.actor.draw(state, allowed, 1, None)
        best, _ = nearest.best_of(self.critic, state, torch.cat([likely, candidates], -2))
        return best.cpu().numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step of the action values and one of the proposal, or several on a rollout."""
        return regress(self, batch, self._targets(batch), self._step)

    def _step(self, rows: Batch, target_t: Tensor) -> dict[str, float]:
        value_t = self.critic(rows.state, rows.actions[..., None, :])[..., 0]
        critic_loss = squared_td_loss(value_t, target_t, rows.valid)
        actor_loss, watched = self.actor_loss(rows)
        return improve(self, critic=critic_loss, actor=actor_loss) | watched

    def actor_loss(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Return -log mu(u* | s) - entropy_weight * H(mu(. | s)), averaged over the batch, and numbers to look at."""
        allowed = usable(batch.available_actions, self._cardinalities)
        with torch.no_grad():
            candidates = self._candidates(batch.state, allowed, self._candidate_generator)
            best, value = nearest.best_of(self.critic, batch.state, candidates)
        # The proposal's own draws come first among the candidates.
        draws = candidates[..., : min(self.config.entropy_draws, self.config.num_proposed), :]
        log_prob, entropy = self.actor.fit_terms(batch.state, allowed, best, draws)
        loss = -mean_of_valid(log_prob + self.config.entropy_weight * entropy, batch.valid)
        return loss, {
            "best_value": float(mean_of_valid(value, batch.valid)),
            "entropy": float(mean_of_valid(entropy.detach(), batch.valid)),
            "candidates": float(mean_of_valid(proposals.num_distinct(candidates), batch.valid)),
        }

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Float[Tensor, "*batch"]:
        allowed = usable(batch.next_available_actions, self._cardinalities)
        candidates = self._candidates(batch.next_state, allowed, self._candidate_generator)
        _, largest = nearest.best_of(self.target_critic, batch.next_state, candidates)
        return value_target(self.config, batch, zero_where_stuck(largest, batch.next_available_actions))

    def _candidates(
        self, state: Tensor, allowed: Bool[Tensor, "*batch agents actions"], generator: torch.Generator
    ) -> Int[Tensor, "*batch count agents"]:
        proposed = self.actor.draw(state, allowed, self.config.num_proposed, generator)
        uniform = proposals.uniform_joint_actions(allowed, self.config.num_uniform, generator)
        return torch.cat([proposed, uniform], -2)
