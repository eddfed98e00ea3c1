"""Selective circuits of Shih and Ermon: halves merged in all pairs, the pairs grouped into few copies."""

from collections.abc import Sequence

import numpy as np

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.size import check_size


def selective(cardinalities: Sequence[int], *, copies: int = 8, seed: int | None = 0) -> Circuit:
    """Return the deterministic circuit of Shih and Ermon, for any cardinalities and without padding.

    A block of variables carries nodes of disjoint support that together allow every value: one per value for a single
    variable, all pairs of two halves for a larger block. Where these are more than `copies`, neighbours are summed
    into `copies` nodes. The tree is the balanced binary tree over the next power of two, cut down to the variables.
    The label of a block is then decided by its first variables, so the order matters; `keep_set` chooses better labels.

    Args:
        cardinalities: number of values of each variable.
        copies: most nodes per block, at least 1; 1 is mean field.
        seed: the order of the variables is shuffled by this number (0 or more); None keeps the given order.

    Returns:
        A circuit with sum over blocks of max(0, min(p, 2 * (p - c))) parameters, where p counts the block's values
        (one variable) or pairs (p = copies left * copies right), c = `copies` (1 for the block of all variables), and
        a block passes min(p, c) nodes on.

    Raises:
        StructureError: copies below 1, a negative seed, or more than 2^22 pairs.
    Cost: at most copies^2 edges per variable.
    Source: Shih and Ermon 2020, Probabilistic Circuits for Variational Inference in Discrete Graphical Models; sums
        of groups as equal as possible stand in for their powers of two.
    """
    if copies < 1:
        raise StructureError(f"selective copies is {copies}; it must be at least 1.")
    if seed is not None and seed < 0:
        raise StructureError(f"selective seed is {seed}; it must be 0 or more, or None to keep the given order.")
    builder = CircuitBuilder(cardinalities, name=f"selective(copies={copies})")
    order = list(range(len(builder.cardinalities)))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(order)).tolist()
    check_size(
        "selective", _size([builder.cardinalities[variable] for variable in order], copies)[1], "take fewer copies"
    )
    (root,) = _block(builder, order, copies, 1)
    return builder.build(root)


def _size(cards: Sequence[int], copies: int) -> tuple[int, int]:
    """Return how many nodes a block passes on, and how many values and pairs there are in it."""
    if len(cards) == 1:
        return min(copies, cards[0]), cards[0]
    middle = 1 << (len(cards) - 1).bit_length() - 1
    (left, a), (right, b) = _size(cards[:middle], copies), _size(cards[middle:], copies)
    return min(copies, left * right), a + b + left * right


def _block(builder: CircuitBuilder, order: Sequence[int], copies: int, most: int) -> list[int]:
    """Return at most `most` nodes over the variables in `order`; blocks below have at most `copies`."""
    if len(order) == 1:
        return [builder.input(order[0], values) for values in _groups(range(builder.cardinalities[order[0]]), most)]
    # The largest power of two below the length: 5 variables are 4 and 1, as if 3 more had been padded and dropped.
    middle = 1 << (len(order) - 1).bit_length() - 1
    left = _block(builder, order[:middle], copies, copies)
    right = _block(builder, order[middle:], copies, copies)
    pairs = [builder.product(a, b) for a in left for b in right]
    return [group[0] if len(group) == 1 else builder.sum(*group) for group in _groups(pairs, most)]


def _groups(items: Sequence[int], most: int) -> list[Sequence[int]]:
    """Cut items into `most` runs of neighbours, as equal as possible; one item each when there are fewer."""
    count = min(most, len(items))
    cuts = [i * len(items) // count for i in range(count + 1)]
    return [items[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
