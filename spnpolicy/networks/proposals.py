"""Distributions that propose joint actions: a product of conditionals, a circuit, and the uniform one."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuits import CircuitDistribution, structures
from factor_q.layers import mlp
from spnpolicy.maths.categorical import entropy, masked_log_probs, sample
from spnpolicy.maths.masks import existing_actions
from spnpolicy.networks.nearest import ContextNetwork, JointEmbedding
from spnpolicy.networks.policy import SPNPolicy

States = Float[Tensor, "*batch state"]
Masks = Bool[Tensor, "*batch agents actions"]
JointActions = Int[Tensor, "*batch count agents"]


class AutoregressiveProposal(nn.Module):
    """mu(u | s) = prod_i mu_i(u_i | s, u_1 .. u_{i-1}), each factor a network of its own on a common view of the state.

    Args:
        cardinalities: number of actions of each agent.
        encoder: what is seen of a state, with `out_features`.
        hidden: widths of the hidden layers.

    Source: Van de Wiele et al. 2020, section 3.
    """

    def __init__(self, cardinalities: Sequence[int], encoder: nn.Module, hidden: Sequence[int]):
        super().__init__()
        sizes = (cast(int, encoder.out_features), *hidden)
        self.trunk = nn.Sequential(encoder, mlp(sizes, output_gain=2**0.5, ends_in_relu=True))
        self.embedding = JointEmbedding(cardinalities)
        width = hidden[-1]
        decided = [sum(cardinalities[:agent]) for agent in range(len(cardinalities))]
        self.conditionals = nn.ModuleList(
            ContextNetwork(width, before, (width,), k) for before, k in zip(decided, cardinalities, strict=True)
        )

    @torch.no_grad()
    def draw(self, state: States, available: Masks, count: int, generator: torch.Generator | None) -> JointActions:
        """Draw joint actions, agent by agent; without a generator take the most probable action of each in turn.

        The latter is not always the most probable joint action: that is hard to find for this family.
        """
        context = self.trunk(state)
        points = torch.zeros(*state.shape[:-1], count, self.embedding.size, device=state.device)
        actions = []
        for agent, places in enumerate(self.embedding.places):
            log_probs = self._conditional(agent, context, available, points)
            drawn = log_probs.argmax(-1) if generator is None else sample(log_probs, generator)
            actions.append(drawn.to(state.device))
            points.scatter_(-1, places[actions[-1]].unsqueeze(-1), 1.0)
        return torch.stack(actions, -1)

    def log_probs(
        self, state: States, available: Masks, actions: JointActions
    ) -> tuple[Float[Tensor, "*batch count agents"], Float[Tensor, "*batch count agents"]]:
        """Return, for joint actions, each agent's conditional log probability and the entropy of its conditional."""
        context, points = self.trunk(state), self.embedding(actions)
        log_prob, uncertainty = [], []
        for agent in range(len(self.conditionals)):
            own = self._conditional(agent, context, available, points)
            log_prob.append(own.gather(-1, actions[..., agent, None]).squeeze(-1))
            uncertainty.append(entropy(own))
        return torch.stack(log_prob, -1), torch.stack(uncertainty, -1)

    def fit_terms(
        self, state: States, available: Masks, best: Int[Tensor, "*batch agents"], draws: JointActions
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Return the log probability of `best`, and an estimate of the entropy from draws of this proposal.

        Value and gradient of the estimate are right on average; see `entropy_estimate`.
        """
        log_prob, conditional_entropy = self.log_probs(state, available, torch.cat([best.unsqueeze(-2), draws], -2))
        spread = entropy_estimate(log_prob[..., 1:, :], conditional_entropy[..., 1:, :])
        return log_prob[..., 0, :].sum(-1), spread

    def _conditional(self, agent: int, context: Tensor, available: Tensor, points: Tensor) -> Tensor:
        """Return log mu_i(. | s, u_<i), shape (*batch, count, actions of the agent)."""
        network = self.conditionals[agent]
        assert isinstance(network, ContextNetwork)
        logits = network(context, points[..., : network.point_size])
        mask = available[..., agent, None, : logits.shape[-1]]
        return masked_log_probs(logits, mask.expand_as(logits))


def entropy_estimate(
    log_prob: Float[Tensor, "*batch count agents"], conditional_entropy: Float[Tensor, "*batch count agents"]
) -> Float[Tensor, "*batch"]:
    """Return the mean over draws of sum_i H(mu_i(. | u_<i)).

    If u is drawn from mu, that is the joint entropy on average, by the chain rule. Following the conditional entropies
    alone, a gradient would miss that the draws depend on mu as well. That part is added as a score: the gradient of
    log mu_i(u_i | u_<i) times what comes after it, sum_{j>i} H_j, less its mean over the other draws. Value and
    gradient are unbiased.

    Args:
        log_prob: log mu_i(u_i | u_<i) of independent draws from mu.
        conditional_entropy: H(mu_i(. | u_<i)) at the same draws, in nats.
    """
    count = log_prob.shape[-2]
    after = (conditional_entropy.flip(-1).cumsum(-1).flip(-1) - conditional_entropy).detach()
    others = (after.sum(-2, keepdim=True) - after) / max(count - 1, 1)
    score = (log_prob * (after - others)).sum(-1)
    return (conditional_entropy.sum(-1) + score - score.detach()).mean(-1)


class CircuitProposal(nn.Module):
    """A joint proposal given by a deterministic circuit, whose entropy and mode are exact.

    Args:
        cardinalities: number of actions of each agent.
        encoder: what is seen of a state, with `out_features`.
        hidden: widths of the hidden layers.
        labels: most labels per region of the keep_set circuit: its capacity for joint behaviour.
    """

    missing: Tensor

    def __init__(self, cardinalities: Sequence[int], encoder: nn.Module, hidden: Sequence[int], labels: int):
        super().__init__()
        circuit = structures.keep_set(cardinalities, labels=labels)
        self.policy = SPNPolicy(circuit, encoder=encoder, hidden=hidden)
        self.register_buffer("missing", ~existing_actions(cardinalities), persistent=False)

    def distribution(self, state: States, available: Masks) -> CircuitDistribution:
        """Return the proposal in each state, with forbidden actions ruled out."""
        pi: CircuitDistribution = self.policy(state)
        return pi if (available | self.missing).all() else pi.condition(available)

    @torch.no_grad()
    def draw(self, state: States, available: Masks, count: int, generator: torch.Generator | None) -> JointActions:
        """Draw joint actions; without a generator give the most probable one, `count` times."""
        pi = self.distribution(state, available)
        if generator is None:
            return pi.mode.unsqueeze(-2).expand(*state.shape[:-1], count, -1)
        # Random numbers come from the CPU, so that a seed means the same on every device.
        pi = CircuitDistribution(pi.circuit, pi.logits.cpu(), validate_args=False)
        return pi.sample((count,), generator=generator).movedim(0, -2).to(state.device)

    def fit_terms(
        self, state: States, available: Masks, best: Int[Tensor, "*batch agents"], draws: JointActions
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Return the log probability of `best`, and the exact entropy in nats; draws are not needed for it."""
        pi = self.distribution(state, available)
        return pi.log_prob(best), pi.entropy()


def uniform_joint_actions(
    available: Bool[Tensor, "*batch agents actions"], count: int, generator: torch.Generator
) -> Int[Tensor, "*batch count agents"]:
    """Draw joint actions uniformly among the available ones.

    Args:
        available: which actions may be drawn, at least one per agent.
        count: draws per row.
        generator: source of randomness, on the CPU.
    """
    allowed = available.sum(-1).unsqueeze(-2)
    shape = (*allowed.shape[:-2], count, allowed.shape[-1])
    uniform = torch.rand(shape, generator=generator).to(available.device)
    # The product can be rounded up to the number of actions itself.
    rank = torch.minimum((uniform * allowed).long(), allowed - 1)
    available_first = available.int().argsort(dim=-1, descending=True, stable=True)
    return available_first.unsqueeze(-3).expand(*shape, -1).gather(-1, rank.unsqueeze(-1)).squeeze(-1)


def sometimes_uniform(
    actions: Int[Tensor, "*batch agents"],
    available: Bool[Tensor, "*batch agents actions"],
    *,
    epsilon: float,
    generator: torch.Generator,
) -> Int[Tensor, "*batch agents"]:
    """Replace whole joint actions, with probability `epsilon` each, by uniform draws; with 0 nothing is drawn."""
    if epsilon <= 0.0:
        return actions
    random = uniform_joint_actions(available, 1, generator).squeeze(-2)
    is_replaced = torch.rand(actions.shape[:-1], generator=generator).to(actions.device) < epsilon
    return torch.where(is_replaced.unsqueeze(-1), random, actions)


def num_distinct(actions: Int[Tensor, "*batch count agents"]) -> Float[Tensor, "*batch"]:
    """Return how many different joint actions there are in each row.

    Joint actions are told apart by 64-bit numbers; two different ones have the same with a probability near 1e-19.
    """
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, actions.shape[-1:], generator=generator).to(actions.device)
    keys = (actions * factors).sum(-1).sort(-1).values
    return 1.0 + (keys[..., 1:] != keys[..., :-1]).sum(-1).float()
