"""Amortized Q-learning: the maximum over joint actions is looked for among draws of a learned proposal."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spnpolicy.base.decoding import require
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import mean_of_valid, squared_td_loss
from spnpolicy.maths.masks import require_some_action
from spnpolicy.maths.returns import q_target
from spnpolicy.networks import nearest, proposals
from spnpolicy.networks.encoders import state_encoder_for
from spnpolicy.networks.layers import TargetUpdate, frozen_copy
from spnpolicy.parts import optimization, settings
from spnpolicy.parts.exploration import EpsilonSchedule
from spnpolicy.parts.saving import saves

GREEDY_SEED = 20_200_124
"""Seed of the candidates of greedy play, so that it depends on the state alone and moves no random stream."""


@dataclass(frozen=True)
class Config(settings.LearnerSettings):
    """Settings of amortized Q-learning."""

    learning_rate: float = 1e-4
    """Step size of Adam on the action values."""
    proposal: Literal["autoregressive", "circuit"] = "autoregressive"
    """Family of the proposal: one agent after the other, or a circuit with exact entropy and mode."""
    labels: int = 36
    """Most labels per region of a circuit proposal: its capacity for joint behaviour."""
    proposal_learning_rate: float = 1e-4
    """Step size of Adam on the proposal."""
    num_proposed: int = 100
    """Candidates that are drawn from the proposal."""
    num_uniform: int = 400
    """Candidates that are drawn uniformly from the available joint actions; without them a proposal can collapse."""
    entropy_weight: float = 1e-2
    """Weight of the proposal's entropy in its loss, per nat."""
    entropy_draws: int = 8
    """Draws from which the entropy of an autoregressive proposal is estimated; no more than are proposed."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target network follows."""
    exploration: EpsilonSchedule = field(default_factory=EpsilonSchedule)
    """Probability of a random joint action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_proposed", "entropy_draws", "labels"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.num_uniform >= 0, "num_uniform", self.num_uniform, "0 or more")
        require(self.entropy_weight >= 0.0, "entropy_weight", self.entropy_weight, "0 or more")
        require(self.proposal_learning_rate > 0.0, "proposal_learning_rate", self.proposal_learning_rate, "above 0")


@saves("values", "target_values", "proposer", "value_optimizer", "proposal_optimizer", "num_updates")
class AQL:
    """Q-learning whose maximum runs over candidates: draws of a proposal mu(u | s) and uniform ones.

    The target is y = r + discount * max of Q_target(s', u) over candidates at s'. The proposal raises the probability
    of the best candidate u* at s: its loss is -log mu(u* | s) - entropy_weight * H(mu(. | s)). A maximum over
    candidates is never above the true one; with enough uniform ones it is equal, and this is Q-learning. `candidates`
    among the numbers of an update is how many different ones there were. The common reward is the mean over agents.

    Greedy play chooses among candidates from a fixed seed, to which the proposal's most probable joint action is added.

    Source: Van de Wiele et al. 2020.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("aql"):
            self.values = nearest.JointCritic(spec, config.network)
            encoder, hidden = state_encoder_for(config.network, spec), config.network.hidden
            self.proposer: proposals.AutoregressiveProposal | proposals.CircuitProposal
            if config.proposal == "circuit":
                self.proposer = proposals.CircuitProposal(spec.cardinalities, encoder, hidden, config.labels)
            else:
                self.proposer = proposals.AutoregressiveProposal(spec.cardinalities, encoder, hidden)
        self.target_values = frozen_copy(self.values)
        self.value_optimizer = optimization.make_optimizer(self.values.parameters(), config.learning_rate)
        self.proposal_optimizer = optimization.make_optimizer(self.proposer.parameters(), config.proposal_learning_rate)
        self.num_updates = 0
        self._streams = {"play": streams.torch("exploration"), "learning": streams.torch("proposal")}

    @torch.no_grad()
    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose the best candidate, or with probability epsilon any available joint action if `explore`.

        Raises:
            EnvError: an agent has no available action; the message names environment and agent.
        """
        exists = self.values.embedding.exists
        allowed = torch.from_numpy(step.available_actions & exists.cpu().numpy()).to(exists.device)
        require_some_action(allowed.cpu().numpy())
        state = torch.tensor(step.state, dtype=torch.float32).to(exists.device)
        if explore:
            stream = self._streams["play"]
            best, _ = nearest.best_of(self.values, state, self._candidates(state, allowed, stream))
            rate = self.config.exploration.at(progress)
            return proposals.sometimes_uniform(best, allowed, epsilon=rate, generator=stream).cpu().numpy()
        candidates = self._candidates(state, allowed, torch.Generator().manual_seed(GREEDY_SEED))
        likely = self.proposer.draw(state, allowed, 1, None)
        best, _ = nearest.best_of(self.values, state, torch.cat([likely, candidates], -2))
        return best.cpu().numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step of the action values and one of the proposal."""
        joint_value = self.values(batch.state, batch.actions[..., None, :])[..., 0]
        value_loss = squared_td_loss(joint_value, self._target(batch), batch.valid)
        proposal_loss, numbers = self.proposal_loss(batch)
        norms = optimization.descend(
            (value_loss, self.value_optimizer),
            (proposal_loss, self.proposal_optimizer),
            max_gradient_norm=self.config.max_gradient_norm,
        )
        if np.isfinite(norms).all():
            self.num_updates += 1
            self.config.target.apply(self.target_values, self.values, self.num_updates)
        losses = {"loss": float(value_loss.detach()), "proposal_loss": float(proposal_loss.detach())}
        return losses | numbers | dict(zip(("gradient_norm", "proposal_gradient_norm"), norms, strict=True))

    def proposal_loss(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Return -log mu(u* | s) - entropy_weight * H(mu(. | s)), averaged over the batch, and numbers to look at."""
        allowed, _ = nearest.playable(batch.available_actions, self.values.embedding.exists)
        with torch.no_grad():
            candidates = self._candidates(batch.state, allowed, self._streams["learning"])
            best, value = nearest.best_of(self.values, batch.state, candidates)
        # The proposal's own draws come first among the candidates.
        draws = candidates[..., : min(self.config.entropy_draws, self.config.num_proposed), :]
        log_prob, entropy = self.proposer.fit_terms(batch.state, allowed, best, draws)
        loss = -mean_of_valid(log_prob + self.config.entropy_weight * entropy, batch.valid)
        return loss, {
            "best_value": float(mean_of_valid(value, batch.valid)),
            "entropy": float(mean_of_valid(entropy.detach(), batch.valid)),
            "candidates": float(mean_of_valid(proposals.num_distinct(candidates), batch.valid)),
        }

    @torch.no_grad()
    def _target(self, batch: Batch) -> Float[Tensor, "*batch"]:
        allowed, some = nearest.playable(batch.next_available_actions, self.values.embedding.exists)
        candidates = self._candidates(batch.next_state, allowed, self._streams["learning"])
        _, largest = nearest.best_of(self.target_values, batch.next_state, candidates)
        reward = batch.reward.mean(-1)
        return q_target(reward, self.config.discount, batch.terminated, torch.where(some, largest, 0.0))

    def _candidates(
        self, state: Tensor, allowed: Bool[Tensor, "*batch agents actions"], generator: torch.Generator
    ) -> Int[Tensor, "*batch count agents"]:
        proposed = self.proposer.draw(state, allowed, self.config.num_proposed, generator)
        uniform = proposals.uniform_joint_actions(allowed, self.config.num_uniform, generator)
        return torch.cat([proposed, uniform], -2)
