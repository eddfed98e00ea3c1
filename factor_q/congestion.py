"""Congestion: what agents take from each other by choosing the same thing, at the cost of single agents."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import StructureError
from circuits.numerics import exponentials
from factor_q.factors import Factors
from factor_q.graph import FactorGraph


class Congestion(NamedTuple):
    """A batch of functions Q(u) = f(u) - sum over pairs i < i' of agents with the same choice j of <r_ij, r_i'j>.

    It is multilinear, with a table for every pair of agents. These tables are diagonal and of low rank, so that sums
    over pairs are squares of sums: nothing is as large as the number of pairs.

    Cost: O(agents * things * rank) per row.
    Source: congestion games, Rosenthal 1973.
    """

    own: Factors
    """f: what every agent's choice is worth alone."""
    rivalry: Float[Tensor, "*batch agents things rank"]
    """r. Action j is to choose thing j; actions behind the last thing choose none and meet nobody."""

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
        return Congestion(self.own.detach(), self.rivalry.detach())

    def __call__(self, actions: Int[Tensor, "*batch agents"]) -> Float[Tensor, "*batch"]:
        """Return Q of one joint action per row."""
        things, rank = self.rivalry.shape[-2:]
        # Who chooses nothing goes where nobody looks.
        place = actions.clamp_max(things).unsqueeze(-1).unsqueeze(-1)
        row = torch.cat([self.rivalry, torch.zeros_like(self.rivalry[..., :1, :])], -2)
        chosen = row.gather(-2, place.expand(*actions.shape, 1, rank)).squeeze(-2)
        met = chosen.new_zeros(*actions.shape[:-1], things + 1, rank)
        met = met.scatter_add(-2, place.squeeze(-2).expand_as(chosen), chosen)
        return self.own(actions) - (met.square().sum((-1, -2)) - chosen.square().sum((-1, -2))) / 2

    def of_pairs(self, marginals: Float[Tensor, "*batch agents actions"]) -> Float[Tensor, "*batch"]:
        """Return what all pairs together are expected to take from each other when agents choose independently.

        Exact for independent agents only: of others the joint probabilities of all pairs would be needed.

        Args:
            marginals: probability of every action of every agent.
        """
        weighted = marginals[..., : self.rivalry.shape[-2], None] * self.rivalry
        return (weighted.sum(-3).square().sum((-1, -2)) - weighted.square().sum((-1, -2, -3))) / 2

    @torch.no_grad()
    def independent(
        self, temperature: float, available: Bool[Tensor, "*batch agents actions"], *, sweeps: int
    ) -> Float[Tensor, "*batch agents actions"]:
        """Return independent policies of high E[Q] + temperature * H: a local optimum, or close to one.

        For f without tables of several agents, all agents with equally many actions.

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
            StructureError: f has a table of several agents, or agents have different numbers of actions.

        Cost: O(sweeps * agents * things * rank) per row, in sweeps * agents steps.
        Source: coordinate ascent on the ELBO (Jordan et al. 1999), annealed (Katahira, Watanabe and Okada 2008).
        """
        agents, things = self.rivalry.shape[-3:-1]
        several = [scope for scope in self.graph.scopes if len(scope) > 1]
        if several or len(set(self.graph.cardinalities)) > 1:
            raise StructureError(
                f"Congestion.independent: for tables of single agents with equally many actions, but there are tables "
                f"of {several[:3]}{'...' if len(several) > 3 else ''} and cardinalities {self.graph.cardinalities}. "
                "approximate.mean_field takes any Factors."
            )
        allowed = available.expand(*self.batch_shape, -1, -1)
        own = torch.stack([table for scope, table in self.own if len(scope) == 1], -2).masked_fill(~allowed, -torch.inf)
        worth = own.masked_fill(~allowed, 0.0)
        warm = max(float(worth.std(-1).mean()), temperature)
        chosen = _softmax(own / warm)
        weighted = chosen[..., :things, None] * self.rivalry
        met = weighted.sum(-3)
        for sweep in range(sweeps):
            at = warm * (temperature / warm) ** ((sweep + 1) / sweeps)
            for agent in range(agents):
                mine = self.rivalry[..., agent, :, :]
                met -= weighted[..., agent, :, :]
                score = own[..., agent, :].clone()
                score[..., :things] -= (mine * met).sum(-1)
                chosen[..., agent, :] = _softmax(score / at)
                weighted[..., agent, :, :] = chosen[..., agent, :things, None] * mine
                met += weighted[..., agent, :, :]
        return chosen


def _softmax(scores: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
    """Return probabilities in place of scores, of which some are finite."""
    return scores.div_(exponentials(scores, -1).unsqueeze(-1))
