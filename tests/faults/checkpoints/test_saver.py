"""Training goes on while a disk refuses, and ends when it refuses for good."""

import errno
import itertools
import os

import pytest

from spnpolicy.base.errors import CheckpointError, DiskError
from spnpolicy.training.storage.checkpoints import load_checkpoint
from spnpolicy.training.storage.saver import CheckpointSaver


class Rig:
    """A saver with a clock that we set, a disk that we break, and a state that counts how often it was made."""

    def __init__(self, root, monkeypatch):
        self.now = 100.0
        self.warnings = []
        self.slept = []
        self.is_full = False
        self.attempts = 0
        self.root = root
        self.saver = CheckpointSaver(root, clock=lambda: self.now, sleep=self.sleep, warn=self.warnings.append)
        real = os.mkdir

        def mkdir(path, *arguments, **options):
            if self.is_full and ".writing-" in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "mkdir", mkdir)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def state(self):
        self.attempts += 1
        return {"progress": {"attempt": self.attempts}}

    def train_until(self, end):
        """Iterations of a tenth of a second; returns at which times the saver tried to write."""
        times = []
        while self.now < end - 1e-9:
            self.now = round(self.now + 0.1, 6)
            before = self.attempts
            self.saver.retry_if_due(self.state)
            if self.attempts > before:
                times.append(self.now)
        return times


@pytest.fixture
def rig(tmp_path, monkeypatch):
    return Rig(tmp_path, monkeypatch)


def test_nothing_is_tried_again_after_success(rig):
    assert rig.saver.save(rig.state) == rig.root / "checkpoint-00000001"
    assert rig.train_until(200.0) == []
    assert not rig.saver.is_retrying
    assert not rig.warnings


def test_one_warning_then_retries_after_1_4_and_16_seconds(rig):
    rig.saver.save(rig.state)
    rig.is_full = True
    assert rig.saver.save(rig.state) is None
    assert rig.saver.is_retrying
    assert rig.train_until(150.0) == [101.0, 105.0, 121.0]
    assert len(rig.warnings) == 1
    assert f"cannot write a checkpoint in {rig.root}: No space left on device; " in rig.warnings[0]
    assert "bytes are free" in rig.warnings[0]
    assert rig.warnings[0].endswith("Training goes on; trying again after 1, 4, 16 s.")
    assert (rig.saver.failures, rig.saver.is_retrying) == (1, False)
    assert rig.slept == []
    assert load_checkpoint(rig.root)["progress"] == {"attempt": 1}


def test_a_retry_saves_the_state_of_its_own_moment(rig):
    rig.is_full = True
    rig.saver.save(rig.state)
    rig.train_until(103.0)
    rig.is_full = False
    assert rig.train_until(150.0) == [105.0]
    assert load_checkpoint(rig.root)["progress"] == {"attempt": 3}
    assert (rig.saver.failures, rig.saver.is_retrying) == (0, False)


def test_a_save_that_comes_due_meanwhile_takes_the_place_of_the_one_that_waits(rig):
    rig.is_full = True
    rig.saver.save(rig.state)
    rig.now += 0.5
    assert rig.saver.save(rig.state) is None
    assert rig.attempts == 1
    rig.now += 0.5
    rig.is_full = False
    assert rig.saver.save(rig.state) == rig.root / "checkpoint-00000001"
    assert not rig.saver.is_retrying


def test_three_failed_checkpoints_in_a_row_end_the_run(rig):
    rig.saver.save(rig.state)
    rig.is_full = True
    for end in (200.0, 300.0):
        rig.saver.save(rig.state)
        rig.train_until(end)
    rig.saver.save(rig.state)
    with pytest.raises(DiskError, match="3 checkpoints in a row could not be written: cannot write") as caught:
        rig.train_until(400.0)
    assert caught.value.exit_code == 4
    assert rig.now == 321.0
    assert len(rig.warnings) == 3
    assert rig.attempts == 1 + 3 * 4
    assert sorted(path.name for path in rig.root.iterdir()) == ["checkpoint-00000001", "latest"]


def test_success_forgives_earlier_failures(rig):
    for start in itertools.count(200.0, 100.0):
        rig.is_full = True
        rig.saver.save(rig.state)
        rig.train_until(start)
        assert rig.saver.failures == 1
        rig.is_full = False
        rig.saver.save(rig.state)
        assert rig.saver.failures == 0
        if start >= 600.0:
            break


def test_the_last_save_waits_and_then_gives_up(rig):
    rig.is_full = True
    with pytest.raises(DiskError, match="No space left on device"):
        rig.saver.save(rig.state, final=True)
    assert rig.slept == [1.0, 4.0, 16.0]
    assert len(rig.warnings) == 1
    assert "last checkpoint of the run" in rig.warnings[0]
    assert list(rig.root.iterdir()) == []


def test_the_last_save_succeeds_when_the_disk_recovers(rig):
    rig.is_full = True
    real_sleep = rig.sleep

    def sleep(seconds):
        real_sleep(seconds)
        rig.is_full = seconds < 4.0

    rig.saver._sleep = sleep
    assert rig.saver.save(rig.state, final=True) == rig.root / "checkpoint-00000001"
    assert rig.slept == [1.0, 4.0]
    assert load_checkpoint(rig.root)["progress"] == {"attempt": 3}


def test_a_state_without_exact_form_is_no_fault_of_the_disk(rig):
    with pytest.raises(CheckpointError, match="cannot save a"):
        rig.saver.save(lambda: {"part": {"a": object()}})
    assert not rig.warnings
    assert not rig.saver.is_retrying
