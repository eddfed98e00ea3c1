import doctest
import importlib

import pytest

MODULES = [
    "belief_propagation",
    "coloring",
    "gibbs",
    "max_plus",
    "mean_field",
    "mini_bucket",
    "structured_mean_field",
    "tree_reweighted",
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module):
    found = importlib.import_module(f"factor_q.approximate.{module}")
    cases = [case for case in doctest.DocTestFinder().find(found) if case.examples]
    assert cases
    for case in cases:
        assert doctest.DocTestRunner().run(case).failed == 0
