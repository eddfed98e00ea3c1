import jaxtyping
import pytest


@pytest.fixture
def without_type_checks():
    """Users run without the type checks of the test runner: what is refused then must be refused by us."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
