"""Random binary trees of regions (RAT-SPN): expressive mixtures that are not deterministic."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.size import check_size


def random_binary(
    cardinalities: Sequence[int],
    *,
    sums: int = 8,
    depth: int | None = None,
    repetitions: int = 2,
    inputs: int | None = None,
    seed: int = 0,
) -> Circuit:
    """Return a random and tensorised sum-product network.

    Each repetition halves the variables at random, again and again, into a tree of regions. A region that is halved
    no more has `inputs` products of categoricals, any other has `sums` sums over all pairs of its halves' nodes. The
    root is one sum over the pairs of all repetitions.

    Args:
        cardinalities: number of values of each variable.
        sums: sum nodes per region, at least 1.
        depth: how often to halve, 0 or more; None halves down to single variables.
        repetitions: number of region trees, at least 1.
        inputs: products of categoricals per smallest region, at least 1; None takes `sums`.
        seed: of the random halves, 0 or more.

    Returns:
        A circuit that is not deterministic (unless sums, inputs and repetitions are all 1) with, per repetition,
        inputs * (sum of cardinalities above 1) + sum over halved regions of m * c_left * c_right parameters, where m
        is `sums` (1 at the root) and c is the number of a half's nodes: `inputs` where it is halved no more, else
        `sums`. Sums of one child are left out: a region whose halves have one node each has one node.

    Raises:
        StructureError: an option is below its least value, or there would be more than 2^22 parameters or nodes.
    Cost: sums^3 edges per region, linear in the variables.
    Source: Peharz et al. 2019, Random Sum-Product Networks: A Simple and Effective Approach to Probabilistic Deep
        Learning.
    """
    inputs = sums if inputs is None else inputs
    least = {"sums": (sums, 1), "depth": (depth, 0), "repetitions": (repetitions, 1), "inputs": (inputs, 1)}
    for option, (given, lowest) in {**least, "seed": (seed, 0)}.items():
        if given is not None and given < lowest:
            raise StructureError(f"random_binary {option} is {given}; it must be at least {lowest}.")
    builder = CircuitBuilder(cardinalities, name=f"random_binary(sums={sums})")
    count = len(builder.cardinalities)
    depth = count.bit_length() if depth is None else depth
    size = repetitions * _size(builder.cardinalities, depth, sums, inputs)
    check_size("random_binary", size, "take fewer sums, inputs or repetitions")
    rng = np.random.default_rng(seed)
    children: list[int] = []
    for _ in range(repetitions):
        children += _choices(builder, rng.permutation(count).tolist(), depth, sums, inputs)
    return builder.build(children[0] if len(children) == 1 else builder.sum(*children))


def _size(cards: tuple[int, ...], depth: int, sums: int, inputs: int) -> int:
    """Return how many parameters and products a repetition has; it depends on no order."""

    @cache
    def below(count: int, depth: int) -> tuple[int, int]:
        """How many nodes a region chooses from, and what the regions below have."""
        if count == 1 or depth == 0:
            return inputs, 0
        halves = [(half, *below(half, depth - 1)) for half in (count // 2, count - count // 2)]
        is_halved = [half > 1 and depth > 1 for half, _, _ in halves]
        pairs = math.prod(sums if more else inputs for more in is_halved)
        own = sum(sums * choices for more, (_, choices, _) in zip(is_halved, halves, strict=True) if more)
        return pairs, own + sum(size for _, _, size in halves)

    return inputs * sum(cards) + sum(below(len(cards), depth))


def _choices(builder: CircuitBuilder, order: list[int], depth: int, sums: int, inputs: int) -> list[int]:
    """Return what the sums of a region choose from. Halving one random order is halving at random on every level."""
    if len(order) == 1:
        return [builder.input(order[0]) for _ in range(inputs)]
    if depth == 0:
        return [builder.product(*(builder.input(variable) for variable in order)) for _ in range(inputs)]
    middle = len(order) // 2
    left, right = (_region(builder, half, depth - 1, sums, inputs) for half in (order[:middle], order[middle:]))
    return [builder.product(a, b) for a in left for b in right]


def _region(builder: CircuitBuilder, order: list[int], depth: int, sums: int, inputs: int) -> list[int]:
    """Return the nodes of a region that is not the root."""
    choices = _choices(builder, order, depth, sums, inputs)
    if depth == 0 or len(order) == 1 or len(choices) == 1:
        return choices
    return [builder.sum(*choices) for _ in range(sums)]
