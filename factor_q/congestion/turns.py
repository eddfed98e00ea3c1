"""Agents take turns to improve their policies: in machine code where it was built, the same numbers to rounding."""

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine import native
from circuits.numerics import exponentials

_library = native.load("factor_q.congestion._turns", "take_turns")


class _Task(ctypes.Structure):
    """The struct of this name in turns.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "agents", "actions", "shown", "count", "rank", "sweeps")),
        *((name, ctypes.c_void_p) for name in ("own", "rivalry", "things", "temperatures", "chosen", "met")),
    )


def take_turns(
    own: Float[Tensor, "*batch agents actions"],
    rivalry: Float[Tensor, "*batch agents shown rank"],
    things: Int[Tensor, "*batch agents shown"] | None,
    chosen: Float[Tensor, "*batch agents actions"],
    met: Float[Tensor, "*batch things rank"],
    temperatures: Sequence[float],
) -> Float[Tensor, "*batch agents actions"]:
    """Let every agent in turn take softmax((own - what it meets) / temperature), once for every temperature.

    Args:
        own: what every agent's choice is worth alone; -inf where it is forbidden.
        rivalry: what two agents take from each other at a thing is the product of these.
        things: which thing each one is; None where all agents are shown all things in one order.
        chosen: probabilities at the start.
        met: sum over all agents of probability times rivalry, of these.
        temperatures: of each sweep, above 0.

    Returns:
        The probabilities at the end.
    """
    # What the others change on the way: the caller's stays as it was.
    own, rivalry, met = own.contiguous(), rivalry.contiguous(), met.clone(memory_format=torch.contiguous_format)
    chosen = chosen.clone(memory_format=torch.contiguous_format)
    things = None if things is None else things.contiguous()
    way = _by_machine if native.applies_to(own, rivalry, met, chosen, library=_library) else _by_tensors
    way(own, rivalry, things, chosen, met, temperatures)
    return chosen


def _by_tensors(
    own: Tensor, rivalry: Tensor, things: Tensor | None, chosen: Tensor, met: Tensor, temperatures: Sequence[float]
) -> None:
    shown, rank = rivalry.shape[-2:]
    weighted = chosen[..., :shown, None] * rivalry
    for temperature in temperatures:
        for agent in range(own.shape[-2]):
            mine, before = rivalry[..., agent, :, :], weighted[..., agent, :, :]
            place = None if things is None else things[..., agent, :, None].expand(*mine.shape[:-1], rank)
            others = (met if place is None else met.gather(-2, place)) - before
            score = own[..., agent, :].clone()
            score[..., :shown] -= (mine * others).sum(-1)
            score /= temperature
            chosen[..., agent, :] = score.div_(exponentials(score, -1).unsqueeze(-1))
            after = chosen[..., agent, :shown, None] * mine
            if place is None:
                met += after - before
            else:
                met.scatter_add_(-2, place, after - before)
            weighted[..., agent, :, :] = after


def _by_machine(
    own: Tensor, rivalry: Tensor, things: Tensor | None, chosen: Tensor, met: Tensor, temperatures: Sequence[float]
) -> None:
    assert _library is not None
    agents, actions = own.shape[-2:]
    shown, rank = rivalry.shape[-2:]
    sizes = (own[..., 0, 0].numel(), agents, actions, shown, met.shape[-2], rank, len(temperatures))
    at = (ctypes.c_double * len(temperatures))(*temperatures)
    pointers = [None if x is None else x.data_ptr() for x in (own, rivalry, things)]
    task = _Task(*sizes, *pointers, ctypes.addressof(at), chosen.data_ptr(), met.data_ptr())
    _library.take_turns(ctypes.byref(task))
