"""Clique trees: what is too large."""

import pytest

from circuits import StructureError, structures


def test_a_clique_tree_too_large_is_refused_before_it_is_built() -> None:
    with pytest.raises(StructureError, match=r"3\.21e\+60 parameters.*variable 0 depends on 199 others"):
        structures.clique_tree([2] * 200)
