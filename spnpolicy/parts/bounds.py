"""Exact bounds: the ELBO of a critic's tables under a circuit's policy, in one pass where the circuit decides them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits import Circuit, CircuitDistribution
from factor_q import FactorGraph, Factors
from factor_q.congestion import Congestion
from spnpolicy.networks.potentials import TableLogits


class ExactBound(nn.Module):
    """E_pi[Q] + temperature * H(pi) for policies on one circuit and action values on one graph.

    Tables that edges decide are what these edges earn; of the others the expectation needs joint tables of their own.

    Args:
        circuit: a deterministic circuit.
        graph: scopes of the action values.
    """

    entries: Tensor

    def __init__(self, circuit: Circuit, graph: FactorGraph) -> None:
        super().__init__()
        self.scores = TableLogits(circuit, graph)
        held = {(), *self.scores.scopes}
        left = [factor for factor, scope in enumerate(graph.scopes) if scope not in held]
        self._constant = graph.offsets[graph.scopes.index(())] if () in graph.scopes else None
        self._rest = FactorGraph(graph.cardinalities, [graph.scopes[factor] for factor in left])
        positions = [torch.arange(graph.offsets[i], graph.offsets[i] + graph.table_sizes[i]) for i in left]
        entries = torch.cat([torch.zeros(0, dtype=torch.long), *positions])
        self.register_buffer("entries", entries, persistent=False)

    def forward(self, pi: CircuitDistribution, q: Factors | Congestion, temperature: float) -> Float[Tensor, "*batch"]:
        """Return the ELBO of every row, differentiable once.

        With `Congestion` the circuit must be one of independent agents, which is not checked here.

        Raises:
            NotTractableError: the circuit is not deterministic.
        """
        if isinstance(q, Congestion):
            return self(pi, q.own, temperature) - q.of_pairs(pi.marginals())
        if self.entries.device != q.device:
            self.to(q.device)
        flat, batch = q.flat, q.batch_shape
        scores = self.scores(flat.reshape(-1, flat.shape[-1])).unflatten(1, batch) if batch else self._single(flat)
        bound = pi.expected_score(scores, temperature)
        if self._constant is not None:
            bound = bound + flat[..., self._constant]
        if not len(self.entries):
            return bound
        return bound + pi.expectation(Factors.from_flat(self._rest, flat.index_select(-1, self.entries)))

    def _single(self, flat: Tensor) -> Tensor:
        return self.scores(flat.unsqueeze(0)).squeeze(1)
