"""Starting points of the variational search."""

from collections.abc import Callable

import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit
from circuits.engine.passes import log_up, normalize
from circuits.errors import NotTractableError
from circuits.numerics import NEGATIVE_INFINITY
from factor_q.approximate.mean_field.mean_field import mean_field
from factor_q.approximate.messages.max_plus import max_plus
from factor_q.elimination.plan import sizes
from factor_q.factors import Factors
from factor_q.queries.maximum import max_assignment
from factor_q.variational.terms import row_values, terms_of

Start = Callable[[CompiledCircuit, Factors, torch.Generator | None], Tensor]
"""(circuit, factors at temperature 1, generator) -> logits (parameters, *batch)."""


def closed_form(compiled: CompiledCircuit, factors: Factors, generator: torch.Generator | None = None) -> Tensor:
    """Return the weights of a soft Bellman backup; the optimum itself where the labels separate every region.

    Where labels forget something, each region is optimised without regard to what is outside of it.
    """
    terms = terms_of(factors)
    logits = terms.finite.new_zeros((compiled.num_parameters, *factors.batch_shape))
    for _ in compiled.sum_layers:
        _, weights = normalize(compiled, logits)
        new = _reachable(compiled, row_values(compiled, terms, weights))
        if torch.equal(new, logits):
            break
        logits = new
    return logits


def from_mean_field(compiled: CompiledCircuit, factors: Factors, generator: torch.Generator | None = None) -> Tensor:
    """Return the best factorised distribution found by coordinate ascent, written in the circuit's weights."""
    marginals = mean_field(factors, restarts=_RESTARTS, steps=_SWEEPS, generator=generator).marginals
    return from_marginals(compiled, marginals)


def from_mode(compiled: CompiledCircuit, factors: Factors, generator: torch.Generator | None = None) -> Tensor:
    """Return the factorised distribution around the best assignment: exact, or of max-plus where that is too costly.

    Where a few assignments hold most of the mass, random starts rarely find them.
    """
    try:
        if sizes(factors.graph, None).total * factors.batch_shape.numel() > _MOST_ENTRIES:
            raise NotTractableError("too slow")
        _, values = max_assignment(factors)
    except NotTractableError:
        values = max_plus(factors, steps=_MAX_PLUS_STEPS, generator=generator).assignment
    point = factors.flat.new_zeros(*factors.batch_shape, len(factors.cardinalities), max(factors.cardinalities))
    point.scatter_(-1, values.unsqueeze(-1), 1.0)
    marginals = mean_field(factors, restarts=1, start=point, steps=_SWEEPS, generator=generator).marginals
    return from_marginals(compiled, marginals)


def from_marginals(compiled: CompiledCircuit, marginals: Tensor) -> Tensor:
    """Return the logits of the product of given marginals (*batch, variables, k_max).

    Every circuit of full support that counts each joint value once holds every factorised distribution: with weights
    of one a node's value under the evidence log p is the mass below it.
    """
    values = compiled.padded_values.take(marginals.flatten(-2).movedim(-1, 0))
    ones = values.new_zeros((compiled.num_parameters, *values.shape[1:]))
    return _reachable(compiled, log_up(compiled, ones, values.log()))


def random(compiled: CompiledCircuit, factors: Factors, generator: torch.Generator | None = None) -> Tensor:
    """Return standard normal logits."""
    shape = (compiled.num_parameters, *factors.batch_shape)
    return torch.randn(shape, generator=generator, dtype=factors.dtype).to(factors.device)


def _reachable(compiled: CompiledCircuit, values: Tensor) -> Tensor:
    """Return the children's values as logits, zeros at sums that are worth nothing: no number is right there."""
    possible = compiled.edge_sum.take(values) > NEGATIVE_INFINITY
    return compiled.edge_child.take(values).masked_fill(~possible, 0.0)


_RESTARTS = 20
_SWEEPS = 200
_MAX_PLUS_STEPS = 50
_MOST_ENTRIES = 2**28
"""Of all joined tables, about a second's work."""

STARTS: dict[str, Start] = {
    "closed_form": closed_form,
    "mode": from_mode,
    "mean_field": from_mean_field,
    "random": random,
}
"""All starts by name. `random` is annealed: its energy grows from a tenth to all of it during the first steps."""
