"""Joint actions as points: their embedding, the joint actions nearest to any point, and networks that take points."""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factor_q.layers import initialize_orthogonal, mlp
from spnpolicy.data.env import EnvSpec
from spnpolicy.maths.masks import existing_actions
from spnpolicy.networks.encoders import Network, state_encoder_for

EmbeddingKind = Literal["one_hot", "code"]

_POINTS = 4096
"""Points that are valued at a time: what a network holds of so many stays in a processor's cache."""


class JointEmbedding(nn.Module):
    """Joint actions as points, every agent with coordinates of its own.

    Squared distances are then sums over agents, which is what makes the nearest joint actions easy to find.

    Args:
        cardinalities: number of actions of each agent.
        kind: "one_hot" gives an agent one coordinate per action, in [0, 1]. "code" gives it one coordinate, its actions
            at equal steps from -1 to 1: for actions that have an order, so that neighbours are alike.
    """

    exists: Tensor
    places: Tensor
    codes: Tensor

    def __init__(self, cardinalities: Sequence[int], kind: EmbeddingKind = "one_hot"):
        super().__init__()
        self.kind = kind
        self.size = sum(cardinalities) if kind == "one_hot" else len(cardinalities)
        self.bounds = (0.0, 1.0) if kind == "one_hot" else (-1.0, 1.0)
        counts = torch.tensor(cardinalities)[:, None]
        actions = torch.arange(max(cardinalities))
        starts = counts.cumsum(0) - counts
        self.register_buffer("exists", existing_actions(cardinalities), persistent=False)
        # Actions that do not exist point at a coordinate that does; nothing of it is used.
        self.register_buffer("places", (starts + actions).clamp_max(sum(cardinalities) - 1), persistent=False)
        codes = 2.0 * actions / (counts - 1).clamp_min(1) - (counts > 1).float()
        self.register_buffer("codes", codes, persistent=False)

    def forward(self, actions: Int[Tensor, "*batch agents"]) -> Float[Tensor, "*batch size"]:
        """Return the points of joint actions."""
        if self.kind == "code":
            return self.codes.expand(*actions.shape, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        places = self.places.expand(*actions.shape, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return torch.zeros(*actions.shape[:-1], self.size, device=actions.device).scatter_(-1, places, 1.0)

    def distances(self, point: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch agents actions"]:
        """Return what each action of each agent adds to the squared distance from a point; infinite if it is none."""
        if self.kind == "code":
            squares = (point.unsqueeze(-1) - self.codes).square()
        else:
            # |x - e_a|^2 = |x|^2 - 2 x_a + 1 in the coordinates of one agent.
            own = point[..., self.places]
            length = own.square().masked_fill(~self.exists, 0.0).sum(-1, keepdim=True)
            squares = length - 2.0 * own + 1.0
        return squares.masked_fill(~self.exists, math.inf)


def nearest_joint_actions(
    distance: Float[Tensor, "*batch agents actions"], count: int
) -> tuple[Int[Tensor, "*batch count agents"], Float[Tensor, "*batch count"]]:
    """Return the joint actions with the smallest sums of the agents' numbers, exactly and the smallest first.

    Agents are taken in one by one, and only the best `count` beginnings are kept: what follows adds the same to all of
    them, so no other beginning can be part of the answer. Of two sorted lists only pairs at places (a, b), counted from
    1, with a * b <= count are looked at: a pair has at least a * b - 1 others before it. Ties go to the lower places,
    therefore the answer for a smaller count is the beginning of that for a larger one.

    Args:
        distance: what every action adds, infinite for one that must not be chosen.
        count: joint actions wanted, at least 1.

    Returns:
        Joint actions and their sums. Where fewer can be chosen, the nearest is repeated. No more come back than there
        are combinations of entries.
    Cost: sorting about count * log(count) sums per agent and row, after sorting each agent's actions.
    """
    sorted_distance, order = distance.sort(dim=-1, stable=True)
    total = sorted_distance[..., 0, :count]
    joint = order[..., 0, :count].unsqueeze(-1)
    for agent in range(1, distance.shape[-2]):
        prefix, action = _worth_a_look(total.shape[-1], distance.shape[-1], count, distance.device)
        sums = total[..., prefix] + sorted_distance[..., agent, action]
        total, chosen = sums.sort(dim=-1, stable=True)
        total, chosen = total[..., :count], chosen[..., :count]
        beginning = prefix[chosen].unsqueeze(-1).expand(*chosen.shape, joint.shape[-1])
        own = order[..., agent, :].gather(-1, action[chosen])
        joint = torch.cat([joint.gather(-2, beginning), own.unsqueeze(-1)], -1)
    missing = total.isinf()
    joint = torch.where(missing.unsqueeze(-1), joint[..., :1, :], joint)
    return joint, torch.where(missing, total[..., :1], total)


def _worth_a_look(prefixes: int, actions: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places (a, b) with (a + 1) * (b + 1) <= count, in order."""
    a, b = torch.arange(1, prefixes + 1, device=device), torch.arange(1, actions + 1, device=device)
    first, second = (a[:, None] * b <= count).nonzero(as_tuple=True)
    return first, second


class ContextNetwork(nn.Module):
    """An `mlp` of a context and a point, for many points per context: the context's part is computed once.

    Args:
        context_size: numbers of a context.
        point_size: numbers of a point; may be 0.
        hidden: widths of the hidden layers; at least one.
        outputs: numbers per point.
        output_gain: scale of the last layer's first weights.
    """

    def __init__(
        self, context_size: int, point_size: int, hidden: Sequence[int], outputs: int, *, output_gain: float = 0.01
    ):
        super().__init__()
        self.point_size = point_size
        self._context_size = context_size
        self.first = initialize_orthogonal(nn.Linear(context_size + point_size, hidden[0]), math.sqrt(2))
        self.rest = nn.Sequential(nn.ReLU(), mlp((*hidden, outputs), output_gain=output_gain))

    def forward(
        self, context: Float[Tensor, "*batch context"], points: Float[Tensor, "*batch count point"]
    ) -> Float[Tensor, "*batch count outputs"]:
        """Return the outputs for every point in its context."""
        weight = self.first.weight
        seen = nn.functional.linear(context, weight[:, : self._context_size], self.first.bias)
        return self.rest(seen.unsqueeze(-2) + nn.functional.linear(points, weight[:, self._context_size :]))


class JointCritic(nn.Module):
    """Values Q(s, x) of points in the space of joint actions, also of points that are no joint action.

    Args:
        spec: sizes of the environment.
        network: what it sees of the state, and widths of the hidden layers.
        embedding: how a joint action becomes a point.
    """

    def __init__(self, spec: EnvSpec, network: Network, embedding: EmbeddingKind = "one_hot"):
        super().__init__()
        self.encoder = state_encoder_for(network, spec)
        self.embedding = JointEmbedding(spec.cardinalities, embedding)
        seen = cast(int, self.encoder.out_features)
        self.network = ContextNetwork(seen, self.embedding.size, network.hidden, 1)

    def at(
        self, state: Float[Tensor, "*batch state"], points: Float[Tensor, "*batch count size"]
    ) -> Float[Tensor, "*batch count"]:
        """Return the values of several points in each state."""
        return self.network(self.encoder(state), points).squeeze(-1)

    def forward(
        self, state: Float[Tensor, "*batch state"], actions: Int[Tensor, "*batch count agents"]
    ) -> Float[Tensor, "*batch count"]:
        """Return the values of several joint actions in each state."""
        return self.at(state, self.embedding(actions))


def best_of(
    critic: nn.Module, state: Float[Tensor, "*batch state"], candidates: Int[Tensor, "*batch count agents"]
) -> tuple[Int[Tensor, "*batch agents"], Float[Tensor, "*batch"]]:
    """Return the candidate that the critic values most in each state, and its value; the first one of equals."""
    contexts = max(1, _POINTS // candidates.shape[-2])
    parts = zip(state.flatten(0, -2).split(contexts), candidates.flatten(0, -3).split(contexts), strict=True)
    values = torch.cat([critic(*part) for part in parts]).view(candidates.shape[:-1])
    # argmax takes a value that is not a number for the largest: it must not get lost.
    chosen = values.argmax(-1, keepdim=True)
    index = chosen.unsqueeze(-1).expand(*chosen.shape, candidates.shape[-1])
    return candidates.gather(-2, index).squeeze(-2), values.gather(-1, chosen).squeeze(-1)
