"""A disk that refuses: the last checkpoint stays, nothing partial is left, and the error says what to do."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spnpolicy.base.errors import DiskError
from spnpolicy.training.storage.checkpoints import load_checkpoint, save_best, save_checkpoint

CALLS = ("mkdir", "open", "write", "fsync", "rename", "replace")


def state_of(step):
    return {"algorithm": {"w": torch.full((3000,), float(step))}, "progress": {"step": step}}


class RefusingDisk:
    """Lets a number of system calls on a folder pass and refuses the next one, or all from there on."""

    def __init__(self, monkeypatch, code, *, for_good):
        self.left = 10**9
        self.refused = 0
        self.for_good = for_good
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name), code))

    def _wrapped(self, real, code):
        def call(*arguments, **options):
            self.left -= 1
            if self.left == -1 or (self.left < 0 and self.for_good):
                self.refused += 1
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        return call


def names(root):
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("for_good", [True, False], ids=["for good", "once"])
def test_each_system_call_of_a_save_may_fail(tmp_path, monkeypatch, code, for_good):
    for step in (1, 2):
        save_checkpoint(tmp_path, state_of(step))
        save_best(tmp_path, state_of(step), 0.0, step)
    before = names(tmp_path)
    disk = RefusingDisk(monkeypatch, code, for_good=for_good)
    for save in (save_checkpoint, lambda root, state: save_best(root, state, 1.0, 3)):
        passed, step = 0, 3
        while True:
            disk.left, disk.refused = passed, 0
            try:
                save(tmp_path, state_of(step))
            except DiskError as problem:
                text = str(problem)
            else:
                text = ""
            disk.left = 10**9
            latest, best = (load_checkpoint(tmp_path, which)["progress"]["step"] for which in ("latest", "best"))
            assert {latest, best} <= {2, 3}
            if not disk.refused:
                assert text == ""
                break
            # Refused only when the new one was complete already and an old one was to be removed.
            if text:
                assert f"cannot write a checkpoint in {tmp_path}: {os.strerror(code)}" in text
                assert " bytes are free. The last complete checkpoint is untouched." in text
                # A disk that refuses for good does not let a half-made folder be renamed either: the next save tidies.
                hidden = [name for name in names(tmp_path) if name.startswith(".")]
                assert not hidden or for_good
            passed += 1
        assert passed > 10
        assert not [name for name in names(tmp_path) if name.startswith(".")]
    assert load_checkpoint(tmp_path, "best")["best"] == {"score": 1.0, "step": 3}
    assert len(names(tmp_path)) == len(before)


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.training.storage.checkpoints import load_checkpoint, save_checkpoint
from spnpolicy.training.storage.saver import CheckpointSaver
root = Path(sys.argv[1])
save_checkpoint(root, {"algorithm": {"w": torch.ones(1000)}, "progress": {"step": 1}})
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
waits = []
saver = CheckpointSaver(root, sleep=waits.append, warn=lambda text: print("warning:", text))
try:
    saver.save(lambda: {"algorithm": {"w": torch.ones(1_000_000)}, "progress": {"step": 2}}, final=True)
except SpnPolicyError as problem:
    print("refused:", problem)
    print("waited", waits)
    print("left", sorted(path.name for path in root.iterdir()), load_checkpoint(root)["progress"]["step"])
    sys.exit(problem.exit_code)
"""


def run_limited(*arguments):
    return subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def check_limited(done, root, problem):
    assert done.returncode == DiskError.exit_code == 4, done.stderr
    assert done.stdout.count("warning:") == 1
    assert f"cannot write a checkpoint in {root}: {problem}; " in done.stdout
    assert "waited [1.0, 4.0, 16.0]" in done.stdout
    assert "left ['checkpoint-00000001', 'latest'] 1" in done.stdout


def test_a_limit_of_file_sizes_stops_the_run_with_exit_code_4(tmp_path):
    check_limited(run_limited(tmp_path, 1_000_000), tmp_path, "File too large")


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of two megabytes; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"`{' '.join(command)}` is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk(small_disk):
    check_limited(run_limited(small_disk), small_disk, "No space left on device")
    # What the failed writes took is free again.
    save_checkpoint(small_disk, {"algorithm": {"w": torch.ones(300_000)}})


@pytest.mark.slow
def test_a_read_only_disk(small_disk):
    save_checkpoint(small_disk, state_of(1))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskError, match="Read-only file system"):
        save_checkpoint(small_disk, state_of(2))
    assert load_checkpoint(small_disk)["progress"] == {"step": 1}


@pytest.mark.parametrize("place", ["file", "file/inner"])
def test_a_root_that_cannot_be_made(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DiskError, match=rf"cannot write a checkpoint in {tmp_path / Path(place)}"):
        save_checkpoint(tmp_path / place, state_of(1))
    assert (tmp_path / "file").read_text() == "mine"
