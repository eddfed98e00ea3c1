"""Slow and obvious answers by looping over all joint assignments; imports nothing of the package."""

import itertools
import math
import random
from dataclasses import dataclass

import torch

FORBIDDEN = -math.inf


@dataclass
class Instance:
    """A random model: tables[f] has shape (*batch, *cardinalities of scopes[f])."""

    cardinalities: list[int]
    scopes: list[tuple[int, ...]]
    tables: list[torch.Tensor]
    batch_shape: tuple[int, ...]

    @property
    def num_rows(self):
        return math.prod(self.batch_shape)

    def row(self, index):
        """The tables of one batch row as nested lists."""
        arities = [len(scope) for scope in self.scopes]
        batches = [table.ndim - arity for table, arity in zip(self.tables, arities, strict=True)]
        full = [
            table.expand((*self.batch_shape, *table.shape[num_batch:]))
            for table, num_batch in zip(self.tables, batches, strict=True)
        ]
        return [table.reshape(self.num_rows, *table.shape[len(self.batch_shape) :])[index].tolist() for table in full]


def random_instance(seed, forbidden=None, max_variables=6):
    """Variables of 1 to 4 values (mostly 2 or more), scopes of 0 to 4 variables in any order."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    num_variables = rng.randint(1, max_variables)
    cardinalities = [rng.choice([1, 2, 2, 3, 3, 4]) for _ in range(num_variables)]
    scopes, seen = [], set()
    for _ in range(rng.randint(0, 8)):
        scope = tuple(rng.sample(range(num_variables), min(rng.choice([0, 1, 2, 2, 2, 3, 4]), num_variables)))
        if frozenset(scope) not in seen:
            seen.add(frozenset(scope))
            scopes.append(scope)
    batch_shape = rng.choice([(), (3,), (2, 3)]) if scopes else ()
    share_forbidden = rng.choice([0.0, 0.2, 0.5]) if forbidden is None else forbidden
    tables = []
    for i, scope in enumerate(scopes):
        # The first table has the full batch shape, some others rely on broadcasting.
        own_batch = batch_shape if i == 0 or rng.random() < 0.7 else ()
        shape = own_batch + tuple(cardinalities[variable] for variable in scope)
        table = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        blocked = torch.rand(shape, generator=generator) < share_forbidden
        tables.append(table.masked_fill(blocked, FORBIDDEN))
    return Instance(cardinalities, scopes, tables, batch_shape)


def of_at_most(arity, instance):
    """The instance without its factors of more variables, in the batch shape of those that are left."""
    kept = [i for i, scope in enumerate(instance.scopes) if len(scope) <= arity]
    scopes, tables = [instance.scopes[i] for i in kept], [instance.tables[i] for i in kept]
    batches = [tuple(t.shape[: t.ndim - len(scope)]) for scope, t in zip(scopes, tables, strict=True)]
    return Instance(instance.cardinalities, scopes, tables, max(batches, key=len, default=()))


def assignments(cardinalities):
    return itertools.product(*(range(cardinality) for cardinality in cardinalities))


def value(scopes, tables, assignment):
    total = 0.0
    for scope, table in zip(scopes, tables, strict=True):
        entry = table
        for variable in scope:
            entry = entry[assignment[variable]]
        total += entry
    return total


def all_values(cardinalities, scopes, tables):
    return {u: value(scopes, tables, u) for u in assignments(cardinalities)}


def log_sum_exp(values):
    largest = max(values)
    if largest == FORBIDDEN:
        return FORBIDDEN
    return largest + math.log(math.fsum(math.exp(v - largest) for v in values))


def boltzmann(values, temperature):
    """Probability of every assignment; all zero when everything is forbidden."""
    log_z = log_sum_exp([v / temperature for v in values.values()])
    if log_z == FORBIDDEN:
        return dict.fromkeys(values, 0.0)
    return {u: math.exp(v / temperature - log_z) for u, v in values.items()}


def ring_by_transfer(unary, pairs):
    """Log-partition and maximum of a ring; unary[i][a], pairs[i][a][b] for variables i and i + 1 (mod n)."""
    num_values = len(unary[0])
    closed_sum, closed_max = [], []
    for start in range(num_values):
        soft = [unary[0][start] if a == start else FORBIDDEN for a in range(num_values)]
        hard = list(soft)
        for i in range(1, len(unary)):
            soft, hard = (
                [
                    unary[i][b] + combine([message[a] + pairs[i - 1][a][b] for a in range(num_values)])
                    for b in range(num_values)
                ]
                for message, combine in ((soft, log_sum_exp), (hard, max))
            )
        closed_sum.append(log_sum_exp([soft[a] + pairs[-1][a][start] for a in range(num_values)]))
        closed_max.append(max(hard[a] + pairs[-1][a][start] for a in range(num_values)))
    return log_sum_exp(closed_sum), max(closed_max)
