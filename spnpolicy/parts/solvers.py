"""Solvers: the joint policy from a critic's tables alone, without a network of its own."""

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

import factor_q
from circuits import Circuit, CircuitDistribution
from factor_q import FactorGraph, Factors, largest_table
from spnpolicy.base.errors import ConfigError
from spnpolicy.parts.coordination import allow

MOST_ENTRIES = 2**22
"""Entries that elimination may hold for one state: more takes too long in every step of play."""


class Boltzmann:
    """The optimal policy exp(Q / temperature) / Z itself, every answer by elimination of the factor graph.

    Args:
        q: action values; -inf forbids.
        temperature: above 0, in units of Q per nat.
    """

    def __init__(self, q: Factors, temperature: float) -> None:
        self._q, self._temperature = q, temperature

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Int[Tensor, "*shape agents"]:
        """Draw joint actions, exactly."""
        return self._q.sample(sample_shape, self._temperature, generator=generator)

    @property
    def mode(self) -> Int[Tensor, "*batch agents"]:
        """The joint action of the largest value."""
        return self._q.max().assignment

    @property
    def soft_value(self) -> Float[Tensor, "*batch"]:
        """Temperature * log Z: the largest E[Q] + temperature * entropy of all policies, which is this one's."""
        return self._temperature * self._q.log_partition(temperature=self._temperature)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return it in nats: log Z - E[Q] / temperature."""
        log_partition, _ = self._solution
        return log_partition - self.expectation(self._q) / self._temperature

    def marginals(self) -> Float[Tensor, "*batch agents actions"]:
        """Return the probability of every action of every agent, 0 behind an agent's last; of tables for each."""
        _, of_entries = self._solution
        own = {scope[0]: table for scope, table in Factors.from_flat(self._q.graph, of_entries) if len(scope) == 1}
        most = max(self._q.cardinalities)
        return torch.stack([functional.pad(own[a], (0, most - own[a].shape[-1])) for a in sorted(own)], -2)

    def expectation(self, values: Factors, /) -> Float[Tensor, "*batch"]:
        """Return the mean of values on the graph of the policy's own; what is forbidden counts 0."""
        _, marginals = self._solution
        return (marginals * values.flat.where(marginals > 0.0, 0.0)).sum(-1)

    def sharpened(self, sharpness: float) -> "Boltzmann":
        """Return it at a temperature that is so many times lower."""
        return Boltzmann(self._q, self._temperature / sharpness)

    def compiled(self) -> CircuitDistribution:
        """Return it as a circuit, which answers every query.

        Raises:
            NotTractableError: the circuit would be too large.
        """
        return factor_q.compile(self._q, self._temperature)

    @cached_property
    def _solution(self) -> tuple[Tensor, Tensor]:
        """Log Z, and the probability of every entry of every table: the gradient of log Z."""
        flat = self._q.flat.detach() / self._temperature
        with torch.enable_grad():
            flat.requires_grad_()
            log_partition = Factors.from_flat(self._q.graph, flat).log_partition()
            (marginals,) = torch.autograd.grad(log_partition.sum(), flat)
        return log_partition.detach(), marginals


def sharpened(pi: CircuitDistribution | Boltzmann, sharpness: float) -> CircuitDistribution | Boltzmann:
    """Return the policy whose probabilities are these to the power of `sharpness`, normalised.

    In a deterministic circuit a joint action has one way through it, so that stretching all logits is enough.
    """
    if isinstance(pi, Boltzmann):
        return pi.sharpened(sharpness)
    return CircuitDistribution(pi.circuit, pi.logits * sharpness, validate_args=False)


def exact(q: Factors, available: Bool[Tensor, "*batch agents actions"], temperature: float) -> Boltzmann:
    """Return the optimal policy for given action values, without the actions that are not available."""
    return Boltzmann(allow(q, available), temperature)


def natural_gradient(
    circuit: Circuit,
    q: Factors,
    available: Bool[Tensor, "*batch agents actions"],
    temperature: float,
    *,
    steps: int,
) -> CircuitDistribution:
    """Return a policy on the circuit, after so many natural-gradient steps on its exact ELBO in every state.

    They begin at the closed form, in which every weight is right for the tables that the circuit decides.
    """
    found = factor_q.maximize_elbo(
        allow(q, available), circuit, temperature=temperature, starts=("closed_form",), steps=steps
    ).distribution
    return CircuitDistribution(circuit, found.logits.to(q.dtype), validate_args=False)


def require_tractable(graph: FactorGraph) -> None:
    """Raise unless elimination for one state is quick enough to play by.

    Raises:
        ConfigError: the graph is too wide; the message says by how much and what to do.
    """
    largest = largest_table(graph)
    if largest > MOST_ENTRIES:
        raise ConfigError(
            f"solver is 'exact', but elimination of {graph} needs a table of {largest:,} entries, more than "
            f"{MOST_ENTRIES:,}: take fewer pairs (num_pairs, pairs), or solver 'natural_gradient' or 'gradient'."
        )
