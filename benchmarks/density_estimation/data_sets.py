"""Data sets with a known truth: every row comes with its exact log-probability.

All are generated; there is no public data among them. Each set is a function of a generator and a size, and returns
rows, their log-probabilities in nats, and the cardinalities.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """Rows drawn from a known distribution."""

    rows: np.ndarray
    """Shape (rows, variables)."""
    log_prob: np.ndarray
    """Under the truth, nats, shape (rows,)."""
    cardinalities: list[int]


def _draw(rng: np.random.Generator, shares: np.ndarray) -> np.ndarray:
    """Draw one value per row of shares, shape (rows, values)."""
    below = shares.cumsum(-1)
    return (rng.random((len(shares), 1)) * below[:, -1:] >= below).sum(-1).clip(max=shares.shape[1] - 1)


def bayes_net(rng: np.random.Generator, rows: int) -> Sample:
    """A random Bayesian network: 30 variables of 2 to 4 values, each with up to three parents among those before."""
    cards = rng.integers(2, 5, 30).tolist()
    values = np.zeros((rows, len(cards)), dtype=np.int64)
    score = np.zeros(rows)
    for variable, k in enumerate(cards):
        window = np.arange(max(0, variable - 8), variable)
        parents = rng.choice(window, min(3, len(window)), replace=False)
        shape = [cards[p] for p in parents]
        table = rng.dirichlet([0.4] * k, int(np.prod(shape)))
        context = np.ravel_multi_index(tuple(values[:, parents].T), shape) if shape else np.zeros(rows, dtype=np.int64)
        values[:, variable] = _draw(rng, table[context])
        score += np.log(table[context, values[:, variable]])
    return Sample(values, score, cards)


def ising_grid(rng: np.random.Generator, rows: int) -> Sample:
    """An Ising model on a grid of 6 x 6 with random couplings, sampled exactly column by column."""
    height, width = 6, 6
    states = (np.arange(2**height)[:, None] >> np.arange(height)) & 1
    spins = 2.0 * states - 1.0
    within = rng.normal(0, 0.8, (width, height - 1))
    between = rng.normal(0, 0.8, (width - 1, height))
    field = rng.normal(0, 0.2, (width, height))
    own = [spins @ field[c] + (spins[:, 1:] * spins[:, :-1]) @ within[c] for c in range(width)]
    step = [(spins * between[c]) @ spins.T for c in range(width - 1)]
    # Messages from the right: log weight of everything beyond a column, given its state.
    beyond = [np.zeros(2**height)]
    for c in range(width - 2, -1, -1):
        beyond.insert(0, np.logaddexp.reduce(step[c] + own[c + 1] + beyond[0], axis=1))
    column = np.zeros(rows, dtype=np.int64)
    score = np.zeros(rows)
    columns: list[np.ndarray] = []
    for c in range(width):
        logits = (
            np.broadcast_to(own[0] + beyond[0], (rows, 2**height))
            if c == 0
            else (step[c - 1][column] + own[c] + beyond[c])
        )
        logits = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        column = _draw(rng, np.exp(logits))
        score += logits[np.arange(rows), column]
        columns.append(states[column])
    return Sample(np.concatenate(columns, 1), score, [2] * (height * width))


def hidden_markov(rng: np.random.Generator, rows: int) -> Sample:
    """A hidden Markov model: 32 steps, 6 hidden states, 4 symbols."""
    steps, hidden, symbols = 32, 6, 4
    start, move = rng.dirichlet([1.0] * hidden), rng.dirichlet([0.25] * hidden, hidden)
    emit = rng.dirichlet([0.25] * symbols, hidden)
    state = _draw(rng, np.broadcast_to(start, (rows, hidden)))
    belief, score, values = np.broadcast_to(start, (rows, hidden)), np.zeros(rows), []
    for _ in range(steps):
        symbol = _draw(rng, emit[state])
        joint = belief * emit[:, symbol].T
        score += np.log(joint.sum(1))
        belief = joint / joint.sum(1, keepdims=True) @ move
        state = _draw(rng, move[state])
        values.append(symbol)
    return Sample(np.stack(values, 1), score, [symbols] * steps)


def topics(rng: np.random.Generator, rows: int) -> Sample:
    """A mixture of ten classes with independent, mostly rare, binary features: 60 variables, like word counts."""
    classes, count = 10, 60
    weights = rng.dirichlet([2.0] * classes)
    chance = np.where(rng.random((classes, count)) < 0.15, rng.uniform(0.3, 0.9, (classes, count)), 0.04)
    member = _draw(rng, np.broadcast_to(weights, (rows, classes)))
    values = (rng.random((rows, count)) < chance[member]).astype(np.int64)
    scores = np.log(weights) + values @ np.log(chance).T + (1 - values) @ np.log(1 - chance).T
    return Sample(values, np.logaddexp.reduce(scores, axis=1), [2] * count)


def switches(rng: np.random.Generator, rows: int) -> Sample:
    """A chain of 24 binary variables whose links depend on switches: context-specific independence.

    Four further variables of three values are the switches; each governs six links. In state 0 a variable repeats the
    one before, in state 1 it negates it, in state 2 it does not depend on it.
    """
    switch = _draw(rng, np.broadcast_to([0.4, 0.35, 0.25], (rows * 4, 3))).reshape(rows, 4)
    chance = np.array([0.4, 0.35, 0.25])
    score = np.log(chance[switch]).sum(1)
    values: list[np.ndarray] = []
    previous = np.zeros(rows, dtype=np.int64)
    for position in range(24):
        mode = switch[:, position // 6]
        one = np.where(mode == 2, 0.5, np.where((previous == 1) ^ (mode == 1), 0.9, 0.1))
        previous = (rng.random(rows) < one).astype(np.int64)
        score += np.log(np.where(previous == 1, one, 1 - one))
        values.append(previous)
    return Sample(np.column_stack([switch, *values]), score, [3] * 4 + [2] * 24)


def decisions(rng: np.random.Generator, rows: int) -> Sample:
    """A random decision tree over 20 binary variables, eight deep, with independent variables below each leaf."""
    count, depth = 20, 8
    values = np.full((rows, count), -1)
    score = np.zeros(rows)

    def decide(members: np.ndarray, left: list[int], level: int) -> None:
        chosen = left if level == 0 else [left[int(rng.integers(len(left)))]]
        for variable in chosen:
            one = rng.beta(0.5, 0.5)
            values[members, variable] = rng.random(len(members)) < one
            score[members] += np.log(np.where(values[members, variable] == 1, one, 1 - one))
        if level > 0 and len(members):
            rest = [v for v in left if v != chosen[0]]
            for value in (0, 1):
                decide(members[values[members, chosen[0]] == value], rest, level - 1)

    decide(np.arange(rows), list(range(count)), depth)
    return Sample(values, score, [2] * count)


DATA_SETS: dict[str, Callable[[np.random.Generator, int], Sample]] = {
    "bayes_net": bayes_net,
    "ising_grid": ising_grid,
    "hidden_markov": hidden_markov,
    "topics": topics,
    "switches": switches,
    "decisions": decisions,
}
