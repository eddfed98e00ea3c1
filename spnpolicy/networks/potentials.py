"""Potentials: tables of agents and pairs as the logits of a circuit, each edge the sum of what it decides."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from circuits import Circuit, CircuitDistribution
from factor_q import FactorGraph, FactorQ, Factors
from factor_q.choices import Codes


class TableLogits(nn.Module):
    """Logits from tables: the circuit's distribution is then exp(sum of tables), of the scopes that it decides.

    An edge decides a scope if its child fixes the values of all of the scope's agents and its sum does not yet; the
    entry for these values is then added to the edge's logit. Where edges decide every scope, the distribution is the
    Boltzmann distribution of the tables, exactly; scopes that no edge decides, and constants, have no influence.

    Args:
        circuit: a deterministic circuit.
        graph: the scopes.
    """

    by_edge: Tensor
    edge_starts: Tensor
    by_entry: Tensor
    entry_starts: Tensor

    def __init__(self, circuit: Circuit, graph: FactorGraph) -> None:
        super().__init__()
        decided = _decided_entries(circuit, [scope for scope in graph.scopes if scope])
        self.scopes = tuple(scope for scope in graph.scopes if scope in decided)
        """Those that have an influence."""
        offsets = dict(zip(graph.scopes, graph.offsets, strict=True))
        none = np.zeros(0, np.int64)
        edges = np.concatenate([none, *(decided[scope][0] for scope in self.scopes)])
        entries = np.concatenate([none, *(offsets[scope] + decided[scope][1] for scope in self.scopes)])
        lists = (*_grouped(entries, edges, circuit.num_parameters), *_grouped(edges, entries, graph.num_entries))
        for name, numbers in zip(("by_edge", "edge_starts", "by_entry", "entry_starts"), lists, strict=True):
            self.register_buffer(name, torch.from_numpy(numbers), persistent=False)

    def forward(self, flat: Float[Tensor, "batch entries"]) -> Float[Tensor, "parameters batch"]:
        """Return the logits, stored parameters first, as the passes want them."""
        lists = self.by_edge, self.edge_starts, self.by_entry, self.entry_starts
        return cast(Tensor, _SumOfRows.apply(flat.t().contiguous(), *lists))


class _SumOfRows(torch.autograd.Function):
    """Sums of rows of a matrix, by lists of rows; and its gradient by the lists that lead back.

    An edge decides about ten entries. Gathered first, these are ten times the logits, and as many again backwards.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, members: Tensor, starts: Tensor, back: Tensor, back_starts: Tensor) -> Tensor:
        """Return the sum of the rows in every list; 0 for an empty one."""
        ctx.save_for_backward(back, back_starts)
        return functional.embedding_bag(members, rows, starts, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return what every row was worth to the sums that it is part of."""
        return functional.embedding_bag(ctx.saved_tensors[0], grad.contiguous(), ctx.saved_tensors[1], mode="sum"), *(
            None for _ in range(4)
        )


def _grouped(
    members: Int[np.ndarray, " links"], groups: Int[np.ndarray, " links"], count: int
) -> tuple[Int[np.ndarray, " links"], Int[np.ndarray, " groups"]]:
    """Return the members of all groups, one group after the other, and where each begins."""
    sizes = np.bincount(groups, minlength=count)
    return members[np.argsort(groups, kind="stable")], np.concatenate([[0], np.cumsum(sizes)[:-1]])


class ResidualPolicy(nn.Module):
    """A policy close to the Boltzmann policy of a critic's tables: a network adds to them before they become logits.

    Logits are tables / temperature + correction, of the scopes that the circuit decides. The correction begins at 0:
    where the circuit decides every scope, the policy is the optimal one from the start; elsewhere the correction makes
    up for what the circuit leaves out. It is in nats: in units of the tables a step of learning would move logits the
    further the lower the temperature, and a cold policy would become certain of something at random.

    Args:
        circuit: a deterministic circuit.
        graph: scopes of the critic's tables.
        options: of `FactorQ`, for the network of the corrections.
    """

    def __init__(self, circuit: Circuit, graph: FactorGraph, **options: Any) -> None:
        super().__init__()
        own = self._read(circuit, graph)
        self.correction = FactorQ(own, output_scale=0.0, **options)

    def _read(self, circuit: Circuit, graph: FactorGraph) -> FactorGraph:
        """Take a circuit and the critic's scopes; return those scopes that the circuit decides."""
        self.circuit = circuit
        self.base = TableLogits(circuit, graph)
        own = FactorGraph(circuit.cardinalities, self.base.scopes)
        self.added = TableLogits(circuit, own)
        return own

    def retarget(self, circuit: Circuit, graph: FactorGraph) -> None:
        """Give policies on another circuit, of other agents for example, with the same weights."""
        device = self.base.by_edge.device
        self.correction.retarget(self._read(circuit, graph))
        self.base.to(device)
        self.added.to(device)

    def forward(self, tables: Factors, temperature: float, *seen: Tensor | Codes) -> CircuitDistribution:
        """Return the policy at these tables, into which no gradient flows.

        Args:
            tables: the critic's, batch shape (*batch).
            temperature: above 0.
            seen: what the network sees: observations, and further inputs of its encoder.
        """
        values, correction = tables.flat.detach() / temperature, self.correction(*seen).flat
        logits = self.base(values.reshape(-1, values.shape[-1])) + self.added(
            correction.reshape(-1, correction.shape[-1])
        )
        shaped = logits.t().reshape(*tables.batch_shape, -1)
        return CircuitDistribution(self.circuit, shaped, validate_args=False)


def _decided_entries(
    circuit: Circuit, scopes: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]:
    """Return, per scope, which edges decide it and for which entry of its table.

    An edge decides a scope if its child fixes the values of all of the scope's agents and its sum does not yet.
    Scopes that no edge decides are left out.
    """
    compiled = circuit.compiled
    fixed: list[dict[int, int]] = [
        {variable: value} for variable, k in enumerate(compiled.cardinalities) for value in range(k)
    ]
    for row in range(compiled.num_values, compiled.num_rows):
        children = compiled.children[row]
        if compiled.is_sum[row]:
            first, *others = (fixed[child] for child in children)
            fixed.append({v: a for v, a in first.items() if all(other.get(v) == a for other in others)})
        else:
            fixed.append({v: a for child in children for v, a in fixed[child].items()})
    found: dict[tuple[int, ...], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    pairs = zip(compiled.edge_sum.positions.tolist(), compiled.edge_child.positions.tolist(), strict=True)
    members: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for scope in scopes:
        members[scope[0]].append(scope)
    for edge, (parent, child) in enumerate(pairs):
        for first in fixed[child]:
            for scope in members[first]:
                if all(v in fixed[child] for v in scope) and not all(v in fixed[parent] for v in scope):
                    entry = 0
                    for variable in scope:
                        entry = entry * compiled.cardinalities[variable] + fixed[child][variable]
                    found[scope][0].append(edge)
                    found[scope][1].append(entry)
    return {scope: (np.array(edges), np.array(entries)) for scope, (edges, entries) in found.items()}
