"""Settings that every test shares."""

import os
from collections import Counter
from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch

CHECKED_ALWAYS = ("maths", "data", "networks", "training.storage", "experiments.statistics", "experiments.answers")
"""Rooms of spnpolicy that compute; what plays and learns makes so many calls that only long runs check its types."""

torch.set_num_threads(1)

# Deadlines are the usual source of flaky tests; a fixed order of examples makes a failure repeatable.
hypothesis.settings.register_profile(
    "project",
    derandomize=True,
    deadline=None,
    max_examples=int(os.environ.get("TEST_EXAMPLES", "30")),
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    """Check shapes and types of every call, in tests only; `make test` leaves out some rooms of spnpolicy.

    Not by the command-line option of jaxtyping 0.3.11: it splits its argument wrongly when the checker has brackets.
    """
    rooms = [f"spnpolicy.{room}" for room in CHECKED_ALWAYS] if "not full" in config.option.markexpr else ["spnpolicy"]
    checker = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    jaxtyping.install_import_hook(["circuits", "factor_q", *rooms], checker)


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases that `one_in` leaves to the long runs, and begin with what takes longest in one piece.

    At the end that would keep one process busy and the others idle.
    """
    seen: Counter[str] = Counter()
    for item in items:
        if (share := item.get_closest_marker("one_in")) is not None:
            test = item.nodeid.partition("[")[0]
            if seen[test] % share.args[0]:
                item.add_marker(pytest.mark.full)
            seen[test] += 1
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Types are not checked at run time, as users have the package: what refuses a wrong type is its own door."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number that differs from test to test and is printed, so that a failure names it.

    Set TEST_SEED to try other numbers.
    """
    text = f"{os.environ.get('TEST_SEED', '')}{request.node.nodeid}".encode()
    number = int.from_bytes(text[-64:], "little") % 2_147_483_629
    print(f"seed {number}")
    return number


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    """A torch generator made from the printed seed."""
    return torch.Generator().manual_seed(seed)
