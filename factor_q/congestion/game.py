"""Congestion: what agents take from each other by choosing the same thing, at the cost of single agents."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import StructureError
from circuits.numerics import exponentials
from factor_q.congestion.turns import take_turns
from factor_q.factors import Factors
from factor_q.graph import FactorGraph


class Congestion(NamedTuple):
    """A batch of functions Q(u) = f(u) - sum over pairs i < i' of agents with the same choice j of <r_ij, r_i'j>.

    It is multilinear, with a table for every pair of agents. These tables are low in rank and 0 where two agents choose
    different things, so that sums over pairs are squares of sums: nothing is as large as the number of pairs.

    Cost: O(agents * shown * rank) per row, where every agent is shown so many things.
    Source: congestion games, Rosenthal 1973.
    """

    own: Factors
    """f: what every agent's choice is worth alone."""
    rivalry: Float[Tensor, "*batch agents shown rank"]
    """r. Action j is to choose the j-th thing that is shown; actions behind the last choose none and meet nobody."""
    things: Int[Tensor, "*batch agents shown"] | None = None
    """Which thing each of these is, from 0 on, no one twice for the same agent; None where all agents are shown all
    things in one order."""

    @property
    def graph(self) -> FactorGraph:
        """Scopes of f."""
        return self.own.graph

    @property
    def batch_shape(self) -> torch.Size:
        """Leading shape."""
        return self.own.batch_shape

    def detach(self) -> "Congestion":
        """Return it without gradient."""
        return self._replace(own=self.own.detach(), rivalry=self.rivalry.detach())

    def __call__(self, actions: Int[Tensor, "*batch agents"]) -> Float[Tensor, "*batch"]:
        """Return Q of one joint action per row."""
        shown, rank = self.rivalry.shape[-2:]
        # Who chooses nothing goes where nobody looks.
        place = actions.clamp_max(shown).unsqueeze(-1)
        row = torch.cat([self.rivalry, torch.zeros_like(self.rivalry[..., :1, :])], -2)
        chosen = row.gather(-2, place.unsqueeze(-1).expand(*place.shape, rank)).squeeze(-2)
        if self.things is not None:
            none = torch.full_like(self.things[..., :1], self._count)
            place = torch.cat([self.things, none], -1).gather(-1, place)
        met = chosen.new_zeros(*actions.shape[:-1], self._count + 1, rank)
        met = met.scatter_add(-2, place.expand_as(chosen), chosen)
        return self.own(actions) - (met.square().sum((-1, -2)) - chosen.square().sum((-1, -2))) / 2

    def of_pairs(self, marginals: Float[Tensor, "*batch agents actions"]) -> Float[Tensor, "*batch"]:
        """Return what all pairs together are expected to take from each other when agents choose independently.

        Exact for independent agents only: of others the joint probabilities of all pairs would be needed.

        Args:
            marginals: probability of every action of every agent.
        """
        weighted = marginals[..., : self.rivalry.shape[-2], None] * self.rivalry
        return (self._met(weighted).square().sum((-1, -2)) - weighted.square().sum((-1, -2, -3))) / 2

    @torch.no_grad()
    def independent(
        self, temperature: float, available: Bool[Tensor, "*batch agents actions"], *, sweeps: int
    ) -> Float[Tensor, "*batch agents actions"]:
        """Return independent policies of high E[Q] + temperature * H: a local optimum, or close to one.

        Agents take turns, each with what is best given the others. The first sweep is at a temperature at which nobody
        is certain, and the last at the one that is asked for: who is slightly worse off at a thing then leaves it
        first, where otherwise the first to take a turn would.

        Args:
            temperature: above 0, in units of Q per nat.
            available: which actions may be chosen, at least one per agent.
            sweeps: times that every agent takes its turn.

        Returns:
            The probability of every action.

        Raises:
            StructureError: as `alone`.

        Cost: O(sweeps * agents * shown * rank) per row: in machine code where it was built, otherwise in
            sweeps * agents steps of a few tensor operations.
        Source: coordinate ascent on the ELBO (Jordan et al. 1999), annealed (Katahira, Watanabe and Okada 2008).
        """
        allowed = available.expand(*self.batch_shape, -1, -1)
        own, warm = self.alone(), max(self.spread(available), temperature)
        own = own.masked_fill(~allowed, -torch.inf)
        start = own / warm
        chosen = start.div_(exponentials(start, -1).unsqueeze(-1))
        met = self._met(chosen[..., : self.rivalry.shape[-2], None] * self.rivalry)
        at = [warm * (temperature / warm) ** ((sweep + 1) / sweeps) for sweep in range(sweeps)]
        return take_turns(own, self.rivalry, self.things, chosen, met, at)

    def alone(self) -> Float[Tensor, "*batch agents actions"]:
        """Return what every agent's choices are worth alone.

        Raises:
            StructureError: f has not just one table of every agent, in order, or these are of unequal size.
        """
        graph, agents = self.graph, self.graph.num_variables
        start = int(bool(graph.scopes) and graph.scopes[0] == ())
        expected = tuple((agent,) for agent in range(agents))
        if graph.scopes[start:] != expected or len(set(graph.cardinalities)) > 1:
            raise StructureError(
                "Congestion: independent policies are for one table of every agent, in order and with equally many "
                f"actions, but the tables are of {graph.scopes[:4]}{'...' * (len(graph.scopes) > 4)} and the "
                f"cardinalities {graph.cardinalities}. approximate.mean_field takes any Factors."
            )
        # Side by side behind the constant: of many agents, a view of each would take longer than all the rest.
        return self.own.flat[..., start:].unflatten(-1, (agents, graph.cardinalities[0]))

    def spread(self, available: Bool[Tensor, "*batch agents actions"]) -> float:
        """Return how far an agent's own values lie apart: their standard deviation, the mean over agents and rows.

        Raises:
            StructureError: as `alone`.
        """
        own = self.alone()
        return float(own.masked_fill(~available.expand_as(own), 0.0).std(-1, correction=0).mean())

    @property
    def _count(self) -> int:
        """Number of things."""
        if self.things is None:
            return self.rivalry.shape[-2]
        return int(self.things.max()) + 1 if self.things.numel() else 0

    def _met(self, weighted: Float[Tensor, "*batch agents shown rank"]) -> Float[Tensor, "*batch things rank"]:
        """Return the sum over all agents at every thing."""
        if self.things is None:
            return weighted.sum(-3)
        rows = weighted.flatten(-3, -2)
        place = self.things.flatten(-2).unsqueeze(-1).expand_as(rows)
        return rows.new_zeros(*rows.shape[:-2], self._count, rows.shape[-1]).scatter_add(-2, place, rows)
