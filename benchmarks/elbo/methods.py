"""The methods that bound log Z, all behind one call."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

import factor_q
from benchmarks.elbo.models import published_weights
from benchmarks.elbo.published import Curve, published_circuit, train_annealed, train_as_published
from factor_q import Factors

BlockRule = Literal["rows", "trees", "chains", "pairs"]
CHUNK = 20
"""Restarts at a time."""
PATIENCE = 5
"""So many chunks that bring nothing end a search by restarts."""
UPPER_STEPS = 300


@dataclass(frozen=True)
class Problem:
    """What a method gets."""

    factors: Factors
    seconds: float
    seed: int

    @property
    def generator(self) -> torch.Generator:
        """A fresh source of randomness."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def block_rules(self) -> tuple[BlockRule, ...]:
        """All the ways in which structured mean field can choose its blocks; rows are refused unless it is a grid."""
        try:
            factor_q.structured_mean_field(self.factors, blocks="rows", steps=1, generator=self.generator)
        except factor_q.StructureError:
            return "trees", "chains", "pairs"
        return "rows", "trees", "chains", "pairs"

    @property
    def most_parameters(self) -> int:
        """Weights of the published construction, which ours may not exceed."""
        return published_weights(self.factors.cardinalities)


@dataclass(frozen=True)
class Outcome:
    """What a method found."""

    value: float
    parameters: int | None = None
    steps: int | None = None
    note: str = ""
    curve: Curve | None = None
    """Seconds and the best value by then."""


@dataclass(frozen=True)
class Method:
    """A method by kind."""

    kind: str
    """exact, lower, upper or estimate."""
    run: Callable[[Problem], Outcome]
    text: str
    """What it is, for the report."""
    is_ours: bool = False


def eliminate(problem: Problem) -> Outcome:
    """Log Z by exact elimination, over the assignments of a cutset where it does not fit into memory."""
    with torch.no_grad():
        return Outcome(float(factor_q.log_partition(problem.factors, cutset="auto")))


def compile_clique_tree(problem: Problem) -> Outcome:
    """Compile exp(f) into a clique tree of at most 2^20 weights and evaluate its bound, which then is log Z."""
    with torch.no_grad():
        pi = factor_q.compile(problem.factors)
        return Outcome(float(pi.expectation(problem.factors) + pi.entropy()), pi.circuit.num_parameters)


def keep_set(labels: int, *, limited: bool = True, structure: str = "keep_set") -> Callable[[Problem], Outcome]:
    """Return the method: choose a circuit of a structure and climb."""

    def run(problem: Problem) -> Outcome:
        begin = time.perf_counter()
        fit = factor_q.fit_structure(
            problem.factors,
            structure,
            labels=labels,
            max_parameters=problem.most_parameters if limited else None,
            seconds=problem.seconds,
            generator=problem.generator,
        )
        circuit = fit.distribution.circuit
        # The history begins when the circuit is chosen.
        shift = time.perf_counter() - begin - fit.history[-1].seconds
        curve = [(shift + point.seconds, point.lower_bound) for point in fit.history]
        return Outcome(float(fit.lower_bound), circuit.num_parameters, fit.steps, circuit.name, curve)

    return run


def published(copies: int, train: Callable[..., tuple[Curve, int]]) -> Callable[[Problem], Outcome]:
    """Return the method: the selective circuit, trained."""

    def run(problem: Problem) -> Outcome:
        begin = time.perf_counter()
        circuit = published_circuit(problem.factors, copies)
        circuit.compiled  # noqa: B018
        shift = time.perf_counter() - begin
        left = max(0.0, problem.seconds - shift)
        curve, steps = train(problem.factors, circuit, seconds=left, generator=problem.generator)
        shifted = [(shift + seconds, value) for seconds, value in curve]
        note = "" if curve[-1][1] > -math.inf else "all weights are positive, so forbidden assignments have mass"
        return Outcome(curve[-1][1], circuit.num_parameters, steps, note, shifted)

    return run


def mean_field(problem: Problem) -> Outcome:
    """Mean field, 20 restarts at a time."""
    generator = problem.generator

    def chunk(seconds: float) -> float:
        options = {"restarts": CHUNK, "seconds": seconds, "generator": generator}
        return float(factor_q.mean_field(problem.factors, **options).lower_bound)

    value, steps, curve = restarted(chunk, problem.seconds)
    return Outcome(value, steps=steps, note=f"{steps * CHUNK} restarts", curve=curve)


def structured_mean_field(problem: Problem) -> Outcome:
    """Structured mean field, 20 restarts at a time; the best of the ways to choose blocks, which share the time."""
    begin, generator = time.perf_counter(), problem.generator
    found: list[tuple[float, int, str]] = []
    curve: Curve = []
    for place, rule in enumerate(problem.block_rules):

        def chunk(seconds: float, rule: BlockRule = rule) -> float:
            options = {"restarts": CHUNK, "seconds": seconds, "generator": generator}
            return float(factor_q.structured_mean_field(problem.factors, blocks=rule, **options).lower_bound)

        shift = time.perf_counter() - begin
        share = max(0.0, problem.seconds - shift) / (len(problem.block_rules) - place)
        value, steps, own = restarted(chunk, share)
        found.append((value, steps, rule))
        curve += [(shift + seconds, max(value, curve[-1][1] if curve else -math.inf)) for seconds, value in own]
    value, steps, rule = max(found)
    return Outcome(value, steps=steps, note=f"blocks={rule}, {steps * CHUNK} restarts", curve=curve)


def restarted(chunk: Callable[[float], float], seconds: float) -> tuple[float, int, Curve]:
    """Repeat until the time is up or five chunks in a row bring nothing; returns the best, the chunks and the curve."""
    begin = time.perf_counter()
    best, idle, curve = -math.inf, 0, []
    while not curve or (idle < PATIENCE and curve[-1][0] < seconds):
        value = chunk(max(0.0, seconds - (time.perf_counter() - begin)))
        # Restarts that end in the same optimum differ by rounding.
        idle = 0 if value > best + 1e-9 else idle + 1
        best = max(best, value)
        curve.append((time.perf_counter() - begin, best))
    return best, len(curve), curve


def loopy_belief_propagation(problem: Problem) -> Outcome:
    """Loopy belief propagation, damping 0.5: an estimate, no bound."""
    found = factor_q.loopy_belief_propagation(problem.factors, steps=2000, seconds=problem.seconds)
    note = "" if bool(found.converged) else "not converged"
    return Outcome(float(found.log_partition_estimate), steps=found.steps, note=note)


def tree_reweighted(problem: Problem) -> Outcome:
    """Tree-reweighted upper bound, of models whose factors have at most two variables."""
    found = factor_q.tree_reweighted(problem.factors, steps=2000, seconds=problem.seconds)
    return Outcome(float(found.upper_bound), steps=found.steps)


def weighted_mini_bucket(problem: Problem) -> Outcome:
    """Weighted mini-bucket upper bound, tables of at most 2^16 entries, at most 300 tightening steps."""
    found = factor_q.weighted_mini_bucket(problem.factors, steps=UPPER_STEPS, seconds=problem.seconds)
    return Outcome(float(found.upper_bound), steps=found.steps, note="exact" if found.is_exact else "")


def _text(run: Callable) -> str:
    return (run.__doc__ or "").strip()


def methods(labels: Sequence[int]) -> dict[str, Method]:
    """Return all methods by name, in the order in which they are run; `keep_set` once for each number of labels."""
    as_published = "Shih and Ermon 2020: selective circuit, 32 copies, given order of the variables; Adam, rate 0.05"
    return {
        "elimination": Method("exact", eliminate, _text(eliminate)),
        "clique_tree": Method("lower", compile_clique_tree, _text(compile_clique_tree), is_ours=True),
        **{
            f"fit_structure {count}": Method(
                "lower",
                keep_set(count, structure="auto"),
                f"`fit_structure(f, labels={count})`: the better of a keep_set circuit and a thin junction tree, with "
                "at most the weights of `published`.",
                is_ours=True,
            )
            for count in labels
        },
        **{
            f"keep_set {count}": Method(
                "lower",
                keep_set(count),
                f"`fit_structure(f, 'keep_set', labels={count})` with at most the weights of `published`.",
                is_ours=True,
            )
            for count in labels
        },
        "published": Method(
            "lower",
            published(32, train_as_published),
            f"{as_published}, up to 5 "
            "random starts. Here in float64, unpadded, and with the bound in one pass, which makes its steps faster.",
        ),
        "published, annealed": Method(
            "lower",
            published(32, train_annealed),
            "The same circuit, but the energy of the random start grows from a tenth to all of it during the first "
            "half of the time: an addition of ours, meant to help.",
        ),
        "mean_field": Method("lower", mean_field, _text(mean_field)),
        "structured_mean_field": Method("lower", structured_mean_field, _text(structured_mean_field)),
        "loopy_bp": Method("estimate", loopy_belief_propagation, _text(loopy_belief_propagation)),
        "tree_reweighted": Method("upper", tree_reweighted, _text(tree_reweighted)),
        "mini_bucket": Method("upper", weighted_mini_bucket, _text(weighted_mini_bucket)),
    }


def sweep_methods() -> dict[str, Method]:
    """Return the methods that show the gap against the number of weights."""
    sizes = (1, 2, 4, 8, 16, 32, 64, 128)
    return {
        **{f"keep_set {n}": Method("lower", keep_set(n, limited=False), "", is_ours=True) for n in sizes},
        **{f"published {n}": Method("lower", published(n, train_annealed), "") for n in (2, 4, 8, 16, 32)},
    }
