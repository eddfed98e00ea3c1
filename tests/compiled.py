"""torch.compile takes what calls the engine; torch.func.vmap is not needed, because every batch shape is native.

A program of its own, run by tests/circuits/test_compile.py: the type checks that the tests put into the package cannot
be traced.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from circuits import CircuitDistribution, structures

CIRCUIT = structures.markov_chain([3] * 4)
FACTORS = [((0, 1), torch.arange(9.0).reshape(3, 3)), ((2,), torch.arange(3.0))]

QUERIES: dict[str, Callable[[CircuitDistribution], Tensor]] = {
    "entropy": lambda pi: pi.entropy(),
    "marginals": lambda pi: pi.marginals(),
    "log_evidence": lambda pi: pi.log_evidence({0: 1}),
    "condition": lambda pi: pi.condition({0: 1}).marginals(),
    "expectation": lambda pi: pi.expectation(FACTORS),
    "conditionals": lambda pi: pi.conditionals(torch.zeros(4, dtype=torch.long)),
}


def policy() -> tuple[torch.nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Linear(5, CIRCUIT.num_parameters)
    with torch.no_grad():
        network.weight.normal_(generator=generator)
    return network, torch.randn(8, 5, generator=generator)


def log_prob_is_one_graph(shared: bool) -> None:
    """A network and the likelihood of its policy."""
    torch._dynamo.reset()
    network, states = policy()
    values = torch.randint(3, (8, 4))

    def log_prob(states: Tensor) -> Tensor:
        logits = network(states[0] if shared else states)
        return CircuitDistribution(CIRCUIT, logits).log_prob(values)

    expected = log_prob(states)
    gradient = torch.autograd.grad(expected.sum(), network.weight)[0]
    found = torch.compile(log_prob, fullgraph=True, backend="aot_eager")(states)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), network.weight)[0], gradient)


def query_compiles_in_parts(name: str) -> None:
    """Values and gradients are those without compiling."""
    torch._dynamo.reset()
    network, states = policy()

    def ask(states: Tensor) -> Tensor:
        return QUERIES[name](CircuitDistribution(CIRCUIT, network(states)))

    expected = ask(states)
    found = torch.compile(ask, backend="aot_eager")(states)
    torch.testing.assert_close(found, expected)
    gradient = torch.autograd.grad(expected.sum(), network.weight)[0]
    torch.testing.assert_close(torch.autograd.grad(found.sum(), network.weight)[0], gradient)


def batches_need_no_vmap() -> None:
    """A batch is one call, and what vmap would give; vmap itself is refused by torch, not answered wrongly."""
    network, states = policy()
    logits = network(states)
    values = torch.tensor([0, 2, 1, 1])

    def one(own: Tensor) -> Tensor:
        return CircuitDistribution(CIRCUIT, own).log_prob(values)

    expected = torch.stack([one(own) for own in logits])
    torch.testing.assert_close(CircuitDistribution(CIRCUIT, logits).log_prob(values), expected)
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.vmap(one)(logits)


def main() -> None:
    """Run all checks and say so."""
    torch.set_num_threads(1)
    log_prob_is_one_graph(shared=False)
    log_prob_is_one_graph(shared=True)
    for name in QUERIES:
        query_compiles_in_parts(name)
    batches_need_no_vmap()
    print("log_prob", *QUERIES, "vmap")


if __name__ == "__main__":
    main()
