"""Gibbs sampling: approximate draws from the Boltzmann distribution of Factors."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import EvidenceError, ImpossibleEvidenceError, NotTractableError, in_batch_rows
from circuits.shapes import check_sample_shape
from factor_q.approximate.conditionals import conditional_plan, feasible_assignment, gibbs_sweep, uniform_values
from factor_q.factors import Factors
from factor_q.temperature import tempered


def gibbs_sample(
    factors: Factors,
    sample_shape: Sequence[int] = (),
    temperature: float | Float[Tensor, "..."] = 1.0,
    *,
    sweeps: int = 100,
    start: Int[Tensor, "*points variables"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*shape variables"]:
    """Draw approximate samples of p(u) proportional to exp(f(u) / temperature).

    Every sample is the last state of its own chain. One sweep redraws every variable from its exact conditional,
    variables that share no factor at once. The distribution tends to p as sweeps grow, but nothing says how fast:
    at low temperature a chain can stay near one mode for ever, and where entries are forbidden it may not be able
    to reach every allowed assignment at all. Draws from an exact engine need none of these warnings.

    Args:
        factors: tables of any arity; -inf entries are forbidden and never drawn.
        sample_shape: how many chains per batch row.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        sweeps: redraws of all variables between the start and the sample.
        start: allowed assignments, broadcast to (*sample_shape, *batch, n). None draws each variable uniformly,
            in rows with forbidden entries all chains start from one allowed assignment that a search finds.
        generator: source of randomness; torch's global generator when None.

    Returns:
        Integers, shape (*sample_shape, *batch, n).

    Raises:
        ImpossibleEvidenceError: a row forbids every assignment.
        NotTractableError: no allowed assignment was found; give one as start.
        EvidenceError: start is forbidden, or sweeps is negative.
    Cost: O(sweeps * samples * entries met per variable), one tensor step per colour and sweep.
    Source: Geman & Geman 1984; Gonzalez et al. 2011 (chromatic sampler).

    Example:
        >>> from factor_q import FactorGraph
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])])
        >>> gibbs_sample(f, (3,)).tolist()
        [[0, 0], [0, 0], [0, 0]]
    """
    if sweeps < 0:
        raise EvidenceError(f"gibbs_sample: sweeps is {sweeps}, but it must be at least 0.")
    with torch.no_grad():
        target = tempered(factors, temperature, "gibbs_sample")
        each = target.batch_shape.numel() * target.graph.num_variables
        shape = (*check_sample_shape(sample_shape, each), *target.batch_shape)
        values = _start(target, shape, generator) if start is None else _checked_start(target, shape, start)
        plans = conditional_plan(factors.graph, factors.device)
        for _ in range(sweeps):
            values = gibbs_sweep(plans, target.flat, values, generator=generator)
    return values


def _checked_start(factors: Factors, shape: tuple[int, ...], start: Tensor) -> Tensor:
    if not bool((factors(start) > -torch.inf).all()):
        raise EvidenceError(
            "gibbs_sample: start has an assignment that the factors forbid; every chain needs an allowed one."
        )
    return start.long().expand(*shape, -1)


def _start(factors: Factors, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Start uniformly where nothing is forbidden, and at one allowed assignment elsewhere."""
    values = uniform_values(factors, shape, generator=generator)
    restricted = (factors.flat == -torch.inf).any(-1)
    if not bool(restricted.any()):
        return values
    assignment, found, exact = feasible_assignment(factors, generator=generator)
    missing = restricted & ~found
    if bool(missing.any()):
        where = in_batch_rows(missing)
        if exact:
            raise ImpossibleEvidenceError(
                f"gibbs_sample: the factors forbid every assignment{where}, so there is nothing to draw; "
                "allow some entries."
            )
        raise NotTractableError(
            f"gibbs_sample: no allowed assignment of the factors was found{where}; give one as start=..."
        )
    return torch.where(restricted.unsqueeze(-1), assignment, values)
