"""Keep-set circuits: shapes of the region tree."""

import pytest

from circuits import StructureError, structures


@pytest.mark.parametrize("shape", ["auto", "balanced", "chain"])
def test_keep_set_shapes_hold_a_chain_exactly_when_labels_suffice(shape):
    """A chain of 12: a balanced region has two ends, so it needs k squared labels where a chain of regions needs k."""
    scopes = [(i, i + 1) for i in range(11)]
    circuit = structures.keep_set([3] * 12, scopes, labels=9 if shape == "balanced" else 3, shape=shape)
    # Exact means that no coupling is lost: every pair of neighbours is decided together somewhere.
    depth = len(circuit.compiled.layers)
    assert depth <= 16 if shape == "balanced" else depth >= 20
    assert circuit.is_deterministic


def test_keep_set_refuses_an_unknown_shape():
    with pytest.raises(StructureError, match="shape is 'round'"):
        structures.keep_set([2, 2], shape="round")
