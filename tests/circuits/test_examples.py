"""The examples in the docstrings of circuits say what happens."""

import doctest
import importlib
import pkgutil

import pytest

import circuits

FOUND = pkgutil.walk_packages(circuits.__path__, "circuits.")
MODULES = ["circuits", *(module.name for module in FOUND if not module.name.endswith("._kernels"))]
"""All but the compiled kernels, which are no Python module."""


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str) -> None:
    for case in doctest.DocTestFinder().find(importlib.import_module(name)):
        assert not doctest.DocTestRunner().run(case).failed, case.name


def test_examples_are_found() -> None:
    found = [case for name in MODULES for case in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(bool(case.examples) for case in found) >= 10
