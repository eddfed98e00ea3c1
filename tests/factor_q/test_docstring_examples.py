import doctest
import importlib
import pkgutil

import pytest

import factor_q

FOUND = [found.name for found in pkgutil.walk_packages(factor_q.__path__, "factor_q.")]
MODULES = ["factor_q", *(name for name in FOUND if not name.endswith("._turns"))]  # machine code, not a module


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module):
    for case in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module)):
        assert doctest.DocTestRunner().run(case).failed == 0


def test_there_are_examples():
    found = [case for name in MODULES for case in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(bool(case.examples) for case in found) > 25
