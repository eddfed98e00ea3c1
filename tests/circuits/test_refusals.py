"""A query that is not tractable refuses: it names the property, the node and a way out, and never answers silently."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from circuits import Circuit, CircuitBuilder, CircuitDistribution, NotTractableError, operations, queries, structures
from circuits.errors import ImpossibleEvidenceError
from tests.contracts import QUERY_ROWS

NEED_DETERMINISM = sorted({row.name for row in QUERY_ROWS if row.needs_determinism})


def undecided() -> Circuit:
    """The children split their variables differently and differ in the deepest of 3,000 only: too deep to search."""
    n = 3000
    b = CircuitBuilder([2] * n)
    first, second = b.input(n - 1, [0]), b.input(n - 1, [1])
    for variable in reversed(range(2, n - 1)):
        both = b.input(variable)
        first, second = b.product(both, first), b.product(both, second)
    top = [b.input(0), b.input(1)]
    return b.build(b.sum(b.product(top[0], b.product(top[1], first)), b.product(b.product(*top), second)))


# Circuits that lack determinism, each in its own way.
NOT_DETERMINISTIC: dict[str, Callable[[], Circuit]] = {
    "a proven overlap at the root": lambda: operations.mixture(*(structures.mean_field([2, 3]) for _ in range(2))),
    "an overlap below the root": lambda: structures.random_binary([2, 3, 2, 2], repetitions=1),
    "a latent tree": lambda: structures.latent_tree([2, 3, 2], states=2),
    "overlapping constraints": lambda: operations.mixture(*(operations.exactly([2] * 4, [1, k]) for k in (2, 3))),
    "200 variables": lambda: structures.random_binary([3] * 200, sums=2),
    "a search that gave up": undecided,
}


@cache
def refused(reason: str) -> CircuitDistribution:
    return policy(NOT_DETERMINISTIC[reason]())


def policy(circuit: Circuit) -> CircuitDistribution:
    noise = torch.Generator().manual_seed(0)
    return CircuitDistribution(circuit, torch.randn(circuit.num_parameters, generator=noise, dtype=torch.float64))


@pytest.mark.parametrize("reason", NOT_DETERMINISTIC)
@pytest.mark.parametrize("query", NEED_DETERMINISM)
def test_missing_determinism_is_refused(query: str, reason: str) -> None:
    pi = refused(reason)
    overlap = pi.circuit.overlap
    assert overlap is not None
    for row in QUERY_ROWS:
        if row.name == query:
            assert row.refuses is not None
            with pytest.raises(NotTractableError) as caught:
                row.refuses(pi)
            message = str(caught.value)
            assert "determinis" in message, "the property"
            assert f"sum node {overlap.sum_node} " in message, "the node"
            assert "structures.keep_set(...)" in message, "a structure that has the property"
            assert message.count(" or ") >= 1, "another query instead"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("reason", NOT_DETERMINISTIC)
def test_the_way_out_works(reason: str) -> None:
    """What the messages offer instead answers on the very circuit that was refused."""
    pi = refused(reason)
    lower, upper = pi.entropy_lower_bound(), pi.entropy_upper_bound()
    assert 0 <= lower <= upper < torch.inf
    samples = pi.sample((20,), generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(pi.log_prob(samples)).all()


def test_every_query_is_exact_or_refuses() -> None:
    """A query outside this list claims to need no property; one inside has a row that says how it refuses."""
    assert set(NEED_DETERMINISM) <= set(queries.__all__)
    for row in QUERY_ROWS:
        assert (row.refuses is not None) == row.needs_determinism, row.name


@pytest.mark.parametrize("shapes", [("balanced", "chain"), ("chain", "balanced"), ("chain", "chain")])
def test_divergence_between_two_circuits_is_exact_or_refused(shapes: tuple[str, str]) -> None:
    first, second = (policy(structures.keep_set([2] * 8, labels=4, shape=shape)) for shape in shapes)
    answer, message = torch.tensor(torch.nan), ""
    try:
        answer = first.kl_divergence(second)
    except NotTractableError as refusal:
        message = str(refusal)
    if message:
        assert "circuit" in message
        return
    logs = [pi.log_prob(pi.enumerate_support()) for pi in (first, second)]
    torch.testing.assert_close(answer, (logs[0].exp() * (logs[0] - logs[1])).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("count", [25, 40, 200])
def test_tables_too_large_are_refused_at_every_size(count: int) -> None:
    """No sentinel above some size: the message says how many entries, and what to do."""
    pi = policy(structures.markov_chain([2] * count))
    everything = tuple(range(count))
    with pytest.raises(NotTractableError, match=rf"{2**count:,} entries.*Ask for fewer variables, or sample"):
        pi.marginal(everything)
    with pytest.raises(NotTractableError, match=rf"{2**count:,} entries.*Ask for fewer variables"):
        pi.mutual_information(everything[::2], everything[1::2])
    with pytest.raises(NotTractableError, match="too many to list; ask for marginals or samples"):
        pi.enumerate_support()
    assert pi.marginal(everything[:2]).shape == (2, 2)


def test_an_answer_at_the_limit_is_exact() -> None:
    """The largest table that is allowed sums to one: size changes nothing but the refusal."""
    pi = policy(structures.markov_chain([2] * 18))
    table = pi.marginal(tuple(range(18)))
    torch.testing.assert_close(table.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(table.sum(tuple(range(2, 18))), pi.marginal([0, 1]), rtol=0, atol=1e-12)


def test_conditionals_without_a_defined_answer_are_refused() -> None:
    pi = policy(operations.exactly([2] * 4, 1))
    with pytest.raises(ImpossibleEvidenceError, match="conditional is undefined"):
        pi.conditionals(torch.tensor([1, 1, 1, 0]))
