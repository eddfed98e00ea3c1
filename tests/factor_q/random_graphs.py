"""Check every exact query of Factors on random graphs against enumeration.

    python -m tests.factor_q.random_graphs --count 5000 --seed 0

Mixed cardinalities, scopes of up to 4 variables, batches, forbidden entries, random orders, evidence of every form and
random cutsets. Probabilities must agree within 1e-12 and everything else within 1e-10, in float64. The first
difference ends the program with the graph's number, so that `--first N --count 1` repeats it. Samples are compared by
chi-square at level 1e-6 a graph: 5,000 graphs raise a false alarm once in 200 runs of other seeds.
"""

import argparse
import itertools
import platform
import time
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch

import factor_q
from circuits import Evidence, ImpossibleEvidenceError
from factor_q import FactorGraph, Factors
from tests import statistical
from tests.factor_q import factor_oracle as oracle

PROBABILITY, NATS = 1e-12, 1e-10
DRAWS = 1000
EVIDENCE = ("dict", "sets", "mask", "log_weights", "evidence")


@dataclass
class Tally:
    """What was compared, and how far the worst answer was off."""

    graphs: int = 0
    answers: int = 0
    least_p: float = 1.0
    worst: dict[str, float] = field(default_factory=dict)

    def compare(self, what: str, found: torch.Tensor, expected: np.ndarray, tolerance: float = NATS) -> None:
        """Absolute difference; shapes and infinities must agree exactly."""
        self.answers += 1
        numbers, expected = found.detach().numpy(), np.asarray(expected)
        assert numbers.shape == expected.shape, f"{what}: shape {numbers.shape}, not {expected.shape}"
        with np.errstate(invalid="ignore"):
            error = np.where(numbers == expected, 0.0, np.abs(numbers - expected)).max(initial=0.0)
        assert error <= tolerance, f"{what}: off by {error}, more than {tolerance}"
        self.worst[what] = max(self.worst.get(what, 0.0), float(error))


@dataclass
class Case:
    """A random model and its table over all joint assignments, (*batch, *cardinalities)."""

    rng: Random
    factors: Factors
    joint: np.ndarray
    temperature: torch.Tensor

    @property
    def n(self) -> int:
        return len(self.factors.cardinalities)

    @property
    def order(self) -> object:
        permutation = self.rng.sample(range(self.n), self.n)
        return self.rng.choice([None, "best", "min_fill", "min_degree", permutation])

    def rows(self) -> np.ndarray:
        """The joint table with one batch axis and one axis for the assignments."""
        return self.joint.reshape(int(np.prod(self.factors.batch_shape)), -1)

    def log_probability(self) -> np.ndarray:
        """Of every assignment; -inf throughout where nothing is possible."""
        scale = np.broadcast_to(self.temperature.numpy(), self.factors.batch_shape)
        cooled = self.joint / scale.reshape(*self.factors.batch_shape, *(1,) * self.n)
        with np.errstate(invalid="ignore"):
            return np.where(cooled > -np.inf, cooled - lifted(log_sum(cooled, self.n), self.n), -np.inf)


def lifted(numbers: np.ndarray, n: int) -> np.ndarray:
    return numbers.reshape(*numbers.shape, *(1,) * n)


def axes(n: int) -> tuple[int, ...]:
    return tuple(range(-n, 0))


def log_sum(joint: np.ndarray, n: int) -> np.ndarray:
    """Log of the sum of exponentials over the last n axes."""
    largest = joint.max(axes(n), keepdims=True)
    shift = np.where(np.isinf(largest), 0.0, largest)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(joint - shift).sum(axes(n))) + shift.reshape(largest.shape[: largest.ndim - n])


def joint_table(instance: oracle.Instance) -> np.ndarray:
    """Add up the tables over all assignments by broadcasting."""
    cards = instance.cardinalities
    total = np.zeros((*instance.batch_shape, *cards))
    for scope, table in zip(instance.scopes, instance.tables, strict=True):
        values = table.numpy()
        batch = values.shape[: values.ndim - len(scope)]
        by_variable = np.argsort(scope)
        values = values.transpose(*range(len(batch)), *(len(batch) + int(i) for i in by_variable))
        total = total + values.reshape(*batch, *(k if i in scope else 1 for i, k in enumerate(cards)))
    assert total.shape == (*instance.batch_shape, *cards)
    return total


def random_case(number: int, seed: int) -> Case:
    """A graph by number: factors in float64 and their joint table."""
    rng = Random(f"graphs {seed} {number}")
    instance = oracle.random_instance(rng.randrange(2**31))
    factors = Factors(FactorGraph(instance.cardinalities, instance.scopes), instance.tables).to(dtype=torch.float64)
    shape = rng.choice([(), factors.batch_shape])
    temperature = torch.empty(shape, dtype=torch.float64).uniform_(
        0.3, 3.0, generator=torch.Generator().manual_seed(number)
    )
    return Case(rng, factors, joint_table(instance), temperature)


def max_over_others(joint: np.ndarray, cards: tuple[int, ...], reduce: object, fill: float) -> np.ndarray:
    """Reduce a joint table to (*batch, n, longest), with `fill` beyond a variable's own values."""
    n = len(cards)
    batch = joint.shape[: joint.ndim - n]
    result = np.full((*batch, n, max(cards)), fill)
    for variable, k in enumerate(cards):
        others = tuple(axis - n for axis in range(n) if axis != variable)
        result[..., variable, :k] = reduce(joint, axis=others) if others else joint
    return result


def check_best(case: Case, tally: Tally) -> None:
    """Maximum, argmax, max-marginals and the m best."""
    f, joint, cards = case.factors, case.joint, case.factors.cardinalities
    value, argmax = factor_q.max_assignment(f, order=case.order)
    tally.compare("max", value, joint.max(axes(case.n)))
    tally.compare("value of argmax", f(argmax), joint.max(axes(case.n)))
    wanted = max_over_others(joint, cards, np.max, -np.inf)
    tally.compare("max-marginals", f.max_marginals(order=case.order), wanted)
    rows = case.rows()
    possible = int((rows > -np.inf).sum(1).min())
    if possible:
        count = case.rng.randint(1, min(possible, 8))
        values, found = f.m_best(count, order=case.order)
        best = -np.sort(-rows, axis=1)[:, :count].T.reshape(count, *f.batch_shape)
        tally.compare("m best", found, best)
        tally.compare("values of m best", f(values), found.numpy())
        each = values.reshape(count, -1, case.n).movedim(1, 0)
        assert all(len(row.unique(dim=0)) == count for row in each), "m best: an assignment twice"
    if possible < 12:
        refused = f"only {possible} are possible"
        try:
            f.m_best(possible + 1)
        except ValueError as error:
            if refused not in str(error):
                raise
        else:
            raise AssertionError(f"m_best listed {possible + 1} of {possible} assignments")


def check_boltzmann(case: Case, tally: Tally) -> None:
    """log Z, marginals of one and of several variables, entropy and samples; impossible rows must be refused."""
    f, t, cards, n = case.factors, case.temperature, case.factors.cardinalities, case.n
    scale = np.broadcast_to(t.numpy(), f.batch_shape)
    log_z = log_sum(case.joint / lifted(scale, n), n)
    tally.compare("log Z", factor_q.log_partition(f, t, order=case.order), log_z)
    asked = tuple(case.rng.sample(range(n), case.rng.randint(0, n)))
    queries = [
        lambda f, t: f.marginals(t, order=case.order),
        lambda f, t: f.marginal(asked, t, order=case.order),
        lambda f, t: f.entropy(t, order=case.order),
        lambda f, t: f.sample((2,), t, order=case.order),
    ]
    log_p = case.log_probability()
    if np.isinf(log_z).any():
        for query in queries:
            try:
                query(f, t)
            except ImpossibleEvidenceError:
                continue
            raise AssertionError("a query of an impossible row was answered")
        live = torch.as_tensor(np.isfinite(log_z))
        if not live.any() or not live.ndim:
            return
        f, t = Factors.from_flat(f.graph, f.flat[live]), t.expand(f.batch_shape)[live]
        log_p = log_p[np.isfinite(log_z)]
    p = np.exp(log_p)
    tally.compare("marginals", queries[0](f, t), max_over_others(p, cards, np.sum, 0.0), PROBABILITY)
    others = tuple(axis - n for axis in range(n) if axis not in asked)
    kept = p.sum(others) if others else p
    places = np.argsort(np.argsort(asked)) if asked else []
    batch = len(f.batch_shape)
    wanted = kept.transpose(*range(batch), *(batch + int(i) for i in places))
    tally.compare("joint marginal", queries[1](f, t), wanted, PROBABILITY)
    plain = -(p * np.where(p > 0, log_p, 0.0)).sum(axes(n))
    tally.compare("entropy", queries[2](f, t), plain)
    generator = torch.Generator().manual_seed(case.rng.randrange(2**31))
    draws = f.sample((DRAWS,), t, order=case.order, generator=generator)
    assert draws.shape == (DRAWS, *f.batch_shape, n)
    rows = draws.reshape(DRAWS, -1, n)
    row = case.rng.randrange(rows.shape[1])
    expected = p.reshape(-1, *cards)[row]
    tally.least_p = min(
        tally.least_p, statistical.chi_square(statistical.counts_of(rows[:, row].numpy(), cards), expected)
    )
    assert tally.least_p > statistical.LEVEL, f"samples: p = {tally.least_p}"
    assert (expected[tuple(rows[:, row].numpy().T)] > 0).all(), "an impossible assignment was drawn"


def random_evidence(case: Case) -> tuple[object, np.ndarray]:
    """Evidence in one of its forms, and its log weights (*batch, n, longest)."""
    rng, cards = case.rng, case.factors.cardinalities
    kind = rng.choice(EVIDENCE)
    longest = max(cards)
    named = rng.sample(range(case.n), rng.randint(0, case.n))
    weights = np.zeros((case.n, longest))
    if kind in ("dict", "sets"):
        chosen = {i: rng.sample(range(cards[i]), 1 if kind == "dict" else rng.randint(1, cards[i])) for i in named}
        for variable, values in chosen.items():
            weights[variable] = -np.inf
            weights[variable, values] = 0.0
        return {i: values[0] if kind == "dict" else values for i, values in chosen.items()}, weights
    numbers = np.random.default_rng(rng.randrange(2**31))
    batch = rng.choice([(), case.factors.batch_shape, (2, *(1,) * len(case.factors.batch_shape))])
    weights = np.zeros((*batch, case.n, longest))
    for variable in named:
        if rng.random() < 0.5:  # one value, another one in each row
            chosen = numbers.integers(0, cards[variable], batch)
            weights[..., variable, :] = np.where(np.arange(longest) == chosen[..., None], 0.0, -np.inf)
        else:
            blocked = numbers.random((*batch, longest)) < 0.3
            weights[..., variable, :] = np.where(blocked, -np.inf, 0.0)
    if kind == "mask":
        return torch.from_numpy(weights == 0), weights
    weights = weights + numbers.normal(0, 1, weights.shape) * (rng.random() < 0.7)
    soft = torch.from_numpy(weights)
    return (Evidence(cards, soft) if kind == "evidence" else soft), weights


def check_condition(case: Case, tally: Tally) -> Case:
    """The value of every assignment under evidence; returns the conditioned case."""
    cards, n = case.factors.cardinalities, case.n
    evidence, weights = random_evidence(case)
    given = case.factors.condition(evidence)
    joint = case.joint
    for variable, k in enumerate(cards):
        own = weights[..., variable, :k]
        joint = joint + own.reshape(*own.shape[:-1], *(k if i == variable else 1 for i in range(n)))
    points = torch.tensor(list(itertools.product(*map(range, cards))))
    spread = points.reshape(len(points), *(1,) * len(given.batch_shape), n)
    found = given(spread).movedim(0, -1).reshape(*given.batch_shape, *cards)
    tally.compare("condition", found, np.broadcast_to(joint, found.shape))
    open_variables = {i for scope in given.scopes if len(scope) > 1 for i in scope}
    rows = weights.reshape(-1, n, weights.shape[-1])
    for variable, k in enumerate(cards):
        single = ((rows[:, variable, :k] > -np.inf).sum(-1) == 1).all()
        assert not single or variable not in open_variables, f"variable {variable} is known but still in scopes"
    temperature = case.temperature.expand(case.factors.batch_shape)
    return Case(case.rng, given, np.broadcast_to(joint, found.shape), temperature)


def check_cutset(case: Case, tally: Tally) -> None:
    """Fixing a random cutset must not change the answers."""
    cutset = case.rng.sample(range(case.n), case.rng.randint(0, min(case.n, 3)))
    tables = case.rng.choice([2**26, 40])
    cutset = cutset or None
    limits = {"cutset": cutset, "max_entries": max(tables, largest_part(case, cutset))}
    scale = np.broadcast_to(case.temperature.numpy(), case.factors.batch_shape)
    log_z = log_sum(case.joint / lifted(scale, case.n), case.n)
    tally.compare("log Z by cutset", case.factors.log_partition(case.temperature, **limits), log_z)
    value, argmax = case.factors.max(**limits)
    tally.compare("max by cutset", value, case.joint.max(axes(case.n)))
    tally.compare("argmax by cutset", case.factors(argmax), case.joint.max(axes(case.n)))


def largest_part(case: Case, cutset: list[int] | None) -> int:
    """A limit under which one assignment at a time certainly fits."""
    left = [k for i, k in enumerate(case.factors.cardinalities) if i not in (cutset or [])]
    return 4 * (int(np.prod(left)) + case.n) * max(1, int(np.prod(case.factors.batch_shape)))


def check_case(case: Case, tally: Tally) -> None:
    """Everything without evidence, then everything with."""
    tally.graphs += 1
    for given in (case, check_condition(case, tally)):
        check_best(given, tally)
        check_boltzmann(given, tally)
        check_cutset(given, tally)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="number of the first graph")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, one thread")
    tally, start = Tally(), time.perf_counter()
    for number in range(options.first, options.first + options.count):
        try:
            check_case(random_case(number, options.seed), tally)
        except Exception as error:
            raise SystemExit(
                f"FAILED at graph {number} of seed {options.seed}: {type(error).__name__}: {error}"
            ) from error
        if tally.graphs % 500 == 0:
            print(f"{tally.graphs:>7,} graphs, {time.perf_counter() - start:6.0f} s", flush=True)
    for what, error in tally.worst.items():
        print(f"{what:>20}: worst error {error:.1e}")
    print(
        f"{tally.graphs:,} graphs, {tally.answers:,} answers, smallest p of the samples {tally.least_p:.1e}; "
        f"{time.perf_counter() - start:.0f} s, seed {options.seed}"
    )


if __name__ == "__main__":
    main()
