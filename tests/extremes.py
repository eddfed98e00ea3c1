"""Logits at the edge of float32, and every query asked there; shared by the normal and the slow tests."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from circuits import Circuit, CircuitDistribution

EXTREMES = (0.0, 1e-30, -1e-30, 50.0, -50.0, 1e4, -1e4, 3e38, -3e38, -torch.inf)

Questions = dict[str, Callable[[], Tensor]]


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
    """Every query; what they return must stay below +inf and hold no nan."""
    n, cards = pi.circuit.num_variables, pi.circuit.cardinalities
    scope = tuple(range(min(n, 3)))
    possible = pi.sample(generator=torch.Generator().manual_seed(0))
    asked: Questions = {
        "log_prob": lambda: pi.log_prob(possible),
        "log_prob of zeros": lambda: pi.log_prob(torch.zeros(n, dtype=torch.long)),
        "log_evidence": lambda: pi.log_evidence(mask),
        "soft evidence": lambda: pi.log_evidence(torch.full((n, max(cards)), -1e4)),
        "soft evidence at 1e29": lambda: pi.log_evidence(torch.full((n, max(cards)), -1e29)),
        "marginals": pi.marginals,
        "marginal": lambda: pi.marginal(scope),
        "pair_marginals": lambda: torch.stack([t.sum((-2, -1)) for t in pi.pair_marginals([(0, n - 1)])]),
        "conditionals": lambda: pi.conditionals(possible),
        "expectation": lambda: pi.expectation([(scope, torch.ones([cards[v] for v in scope]))]),
        "mutual_information": lambda: pi.mutual_information(scope[:1], scope[1:]),
        "entropy_lower_bound": pi.entropy_lower_bound,
        "entropy_upper_bound": pi.entropy_upper_bound,
    }
    if n == 1:
        del asked["pair_marginals"]
    if pi.circuit.is_deterministic:
        asked |= {
            "entropy": pi.entropy,
            "total_correlation": pi.total_correlation,
            "log_prob_variance": pi.log_prob_variance,
            "log_prob of the mode": lambda: pi.log_prob(pi.mode),
            "m_best": lambda: pi.m_best(1)[1],
            "max_marginals": pi.max_marginals,
            "kl to itself": lambda: pi.kl_divergence(pi),
        }
    return asked


def problems(circuit: Circuit, logits: Tensor, mask: Tensor) -> Iterator[str]:
    """What is nan, +inf or out of range among all answers and gradients, before and after conditioning."""
    pi = CircuitDistribution(circuit, logits)
    yield from problems_of(pi, logits, mask, "")
    if bool((pi.log_evidence(mask) > -torch.inf).all()):
        yield from problems_of(pi.condition(mask), logits, mask, "conditional ")


def problems_of(pi: CircuitDistribution, logits: Tensor, mask: Tensor, prefix: str) -> Iterator[str]:
    for name, question in questions(pi, mask).items():
        answer = question()
        if not bool((answer < torch.inf).all()):
            yield f"{prefix}{name} is {answer}"
        if name in ("marginals", "marginal", "pair_marginals", "conditionals") and bool((answer > 1 + 1e-3).any()):
            yield f"{prefix}{name} holds a probability of {answer.max()}"
        if not answer.requires_grad:
            continue
        finite = torch.where(torch.isfinite(answer), answer, 0.0).sum()
        (gradient,) = torch.autograd.grad(finite, logits, retain_graph=True)
        if not bool(torch.isfinite(gradient).all()):
            yield f"{prefix}gradient of {name} holds {gradient[~torch.isfinite(gradient)][:4]}"
