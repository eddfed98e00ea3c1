"""The memory guard: what a query would hold is compared with its limit before anything is made."""

import math

from circuits.errors import NotTractableError
from factor_q.elimination.cutset import find_cutset
from factor_q.elimination.ordering import Order, checked_order, table_size
from factor_q.elimination.plan import amount, sizes
from factor_q.graph import Scope
from factor_q.tables import Tables

DEFAULT_MAX_ENTRIES = 2**26
_HINTED = 2**32
"""Assignments of a cutset from which on an error does not look for one."""


def check_memory(factors: Tables, order: Order, needed: int, max_entries: int, *, kept: Scope = ()) -> None:
    """Raise before memory is taken when a query would hold more table entries than allowed."""
    if needed <= max_entries:
        return
    size, batch = sizes(factors.graph, order, kept), math.prod(factors.batch_shape)
    raise NotTractableError(
        f"exact elimination of {factors.graph} has induced width {size.width}: it would hold "
        f"{amount(needed)} table entries ({amount(needed * factors.dtype.itemsize)} bytes), the "
        f"largest table having {amount(size.largest)} for each of {batch} batch rows; max_entries is "
        f"{amount(max_entries)}.\n"
        "    Use fewer or smaller factors or a smaller batch, or give a better order=... or a larger max_entries=...; "
        f"{_cutset_hint(factors, order, max_entries)}"
        "For bounds of log Z at a size you choose: factor_q.weighted_mini_bucket from above, and from below "
        "factor_q.maximize_elbo on a circuit built with circuits.structures.keep_set(..., labels=...)."
    )


def both_passes(factors: Tables, order: Order) -> int:
    """Return the entries that a pass up and a pass down hold at once."""
    size, batch = sizes(factors.graph, order), math.prod(factors.batch_shape)
    if factors.records_gradients:
        return 4 * size.total * batch
    # Messages up and down live together; of one step the joined table, the belief, and the belief opened.
    return (2 * size.messages + 3 * size.largest) * batch


def _cutset_hint(factors: Tables, order: Order, max_entries: int) -> str:
    """Say how many variables would have to be fixed for the rest to fit."""
    graph, batch = factors.graph, math.prod(factors.batch_shape)
    # In the order at hand: this is a message, and a new order after each variable takes time.
    cutset = find_cutset(graph, max_entries, batch=batch, order=checked_order(graph, order), most=_HINTED)
    ways = "factor_q.log_partition and factor_q.max_assignment with cutset='auto' would "
    if cutset is None:
        return f"{ways}loop over more than {amount(_HINTED)} assignments of a cutset. "
    loops = amount(table_size(graph, cutset))
    return f"{ways}fix about {len(cutset)} variables and loop over their {loops} assignments. " if cutset else ""
