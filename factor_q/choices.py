"""Codes of agents and of what they choose among; and the tables of agents whose actions are things that they see."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factor_q.layers import mlp


class Codes(NamedTuple):
    """What the hidden layers of a network make of a state."""

    agents: Float[Tensor, "*batch agents width"]
    """Of every agent; without agents, of the state, (*batch, width)."""
    choices: Float[Tensor, "*batch agents count features"] | None = None
    """Of every thing that an agent chooses among, as that agent sees it: action j is to choose the j-th. None where
    actions are no things."""
    things: Int[Tensor, "*batch agents count"] | None = None
    """Which thing each of these is, where agents see different ones; None where all see all, in one order."""

    def flat(self) -> "Codes":
        """Return them with all axes of the batch in one."""
        agents = self.agents.reshape(-1, *self.agents.shape[-2:])
        rest = (x if x is None else x.reshape(len(agents), *x.shape[self.agents.dim() - 2 :]) for x in self[1:])
        return Codes(agents, *rest)

    def detach(self) -> "Codes":
        """Return them without gradient."""
        return Codes(self.agents.detach(), None if self.choices is None else self.choices.detach(), self.things)


class Choices(NamedTuple):
    """What an encoder shows of things that agents choose among."""

    count: int
    """How many there are."""
    features: int
    """Numbers per code of one."""


class ChoiceHead(nn.Module):
    """Numbers for every agent and action, from the codes of the agent and of what the action chooses.

    No weight depends on the number of things: a network that learned to divide ten tasks can divide a hundred.

    Args:
        width: numbers per code of an agent.
        features: numbers per code of a thing.
        hidden: units per agent and thing.
        extra: actions behind the things, which choose none of them.
        output_scale: factor by which the last weights are shrunk at the start; with 0 all numbers start at 0.
        outputs: numbers per agent and action.
    """

    def __init__(
        self, width: int, features: int, hidden: int, extra: int, output_scale: float, outputs: int = 1
    ) -> None:
        super().__init__()
        self.agent, self.thing = nn.Linear(width, hidden), nn.Linear(features, hidden, bias=False)
        self.last = nn.Linear(hidden, outputs)
        self.rest = mlp((width, hidden, extra * outputs), output_gain=None) if extra else None
        for layer in (self.last, *([self.rest[-1]] if self.rest is not None else [])):
            assert isinstance(layer, nn.Linear)
            with torch.no_grad():
                layer.weight.mul_(output_scale)
                layer.bias.zero_()

    def forward(self, codes: Codes) -> Float[Tensor, "*batch agents actions outputs"]:
        """Return the numbers of all actions."""
        assert codes.choices is not None, "an encoder with choices gives them"
        hidden = (self.thing(codes.choices) + self.agent(codes.agents).unsqueeze(-2)).relu_()
        chosen = self.last(hidden)
        if self.rest is None:
            return chosen
        return torch.cat([chosen, self.rest(codes.agents).unflatten(-1, (-1, chosen.shape[-1]))], -2)
