"""JointValues: one factor-graph critic or several, of which the smallest expectation counts."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factor_q import FactorGraph, FactorQ, Factors
from factor_q.choices import Codes
from factor_q.congestion import Congestion

ActionValues = Factors | Congestion


class Judged(NamedTuple):
    """What critics say about some rows."""

    q: Sequence[ActionValues]
    """Action values of each network."""
    codes: Codes
    """What the first network made of the observations before its heads."""

    def detach(self) -> "Judged":
        """Return it without gradient."""
        return Judged([q.detach() for q in self.q], self.codes.detach())


class JointValues(nn.Module):
    """Critics of joint actions on the same factor graph, with weights of their own.

    What one takes for too good, another one often does not: the smaller of their expectations is seldom too high.

    Args:
        networks: one or more.

    Source: Fujimoto, van Hoof and Meger 2018 (clipped double Q); Haarnoja et al. 2018.
    """

    def __init__(self, networks: Sequence[FactorQ]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @property
    def graph(self) -> FactorGraph:
        """The scopes, the same for all networks."""
        return cast(FactorQ, self.networks[0]).graph

    def retarget(self, graph: FactorGraph) -> None:
        """Give the factors of another graph, see `FactorQ.retarget`."""
        for network in self.networks:
            cast(FactorQ, network).retarget(graph)

    def forward(self, observation: Float[Tensor, "*batch features"], *context: Float[Tensor, "..."]) -> Judged:
        """Return the factors that each network gives; the arguments are those of `FactorQ`."""
        networks = [cast(FactorQ, network) for network in self.networks]
        codes = [network.codes(observation, *context) for network in networks]
        q = [network.from_codes(observation, each) for network, each in zip(networks, codes, strict=True)]
        return Judged(q, codes[0])


def least(values: Iterable[Float[Tensor, "*batch"]]) -> Float[Tensor, "*batch"]:
    """Return the smallest of several values, entry by entry; the gradient flows into that one."""
    first, *others = values
    for other in others:
        first = torch.minimum(first, other)
    return first


def average_of(values: Sequence[ActionValues]) -> ActionValues:
    """Return the mean of several functions on one graph; several are never of congestion."""
    if len(values) == 1:
        return values[0]
    first, *others = cast(Sequence[Factors], values)
    return sum(others, start=first) / len(values)
