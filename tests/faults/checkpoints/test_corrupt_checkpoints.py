"""The program that damages checkpoints, with fewer damages, and its own eyesight."""

import corrupt_checkpoints
import pytest


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_damage_is_refused_by_name(count, tmp_path, seed):
    tally, _ = corrupt_checkpoints.corrupt(tmp_path, count, seed)
    assert tally.total() == count
    assert set(tally) == {damage.__name__ for damage in corrupt_checkpoints.DAMAGES}


def test_a_reader_that_believes_everything_is_caught(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(corrupt_checkpoints, "load_checkpoint", lambda root: {"progress": {"step": 2}})
    with pytest.raises(AssertionError, match="read as if nothing had happened"):
        corrupt_checkpoints.corrupt(tmp_path, 5, seed)
