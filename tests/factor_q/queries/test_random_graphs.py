"""A part of `python -m tests.factor_q.random_graphs`, and the examples of the queries."""

import pytest

from tests.factor_q import random_graphs
from tests.seeds import first_now


@pytest.mark.one_in(2)
@pytest.mark.parametrize("start", first_now(range(0, 200, 20), 0.4))
def test_all_queries_equal_enumeration(start):
    tally = random_graphs.Tally()
    for number in range(start, start + 20):
        random_graphs.check_case(random_graphs.random_case(number, seed=1), tally)
    assert tally.graphs == 20
    assert len(tally.worst) == 13
