"""Tree-reweighted bound: an upper bound of log Z from exact inference on spanning forests, for pairwise models."""

from typing import NamedTuple, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import NotTractableError, StructureError
from circuits.numerics import logsumexp, posterior
from factor_q.approximate.bounds.forests import Forests, forest_log_partitions, spanning_forests
from factor_q.approximate.bundles import take
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.limits import Limits, Rounds
from factor_q.temperature import tempered

_MESSAGE_SHARE = 0.2
"""Share of the iterations that are message passing, before gradient steps."""
_LOWEST_MESSAGE = -100.0
"""Messages may be any finite numbers, the bound holds for all; this keeps them finite."""
_PATIENCE = 10


class TreeReweighted(NamedTuple):
    """A proven upper bound of log Z."""

    upper_bound: Float[Tensor, "*batch"]
    """At least log Z, in nats; differentiable with respect to the tables and the temperature."""
    marginals: Float[Tensor, "*batch variables values"]
    """Mean of the forests' marginals, 0 beyond the values of a variable: approximate."""
    converged: Bool[Tensor, "*batch"]
    """Whether the value of the last ten iterations moved by no more than the tolerance."""
    steps: int
    """Iterations made."""


class _Pairwise(NamedTuple):
    """The model as one row of log weights per variable and one matrix per edge, padded to the largest cardinality."""

    nodes: Float[Tensor, "*batch variables values"]
    edges: Float[Tensor, "*batch edges values values"]
    constant: Float[Tensor, "*batch"]
    ends: Int[Tensor, "two_edges"]
    """First variable of every edge, then second variable of every edge."""


class _Split(NamedTuple):
    """How the model is split over the forests; every choice gives a bound."""

    shifts: Float[Tensor, "*batch two_edges values"]
    """Amounts moved from each edge to its first variables, then to its second ones."""
    logits: Float[Tensor, "*batch forests"]
    """Unnormalised log weights of the forests."""


def tree_reweighted(
    factors: Factors,
    temperature: float | Float[Tensor, "..."] = 1.0,
    *,
    forests: int = 20,
    learning_rate: float = 0.1,
    **limits: Unpack[Limits],
) -> TreeReweighted:
    """Return an upper bound of log Z: the mean of log Z over spanning forests that together make up the model.

    For forests of weights rho and parameters with sum_F rho_F theta_F = f / T, convexity of log Z gives
    log Z <= sum_F rho_F log Z(theta_F), each term exact by elimination. The sum is held exactly at every iterate, so
    every iterate is a bound. Parameters are improved by tree-reweighted message passing, then by Adam on the
    amounts moved between edges and variables and on the weights; the lowest bound seen is returned.

    Args:
        factors: tables of at most two variables; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        forests: least number of spanning forests; more are taken when some edge would be in none.
        learning_rate: step size of Adam.
        **limits: `steps` (200, the first fifth of them message passing), `seconds`, `tolerance` in nats over ten
            iterations (1e-7), `on_step`; the value reported is the lowest bound.

    Returns:
        The bound, up to rounding, and the marginals of the split that reaches it. On a forest it is log Z.

    Raises:
        NotTractableError: a factor has more than two variables; `weighted_mini_bucket` bounds those.
        StructureError: an argument is out of range.
    Cost: per iteration O(forests * n k^2) per row, one tensor step per level of the deepest forest.
    Source: Wainwright, Jaakkola & Willsky 2005.

    Example:
        >>> from factor_q import ring
        >>> f = Factors(ring([2] * 4, unary=False), [3 * torch.eye(2, dtype=torch.float64)] * 4)
        >>> result = tree_reweighted(f)
        >>> 0.0 < result.upper_bound.item() - f.log_partition().item() < 0.4
        True
    """
    if forests < 1 or not learning_rate > 0:
        raise StructureError(
            f"tree_reweighted: forests is {forests} and learning_rate {learning_rate}; both must be positive."
        )
    rounds = Rounds(limits, steps=200, tolerance=1e-7)
    flat = tempered(factors, temperature, "tree_reweighted").flat
    model, edges = _pairwise(factors.graph, flat)
    chosen = spanning_forests(factors.graph.num_variables, edges, forests, factors.device)
    fixed = _Pairwise(*(tensor.detach() for tensor in model))
    split, converged, steps = _lower(fixed, chosen, learning_rate, rounds)
    with torch.enable_grad():
        nodes = fixed.nodes.clone().requires_grad_()
        value = _bound(fixed._replace(nodes=nodes), chosen, split)
        marginals = torch.autograd.grad(value.sum(), nodes)[0]
    return TreeReweighted(_bound(model, chosen, split), marginals, converged, steps)


def _lower(model: _Pairwise, forests: Forests, learning_rate: float, rounds: Rounds) -> tuple[_Split, Tensor, int]:
    """Return the split of the lowest bound seen, row by row."""
    shape = model.nodes.shape[:-2]
    logits = model.nodes.new_zeros(*shape, len(forests.covers))
    messages = model.nodes.new_zeros(*shape, len(model.ends), model.nodes.shape[-1])
    best = _Best(_Split(messages, logits), model.nodes.new_full(shape, torch.inf))
    passing = int(_MESSAGE_SHARE * rounds.steps)
    weights = forests.covers.to(logits.dtype).mean(0).repeat(2).unsqueeze(-1)
    split = _Split(weights * messages, logits)
    optimizer: torch.optim.Optimizer | None = None
    steps = 0
    for steps in rounds:
        # Messages come close in a few iterations but need not lower the bound; Adam does, slowly. So messages first,
        # and Adam starts from the best split that they passed through.
        if steps <= passing:
            best.offer(split, _bound(model, forests, split))
            messages = _pass(model, messages, weights)
            split = _Split(weights * messages, logits)
        else:
            if optimizer is None:
                best.offer(split, _bound(model, forests, split))
                split = _Split(*(tensor.clone().requires_grad_() for tensor in best.split))
                optimizer = torch.optim.Adam(split, lr=learning_rate)
            with torch.enable_grad():
                value = _bound(model, forests, split)
                optimizer.zero_grad()
                # A row proven impossible has nothing left to lower, and its -inf would drown the other rows.
                torch.where(value > -torch.inf, value, 0.0).sum().backward()
            best.offer(split, value)
            optimizer.step()
        rounds.report(steps, best.value)
        if steps > passing + _PATIENCE and bool(best.is_stable(rounds.tolerance).all()):
            break
    best.offer(split, _bound(model, forests, split))
    return best.split, best.is_stable(rounds.tolerance), steps


class _Best:
    """The lowest bound of each row, its split, and how the bound went down."""

    def __init__(self, split: _Split, value: Tensor) -> None:
        self.split, self.value = split, value
        self._history: list[Tensor] = []

    def offer(self, split: _Split, value: Tensor) -> None:
        """Keep the split in the rows where it is better."""
        value = value.detach()
        better = value < self.value
        # `where` copies, and must: an optimiser changes its parameters in place.
        shifts = torch.where(better[..., None, None], split.shifts.detach(), self.split.shifts)
        logits = torch.where(better.unsqueeze(-1), split.logits.detach(), self.split.logits)
        self.split, self.value = _Split(shifts, logits), torch.minimum(value, self.value)
        self._history = [*self._history[-_PATIENCE:], value]

    def is_stable(self, tolerance: float) -> Bool[Tensor, "*batch"]:
        """Return which rows have had about the same value for a while."""
        if len(self._history) <= _PATIENCE:
            return torch.zeros_like(self.value, dtype=torch.bool)
        recent = torch.stack(self._history)
        low, high = recent.amin(0), recent.amax(0)
        return (high == low) | (high - low <= tolerance)


def _bound(model: _Pairwise, forests: Forests, split: _Split) -> Float[Tensor, "*batch"]:
    """Return sum_F rho_F log Z(theta_F), for any shifts and any weights."""
    num_edges, num_variables = model.edges.shape[-3], model.nodes.shape[-2]
    first, second = split.shifts[..., :num_edges, :], split.shifts[..., num_edges:, :]
    # What a shift takes from an edge it gives to the edge's variable: the sum of all parts stays the model, exactly.
    nodes = model.nodes + split.shifts.new_zeros(
        *split.shifts.shape[:-2], num_variables, split.shifts.shape[-1]
    ).index_add(-2, model.ends, split.shifts)
    rho = posterior(split.logits, logsumexp(split.logits, -1).unsqueeze(-1))
    # An edge is in some forests only. Divided by the weight of those that have it, the weighted sum over forests
    # holds it once; variables are in every forest and need no division.
    appearance = (rho @ forests.covers.to(rho.dtype))[..., None, None]
    blocked = model.edges == -torch.inf
    # A forbidden entry divided by the weight has no finite slope; it stays forbidden whatever the weight.
    moved = model.edges.masked_fill(blocked, 0.0) - first.unsqueeze(-1) - second.unsqueeze(-2)
    edges = (moved / appearance).masked_fill(blocked, -torch.inf)
    values = forest_log_partitions(forests, nodes, torch.cat([edges, edges.transpose(-1, -2)], -3))
    impossible = values == -torch.inf
    total = model.constant + (rho * values.masked_fill(impossible, 0.0)).sum(-1)
    return total.masked_fill(impossible.any(-1), -torch.inf)


def _pass(model: _Pairwise, messages: Tensor, weights: Tensor) -> Tensor:
    """Return the next tree-reweighted messages, log M of every edge to its first, then to its second variables.

    log M_{e -> i} = log sum_{x_j} exp(theta_e / mu_e + b_j - log M_{e -> j}), where the beliefs are
    b_j = theta_j + sum_e mu_e log M_{e -> j}.
    """
    num_edges = model.edges.shape[-3]
    beliefs = model.nodes + torch.zeros_like(model.nodes).index_add(-2, model.ends, weights * messages)
    # Messages are kept above -100, so this difference is never inf - inf, even where values are forbidden.
    rest = beliefs.index_select(-2, model.ends) - messages
    edges = model.edges / weights[:num_edges].unsqueeze(-1)
    to_first = logsumexp(edges + rest[..., num_edges:, :].unsqueeze(-2), -1)
    to_second = logsumexp(edges + rest[..., :num_edges, :].unsqueeze(-1), -2)
    new = torch.cat([to_first, to_second], -2)
    top = new.amax(-1, keepdim=True)
    new = (new - top.masked_fill(top == -torch.inf, 0.0)).clamp(min=_LOWEST_MESSAGE)
    # Undamped, messages on graphs with loops may swing between two points for ever.
    return (messages + new) / 2


def _pairwise(graph: FactorGraph, flat: Tensor) -> tuple[_Pairwise, tuple[tuple[int, ...], ...]]:
    """Gather the tables into padded rows and matrices."""
    large = [scope for scope in graph.scopes if len(scope) > 2]
    if large:
        raise NotTractableError(
            f"tree_reweighted takes factors of at most two variables, but scope {large[0]} has {len(large[0])}; "
            "weighted_mini_bucket gives an upper bound for factors of any size."
        )
    most = max(graph.cardinalities, default=1)
    # Two entries more, 0 and -inf, fill the tables up to one shape: a value that a variable lacks has weight -inf as
    # a node and 0 on its edges: forbidden once is enough, and the messages to it stay finite.
    zero, minus = graph.num_entries, graph.num_entries + 1
    edges = tuple(scope for scope in graph.scopes if len(scope) == 2)
    nodes = np.where(np.arange(most) < np.array(graph.cardinalities, np.int64)[:, None], zero, minus)
    matrices = np.full((len(edges), most, most), zero)
    constants: list[int] = []
    free = iter(matrices)
    for scope, shape, offset, size in zip(
        graph.scopes, graph.table_shapes, graph.offsets, graph.table_sizes, strict=True
    ):
        entries = offset + np.arange(size).reshape(shape)
        if not scope:
            constants.append(offset)
        elif len(scope) == 1:
            nodes[scope[0], : shape[0]] = entries
        else:
            next(free)[: shape[0], : shape[1]] = entries
    extra = torch.tensor([0.0, -torch.inf], dtype=flat.dtype, device=flat.device)
    padded = torch.cat([flat, extra.expand(*flat.shape[:-1], 2)], -1)
    positions = (torch.from_numpy(rows).to(flat.device) for rows in (nodes, matrices.reshape(-1, most * most)))
    rows, tables = (take(padded, own) for own in positions)
    ends = torch.tensor(edges, dtype=torch.long, device=flat.device).reshape(-1, 2).t().flatten()
    return _Pairwise(rows, tables.unflatten(-1, (most, most)), flat[..., constants].sum(-1), ends), edges
