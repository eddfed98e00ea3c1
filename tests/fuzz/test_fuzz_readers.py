"""The program that fuzzes the readers, with fewer documents, and its own eyesight."""

import pytest
import readers


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_nothing_but_our_own_errors(count, tmp_path, seed, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    results = readers.fuzz(tmp_path, seed, count=count)
    assert set(results) == {"config", "metrics", "latest", "manifest", "state", "tensors", "circuit"}
    for name, result in results.items():
        # A target that accepts nothing or everything tests nothing.
        assert " 0 refused" not in result, name
        assert " 0 accepted" not in result or name == "latest", name


def test_a_foreign_error_is_caught_and_its_document_named(tmp_path, monkeypatch, seed):
    def careless(*arguments, **options):
        raise KeyError("steps")

    monkeypatch.setattr(readers, "decode", careless)
    with pytest.raises(AssertionError, match=r"config \d+: KeyError: 'steps'"):
        readers.fuzz(tmp_path, seed, count=100)
