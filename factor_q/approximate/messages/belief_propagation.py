"""Loopy belief propagation: approximate marginals, and the Bethe estimate of log Z, which is not a bound."""

from typing import NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import StructureError
from circuits.numerics import logsumexp, posterior
from factor_q.approximate.messages.factor_messages import (
    MessageGraph,
    joined,
    message_graph,
    normalized,
    pass_messages,
    rows_of,
    total_and_rest,
)
from factor_q.factors import Factors
from factor_q.limits import Limits, Rounds
from factor_q.temperature import tempered


class BeliefPropagation(NamedTuple):
    """Beliefs at the last iteration. Exact on trees; elsewhere an estimate without any guarantee."""

    log_partition_estimate: Float[Tensor, "*batch"]
    """Bethe estimate of log Z in nats: above or below the truth."""
    marginals: Float[Tensor, "*batch variables values"]
    """Beliefs of each variable, 0 beyond its values; all 0 where messages proved a row impossible."""
    factor_marginals: Float[Tensor, "*batch entries"]
    """Beliefs of each table, laid end to end as `Factors.flat`."""
    converged: Bool[Tensor, "*batch"]
    """Whether the last iteration changed no message by more than the tolerance."""
    steps: int
    """Iterations made."""


def loopy_belief_propagation(
    factors: Factors,
    temperature: float | Float[Tensor, "..."] = 1.0,
    *,
    damping: float = 0.5,
    **limits: Unpack[Limits],
) -> BeliefPropagation:
    """Pass sum-product messages until they stop changing, all of them at once in every iteration.

    m_{f->i}(x) = sum over the other variables of exp(f / T) times their messages to f; the message of a variable to
    f is the product of what its other factors say. On a tree the result is exact. On graphs with loops it may be
    far off, may not converge (look at `converged`), and its log Z is neither a lower nor an upper bound; for bounds
    see `mean_field`, `tree_reweighted` and `weighted_mini_bucket`.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        damping: share of the old message kept in each log message, in [0, 1); 0 is fastest on trees.
        **limits: `steps` (200), `seconds`, `tolerance` in nats per message (1e-9), `on_step`; the value reported
            is the largest change of a message.

    Returns:
        Beliefs and the Bethe estimate. A row whose messages contradict each other has no allowed assignment: its
        estimate is -inf, which then is exact.

    Raises:
        StructureError: an argument is out of range.
    Cost: O(entries * arity) per iteration and row.
    Source: Kschischang, Frey & Loeliger 2001; Yedidia, Freeman & Weiss 2005.

    Example:
        >>> from factor_q import FactorGraph
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.eye(2)])
        >>> bool((loopy_belief_propagation(f).log_partition_estimate - f.log_partition()).abs() < 1e-5)
        True
    """
    if not 0 <= damping < 1:
        raise StructureError(f"loopy_belief_propagation: damping is {damping}, but it must lie in [0, 1).")
    rounds = Rounds(limits, steps=200)
    with torch.no_grad():
        flat = tempered(factors, temperature, "loopy_belief_propagation").flat
        layout = message_graph(factors.graph, factors.device)
        start = normalized(layout, flat.new_zeros(*flat.shape[:-1], layout.size), logsumexp)
        messages, converged, steps = pass_messages(
            layout, flat, start, logsumexp, damping, rounds, lambda _, residual: residual
        )
        return _read_off(factors, layout, flat, messages, converged, steps)


def _read_off(
    factors: Factors, layout: MessageGraph, flat: Tensor, messages: Tensor, converged: Tensor, steps: int
) -> BeliefPropagation:
    """Compute beliefs and the Bethe value: factors plus variables minus meetings, each a local log sum."""
    # A variable is counted in its own term and in that of every factor it meets: each meeting is taken off once.
    beliefs, rest = total_and_rest(layout, messages)
    rows = rows_of(beliefs, layout.values)
    log_variables = logsumexp(rows, -1) if layout.num_values else flat.new_zeros(*flat.shape[:-1], 0)
    constants = [o for o, scope in zip(factors.graph.offsets, factors.graph.scopes, strict=True) if not scope]
    total = flat[..., constants].sum(-1) + log_variables.sum(-1)
    factor_marginals = flat.new_zeros(flat.shape)
    factor_marginals[..., constants] = 1.0
    for bundle in layout.factors:
        joint = joined(bundle, bundle.tables(flat), rest, with_target=True)
        joint = joint.flatten(flat.ndim)
        log_z = logsumexp(joint, -1)
        total = total + log_z.sum(-1)
        found = posterior(joint, log_z.unsqueeze(-1))
        factor_marginals[..., bundle.entries.flatten()] = found.flatten(-2)
    if layout.size:
        meetings = logsumexp(rows_of(messages + rest, layout.meetings), -1)
        impossible = (meetings == -torch.inf).any(-1) | (log_variables == -torch.inf).any(-1)
        total = (total - meetings.masked_fill(meetings == -torch.inf, 0.0).sum(-1)).masked_fill(impossible, -torch.inf)
    marginals = posterior(rows, log_variables.unsqueeze(-1))
    return BeliefPropagation(total, marginals, factor_marginals, converged, steps)
