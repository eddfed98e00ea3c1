"""Logits at the edge of float32, and every query asked there; shared by the normal and the slow tests."""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import numpy as np
import torch
from torch import Tensor

from circuits import Circuit, CircuitDistribution
from tests.contracts import QUERY_ROWS, Case, Query, rows_for

EXTREMES = (0.0, 1e-30, -1e-30, 50.0, -50.0, 1e4, -1e4, 3e38, -3e38, -torch.inf)

Questions = dict[str, tuple[Query, Callable[[], Tensor]]]


def extreme_logits(circuit: Circuit, picks: list[int], rows: int = 2) -> Tensor:
    """Logits from the list of extremes; a node with nothing but -inf gets one zero."""
    numbers = torch.tensor([EXTREMES[p % len(EXTREMES)] for p in picks])
    count = rows * circuit.num_parameters
    logits = numbers.repeat(-(-count // len(picks)))[:count].reshape(rows, circuit.num_parameters).clone()
    for index in range(circuit.num_nodes):
        where = circuit.parameters_of(index)
        if where.stop > where.start:
            own = logits[:, where]
            own[(own == -torch.inf).all(-1), 0] = 0.0
    return logits.requires_grad_()


def questions(pi: CircuitDistribution, mask: Tensor) -> Questions:
    """Every query of the contract; what they return must stay below +inf and hold no nan."""
    n, width = pi.circuit.num_variables, max(pi.circuit.cardinalities)
    nothing = np.zeros(0)  # no joint table: the oracles could not be trusted here
    case = Case(Random(n), pi, nothing, pi, nothing, pi.circuit.is_deterministic)
    possible = pi.sample((2,), generator=torch.Generator().manual_seed(0))
    case = case.about(pi, possible=possible, best=1, evidence=(mask, None))
    asked: Questions = {f"{row.name} ({i})": (row, partial(row.value, case)) for i, row in enumerate(rows_for(case))}
    for low in (-1e4, -1e29):
        soft = case.about(pi, evidence=(torch.full((n, width), low), None))
        row = next(row for row in QUERY_ROWS if row.name == "log_evidence")
        asked[f"{row.name} of {low}"] = (row, partial(row.value, soft))
    return asked


def problems(circuit: Circuit, logits: Tensor, mask: Tensor) -> Iterator[str]:
    """What is nan, +inf or out of range among all answers and gradients, before and after conditioning."""
    pi = CircuitDistribution(circuit, logits)
    yield from problems_of(pi, logits, mask, "")
    if bool((pi.log_evidence(mask) > -torch.inf).all()):
        yield from problems_of(pi.condition(mask), logits, mask, "conditional ")


def problems_of(pi: CircuitDistribution, logits: Tensor, mask: Tensor, prefix: str) -> Iterator[str]:
    for name, (row, question) in questions(pi, mask).items():
        answer = question()
        if not bool((answer < torch.inf).all()):
            yield f"{prefix}{name} is {answer}"
        if row.in_probability and bool((answer > 1 + 1e-3).any()):
            yield f"{prefix}{name} holds a probability of {answer.max()}"
        if not answer.requires_grad:
            continue
        finite = torch.where(torch.isfinite(answer), answer, 0.0).sum()
        (gradient,) = torch.autograd.grad(finite, logits, retain_graph=True)
        if not bool(torch.isfinite(gradient).all()):
            yield f"{prefix}gradient of {name} holds {gradient[~torch.isfinite(gradient)][:4]}"
