"""Models for the tests of approximations; imports only the types of the package, and answers by enumeration."""

import math
import random

import numpy as np
import torch

from factor_q import FactorGraph, Factors
from tests.factor_q import factor_oracle as oracle

DOUBLE = torch.float64
TEMPERATURES = (1.0, 0.3, 2.5)


def build(instance):
    return Factors(FactorGraph(instance.cardinalities, instance.scopes), instance.tables).to(dtype=DOUBLE)


def truth(instance, temperature=1.0):
    """Log Z and the maximum of every row, by enumeration; shape (rows,)."""
    found = []
    for row in range(instance.num_rows):
        values = oracle.all_values(instance.cardinalities, instance.scopes, instance.row(row)).values()
        found.append((oracle.log_sum_exp([v / temperature for v in values]), max(values)))
    return torch.tensor(found, dtype=DOUBLE).unbind(-1)


def random_tree(seed):
    """A factor tree of 2 to 8 variables, factors of up to three, three rows, sometimes with ties or zeros."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    num_variables = rng.randint(2, 8)
    cardinalities = [rng.choice([1, 2, 3, 4]) for _ in range(num_variables)]
    scopes, placed = [()], [0]
    while len(placed) < num_variables:
        count = min(rng.choice([1, 1, 2]), num_variables - len(placed))
        scope = [rng.choice(placed), *range(len(placed), len(placed) + count)]
        placed += scope[1:]
        rng.shuffle(scope)
        scopes.append(tuple(scope))
    scopes += [(v,) for v in range(num_variables) if rng.random() < 0.5]
    share, round_to_ties = rng.choice([0.0, 0.0, 0.2]), rng.random() < 0.4
    tables = []
    for scope in scopes:
        shape = (3, *(cardinalities[v] for v in scope))
        table = 2 * torch.randn(shape, generator=generator, dtype=DOUBLE)
        table = table.round() if round_to_ties else table
        tables.append(table.masked_fill(torch.rand(shape, generator=generator) < share, -math.inf))
    return oracle.Instance(cardinalities, scopes, tables, (3,))


def ising(rows, strength=1.0, seed=1):
    """Grid without fields, potential w x_i x_j, w uniform, right edge before down edge."""
    scopes = []
    for r in range(rows):
        for c in range(rows):
            scopes += [(r * rows + c, r * rows + c + 1)] * (c + 1 < rows)
            scopes += [(r * rows + c, (r + 1) * rows + c)] * (r + 1 < rows)
    weights = np.random.default_rng(seed).uniform(-strength, strength, len(scopes))
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=DOUBLE)
    return Factors(FactorGraph([2] * rows**2, scopes), [float(w) * signs for w in weights])


def at_most(low, high, slack=1e-9):
    """Whether low <= high + slack; infinities of one sign are equal."""
    return bool((low <= high + slack).all())


def equal(found, expected, slack=1e-10):
    """Whether all differ by at most slack; equal infinities differ by nothing."""
    return bool(((found == expected) | ((found - expected).abs() <= slack)).all())
