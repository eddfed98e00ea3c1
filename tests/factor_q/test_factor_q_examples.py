import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "examples"),
    [("graph", 1), ("factors", 1), ("elimination", 1), ("ordering", 1), ("critic", 1)],
)
def test_examples_in_docstrings_run(module, examples):
    found = importlib.import_module(f"factor_q.{module}")
    cases = [case for case in doctest.DocTestFinder().find(found) if case.examples]
    assert len(cases) == examples
    for case in cases:
        assert doctest.DocTestRunner().run(case).failed == 0
