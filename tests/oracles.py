"""Slow and obvious answers by enumeration. Nothing here imports the packages under test.

A circuit comes in as plain data: `nodes` is a list, children first, root last, of

    ("input", variable, (value, ...))    ("product", (child, ...))    ("sum", (child, ...))

and `logits[node]` is an array (*batch, options) for nodes with a choice. Joint tables have shape (*batch, k_0, ...).
"""

from fractions import Fraction
from itertools import product as assignments
from math import log, prod

import numpy as np

Node = tuple
Logits = dict[int, np.ndarray]
Weights = dict[int, np.ndarray]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def value(nodes: list[Node], weights: Weights, assignment: tuple[int, ...]) -> np.ndarray:
    """The probability of an assignment, shape (*batch), by plain recursion from the root."""
    known: dict[int, np.ndarray] = {}

    def of(node: int) -> np.ndarray:
        if node not in known:
            known[node] = compute(*nodes[node], weights.get(node))
        return known[node]

    def compute(kind: str, *rest) -> np.ndarray:
        if kind == "product":
            return prod((of(child) for child in rest[0]), start=np.float64(1.0))
        if kind == "sum":
            children, own = rest
            return sum(own[..., i] * of(child) for i, child in enumerate(children))
        variable, values, own = rest
        if assignment[variable] not in values:
            return np.float64(0.0)
        return np.float64(1.0) if len(values) == 1 else own[..., values.index(assignment[variable])]

    return of(len(nodes) - 1)


def joint_table(cards: tuple[int, ...], nodes: list[Node], logits: Logits, batch: tuple[int, ...]) -> np.ndarray:
    """The probability of every assignment, shape (*batch, *cards)."""
    weights = {node: probabilities(numbers) for node, numbers in logits.items()}
    table = np.zeros((*batch, *cards))
    for assignment in assignments(*map(range, cards)):
        table[(..., *assignment)] = value(nodes, weights, assignment)
    return table


def joint_table_of_fractions(cards: tuple[int, ...], nodes: list[Node], weights: dict[int, list[int]]) -> dict:
    """The joint table in exact arithmetic, for unnormalised integer weights: {assignment: Fraction}."""

    def of(node: int, assignment: tuple[int, ...]) -> Fraction:
        kind, *rest = nodes[node]
        if kind == "product":
            return prod((of(child, assignment) for child in rest[0]), start=Fraction(1))
        if kind == "sum":
            shares = [Fraction(w, sum(weights[node])) for w in weights[node]]
            return sum((s * of(child, assignment) for s, child in zip(shares, rest[0], strict=True)), Fraction(0))
        variable, values = rest
        if assignment[variable] not in values:
            return Fraction(0)
        return (
            Fraction(1)
            if len(values) == 1
            else Fraction(weights[node][values.index(assignment[variable])], sum(weights[node]))
        )

    return {x: of(len(nodes) - 1, x) for x in assignments(*map(range, cards))}


def supports(cards: tuple[int, ...], nodes: list[Node]) -> list[set[tuple[int, ...]]]:
    """For each node the complete assignments on which it is not zero when every weight is positive."""
    everything = list(assignments(*map(range, cards)))
    found: list[set[tuple[int, ...]]] = []
    for kind, *rest in nodes:
        if kind == "input":
            found.append({x for x in everything if x[rest[0]] in rest[1]})
        elif kind == "product":
            found.append(set.intersection(*(found[child] for child in rest[0])))
        else:
            found.append(set.union(*(found[child] for child in rest[0])))
    return found


def overlapping_sums(cards: tuple[int, ...], nodes: list[Node]) -> set[int]:
    """The sums that some assignment reaches through two children."""
    support = supports(cards, nodes)
    return {
        index
        for index, (kind, *rest) in enumerate(nodes)
        if kind == "sum" and sum(len(support[child]) for child in rest[0]) > len(support[index])
    }


def scopes(nodes: list[Node]) -> list[frozenset[int]]:
    found: list[frozenset[int]] = []
    for kind, *rest in nodes:
        found.append(
            frozenset([rest[0]]) if kind == "input" else frozenset().union(*(found[child] for child in rest[0]))
        )
    return found


def is_structured(nodes: list[Node]) -> bool:
    """Whether products of two or more children split each scope in one way."""
    scope = scopes(nodes)
    splits: dict[frozenset[int], set] = {}
    for index, (kind, *rest) in enumerate(nodes):
        if kind == "product" and len(rest[0]) > 1:
            splits.setdefault(scope[index], set()).add(frozenset(scope[child] for child in rest[0]))
    return all(len(ways) == 1 for ways in splits.values())


def fit(cards: tuple[int, ...], nodes: list[Node], joint: np.ndarray) -> Logits:
    """Logits of the closest member of a deterministic circuit's family to one joint table, by counting.

    Every assignment walks down from the root along the only child that allows it and adds its probability there.
    """
    support = supports(cards, nodes)
    counts: dict[int, np.ndarray] = {}
    for index, (kind, *rest) in enumerate(nodes):
        if kind == "sum":
            counts[index] = np.zeros(len(rest[0]))
        elif kind == "input" and len(rest[1]) > 1:
            counts[index] = np.zeros(len(rest[1]))
    for assignment in assignments(*map(range, cards)):
        stack = [len(nodes) - 1]
        while stack:
            index = stack.pop()
            kind, *rest = nodes[index]
            if kind == "product":
                stack += rest[0]
            elif kind == "sum":
                (choice,) = [i for i, child in enumerate(rest[0]) if assignment in support[child]]
                counts[index][choice] += joint[assignment]
                stack.append(rest[0][choice])
            elif len(rest[1]) > 1:
                counts[index][rest[1].index(assignment[rest[0]])] += joint[assignment]
    with np.errstate(divide="ignore"):
        return {index: np.log(count) for index, count in counts.items()}


def axes(joint: np.ndarray, n: int) -> tuple[int, ...]:
    return tuple(range(joint.ndim - n, joint.ndim))


def marginal(joint: np.ndarray, n: int, variables: tuple[int, ...]) -> np.ndarray:
    """The joint table of some variables, axes in their order."""
    first = joint.ndim - n
    summed = joint.sum(tuple(first + v for v in range(n) if v not in variables))
    kept = sorted(variables)
    return np.moveaxis(summed, [first + kept.index(v) for v in variables], range(first, first + len(variables)))


def marginals(joint: np.ndarray, n: int) -> np.ndarray:
    """(*batch, n, k_max), zero beyond a variable's own values."""
    cards = joint.shape[joint.ndim - n :]
    result = np.zeros((*joint.shape[: joint.ndim - n], n, max(cards)))
    for v in range(n):
        result[..., v, : cards[v]] = marginal(joint, n, (v,))
    return result


def evidence_table(log_weights: np.ndarray, cards: tuple[int, ...]) -> np.ndarray:
    """exp of the sum of log weights for every assignment; (*batch, n, k_max) -> (*batch, *cards)."""
    table = np.zeros((*log_weights.shape[:-2], *cards))
    for assignment in assignments(*map(range, cards)):
        weight = np.ones(log_weights.shape[:-2])
        for variable, chosen in enumerate(assignment):
            weight = weight * np.exp(log_weights[..., variable, chosen])
        table[(..., *assignment)] = weight
    return table


def condition(joint: np.ndarray, weights: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The conditional table and the log probability of the evidence; impossible rows give nan and -inf."""
    product = joint * weights
    total = product.sum(axes(product, n))
    with np.errstate(divide="ignore", invalid="ignore"):
        return product / total.reshape(*total.shape, *(1,) * n), np.log(total)


def entropy(joint: np.ndarray, n: int) -> np.ndarray:
    safe = np.where(joint > 0, joint, 1.0)
    return -(joint * np.log(safe)).sum(axes(joint, n))


def total_correlation(joint: np.ndarray, n: int) -> np.ndarray:
    return sum(entropy(marginal(joint, n, (v,)), 1) for v in range(n)) - entropy(joint, n)


def mutual_information(joint: np.ndarray, n: int, first: range, second: range) -> np.ndarray:
    alone = sum(entropy(marginal(joint, n, tuple(group)), len(group)) for group in (first, second))
    return alone - entropy(joint, n)


def kl(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    first, second = np.broadcast_arrays(first, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(first > 0, first * (np.log(first) - np.log(second)), 0.0)
    return terms.sum(axes(first, n))


def conditionals(joint: np.ndarray, n: int, values: np.ndarray) -> np.ndarray:
    """P(u_i = x | u_-i) at values (samples, *batch, n), by one look into the table per entry; nan where undefined."""
    cards, batch = joint.shape[joint.ndim - n :], joint.shape[: joint.ndim - n]
    result = np.zeros((len(values), *batch, n, max(cards)))
    for row in np.ndindex(len(values), *batch):
        for v in range(n):
            line = [*values[row]]
            line[v] = slice(None)
            alone = joint[row[1:]][tuple(line)]
            with np.errstate(invalid="ignore"):
                result[(*row, v, slice(cards[v]))] = alone / alone.sum()
    return result


def max_marginals(joint: np.ndarray, n: int) -> np.ndarray:
    """The largest probability with variable i at value x, (*batch, n, k_max); zero beyond a variable's own values."""
    first, cards = joint.ndim - n, joint.shape[joint.ndim - n :]
    result = np.zeros((*joint.shape[:first], n, max(cards)))
    for v in range(n):
        result[..., v, : cards[v]] = joint.max(tuple(first + other for other in range(n) if other != v))
    return result


def log_prob_variance(joint: np.ndarray, n: int) -> np.ndarray:
    logs = np.log(np.where(joint > 0, joint, 1.0))
    mean = (joint * logs).sum(axes(joint, n), keepdims=True)
    return (joint * (logs - mean) ** 2).sum(axes(joint, n))


def best(joint: np.ndarray, n: int, count: int) -> np.ndarray:
    """The `count` largest probabilities, best first, zeros behind the last one; (count, *batch)."""
    batch, cards = joint.shape[: joint.ndim - n], joint.shape[joint.ndim - n :]
    flat = np.sort(joint.reshape(*batch, prod(cards)), -1)[..., ::-1]
    padded = np.concatenate([flat, np.zeros((*flat.shape[:-1], count))], -1)
    return np.moveaxis(padded[..., :count], -1, 0)


def factor_table(factors: list[tuple[tuple[int, ...], np.ndarray]], cards: tuple[int, ...]) -> np.ndarray:
    """The sum of factors at every assignment, shape (*batch, *cards)."""
    batch = np.broadcast_shapes(*(table.shape[: table.ndim - len(scope)] for scope, table in factors))
    total = np.zeros((*batch, *cards))
    for assignment in assignments(*map(range, cards)):
        for scope, table in factors:
            total[(..., *assignment)] += table[(..., *(assignment[v] for v in scope))]
    return total


def expectation(joint: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    joint, values = np.broadcast_arrays(joint, values)
    return (joint * np.where(joint > 0, values, 0.0)).sum(axes(joint, n))


def log_partition(values: np.ndarray, n: int) -> np.ndarray:
    top = values.max(axes(values, n), keepdims=True)
    return np.log(np.exp(values - top).sum(axes(values, n))) + top.reshape(values.shape[: values.ndim - n])


def chain_entropy(initial: np.ndarray, transitions: list[np.ndarray]) -> float:
    """Entropy of a Markov chain by the chain rule, with plain loops."""
    now, total = list(initial), 0.0
    total -= sum(p * log(p) for p in now if p > 0)
    for transition in transitions:
        for p, row in zip(now, transition, strict=True):
            total -= p * sum(q * log(q) for q in row if q > 0)
        now = [sum(p * row[j] for p, row in zip(now, transition, strict=True)) for j in range(transition.shape[1])]
    return total


def joint_by_broadcasting(cards: tuple[int, ...], nodes: list[Node], logits: Logits, batch: tuple[int, ...]) -> tuple:
    """The joint table and whether no sum overlaps, by one small table per node: what `joint_table` says, much faster.

    A node's table has shape (*batch, d_0, d_1, ...) with length one for variables outside its scope.
    """
    tables: list[np.ndarray] = []
    supports: list[np.ndarray] = []
    disjoint = True
    for index, (kind, *rest) in enumerate(nodes):
        if kind == "product":
            tables.append(prod((tables[child] for child in rest[0][1:]), start=tables[rest[0][0]]))
            supports.append(prod((supports[child] for child in rest[0][1:]), start=supports[rest[0][0]]))
            continue
        own = probabilities(logits[index]) if index in logits else np.ones(1)
        if kind == "sum":
            wide = own.reshape(*own.shape[:-1], *(1,) * len(cards), own.shape[-1])
            tables.append(sum(wide[..., i] * tables[child] for i, child in enumerate(rest[0])))
            counts = sum(supports[child].astype(np.int64) for child in rest[0])
            disjoint &= bool(counts.max() <= 1)
            supports.append(counts > 0)
            continue
        variable, values = rest
        shape = [1] * len(cards)
        shape[variable] = cards[variable]
        line, allowed = np.zeros((*own.shape[:-1], cards[variable])), np.zeros(cards[variable], dtype=bool)
        for position, value in enumerate(values):
            line[..., value] = own[..., position]
            allowed[value] = True
        tables.append(line.reshape(*own.shape[:-1], *shape))
        supports.append(allowed.reshape(shape))
    return np.broadcast_to(tables[-1], (*batch, *cards)), disjoint


def evidence_by_broadcasting(log_weights: np.ndarray, cards: tuple[int, ...]) -> np.ndarray:
    """What `evidence_table` says, one variable at a time."""
    total = np.ones((*log_weights.shape[:-2], *(1,) * len(cards)))
    for variable, k in enumerate(cards):
        shape = [1] * len(cards)
        shape[variable] = k
        own = np.exp(log_weights[..., variable, :k])
        total = total * own.reshape(*own.shape[:-1], *shape)
    return total


def with_sums(joint: np.ndarray, n: int) -> np.ndarray:
    """Append to every variable's axis one entry that holds the sum over it: all 2^n marginals in one table."""
    for axis in axes(joint, n):
        joint = np.concatenate([joint, joint.sum(axis, keepdims=True)], axis)
    return joint
