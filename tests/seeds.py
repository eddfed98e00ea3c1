"""Random cases of a test: the first of them in every run of the tests, the others in the long ones."""

import math
from collections.abc import Sequence
from typing import Any

import pytest


def first_now(cases: Sequence[Any], share: float = 0.25) -> list[Any]:
    """Return parameters of a test of which the first part runs in `make test` and the rest in `make test-slow`.

    Args:
        cases: the parameters; a tuple is several of them.
        share: part of them that is not marked as slow.
    """
    now = math.ceil(share * len(cases))
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if index < now else pytest.mark.slow)
        for index, case in enumerate(cases)
    ]
