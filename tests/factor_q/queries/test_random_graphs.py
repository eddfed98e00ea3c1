"""A part of `python -m tests.factor_q.random_graphs`, and the examples of the queries."""

import doctest
import importlib

import pytest

from tests.factor_q import random_graphs
from tests.seeds import first_now


@pytest.mark.parametrize("start", first_now(range(0, 200, 20), 0.4))
def test_all_queries_equal_enumeration(start):
    tally = random_graphs.Tally()
    for number in range(start, start + 20):
        random_graphs.check_case(random_graphs.random_case(number, seed=1), tally)
    assert tally.graphs == 20
    assert len(tally.worst) == 13


@pytest.mark.parametrize(
    "module",
    [
        "cutset",
        "queries.condition",
        "queries.entropy",
        "queries.log_partition",
        "queries.m_best",
        "queries.marginals",
        "queries.max_marginals",
        "queries.maximum",
        "queries.sample",
    ],
)
def test_examples_in_docstrings_run(module):
    found = importlib.import_module(f"factor_q.{module}")
    cases = [case for case in doctest.DocTestFinder().find(found) if case.examples]
    assert len(cases) == 1
    assert doctest.DocTestRunner().run(cases[0]).failed == 0
