import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spnpolicy.errors import CheckpointError
from spnpolicy.training.checkpoints import load_checkpoint, remove_leftovers, save_checkpoint
from spnpolicy.training.state_tree import flatten, unflatten
from spnpolicy.training.strict_json import dump_json


def assert_identical(first, second):
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        # Compared as bytes: nan payloads and the sign of zero count.
        assert first.contiguous().numpy().tobytes() == second.numpy().tobytes()
    elif isinstance(first, (np.ndarray, np.generic)):
        assert (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_identical(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for ours, theirs in zip(first, second, strict=True):
            assert_identical(ours, theirs)
    elif isinstance(first, float):
        assert math.copysign(1, first) == math.copysign(1, second)
        assert first == second or (math.isnan(first) and math.isnan(second))
    else:
        assert first == second


def awkward_state():
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True)
    parameter.sum().backward()
    optimizer.step()
    return {
        "optimizer": optimizer.state_dict(),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "numpy": np.random.default_rng(3).bit_generator.state,
        "tensors": [torch.randn(3, 4).T, torch.zeros(0, 2), torch.tensor(math.nan), torch.tensor([True, False])],
        "views": [parameter.detach(), parameter.detach()[1:]],
        "arrays": (np.arange(6).reshape(2, 3).T, np.float32(0.1), np.bool_(True), np.zeros((), dtype=np.int8)),
        "numbers": [0, -0.0, 1e-320, 0.1, 2**100, math.inf, -math.inf, math.nan, True, None, "ü\n$"],
        "keys": {0: torch.ones(1), "0": torch.zeros(1), "a/b": 1, "$tensor": 2, -5: {}},
        "a": {"b/c": torch.ones(2)},
        "a/b": {"c": torch.zeros(2)},
        "empty": [{}, [], (), ""],
    }


def test_any_nest_round_trips_exactly_through_json():
    state = awkward_state()
    tree, tensors = flatten(state)
    assert_identical(unflatten(json.loads(dump_json(tree)), tensors), state)


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), b"x", np.array(["a"]), np.array([None]), {(1, 2): 3}, {True: 1}, np.zeros(1, ">f8")]
)
def test_what_has_no_exact_form_is_refused_by_place(value):
    with pytest.raises(CheckpointError, match="cannot save inner/0"):
        flatten({"inner": [value]})


@pytest.mark.parametrize(
    "tree", [{"$tensor": "missing"}, {"$code": 1}, {"$tensor": []}, {"$items": [[1]]}, {"$float": "1"}, {"$tuple": 3}]
)
def test_malformed_trees_are_refused(tree):
    with pytest.raises(CheckpointError, match=r"malformed|unknown marker"):
        unflatten({"a": [tree]}, {})


@pytest.fixture
def root(tmp_path):
    save_checkpoint(tmp_path, {"algorithm": {"w": torch.arange(6.0)}, "progress": {"step": 1}})
    return tmp_path


def test_save_and_load_keep_the_last_two(root):
    for step in (2, 3):
        save_checkpoint(root, {"algorithm": awkward_state(), "progress": {"step": step}})
    names = sorted(path.name for path in root.iterdir())
    assert names == ["checkpoint-00000002", "checkpoint-00000003", "latest"]
    assert load_checkpoint(root)["progress"] == {"step": 3}
    assert load_checkpoint(root / "checkpoint-00000002")["progress"] == {"step": 2}


def test_every_changed_or_missing_byte_is_noticed(root, tmp_path_factory):
    rng = np.random.default_rng(0)
    for path in sorted((root / "checkpoint-00000001").iterdir()):
        content = path.read_bytes()
        for position in range(0, len(content), max(1, len(content) // 60)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            for bad in (bytes(damaged), content[:position], content + b"x"):
                path.write_bytes(bad)
                with pytest.raises(CheckpointError, match="checkpoint-00000001"):
                    load_checkpoint(root)
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name):
            load_checkpoint(root)
        path.write_bytes(content)
    assert load_checkpoint(root)["progress"] == {"step": 1}


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (str(Path(__file__).parent / "EXPLODED"),))


def hostile_files(folder):
    torch.save({"w": Bomb()}, folder / "zip.pt")
    yield (folder / "zip.pt").read_bytes(), "zip archive"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps(Bomb(), protocol=protocol), "pickle" if protocol >= 2 else "not a safetensors"
    yield b"\xff" * 7 + b"\x7f" + b"{" + b" " * 64, "not a safetensors"
    yield b"", "not a safetensors"


def with_honest_manifest(folder, name, content):
    """Write a hostile file together with a manifest that vouches for it."""
    import hashlib

    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(dump_json(manifest))


def test_pickles_and_other_hostile_files_are_refused_unread(root, tmp_path_factory):
    folder = root / "checkpoint-00000001"
    for content, problem in hostile_files(tmp_path_factory.mktemp("hostile")):
        with_honest_manifest(folder, "algorithm.safetensors", content)
        with pytest.raises(CheckpointError, match=problem):
            load_checkpoint(root)
    header = b'{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}'
    with_honest_manifest(folder, "algorithm.safetensors", len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match="not a valid safetensors"):
        load_checkpoint(root)
    assert not (Path(__file__).parent / "EXPLODED").exists()


def test_json_with_duplicate_keys_or_nan_is_refused(root):
    for content in (b'{"progress": 1, "progress": 2}', b'{"progress": NaN}', b"[" * 100_000, b"[]"):
        with_honest_manifest(root / "checkpoint-00000001", "state.json", content)
        with pytest.raises(CheckpointError, match=r"state\.json"):
            load_checkpoint(root)


def test_paths_cannot_leave_the_folder(root, tmp_path):
    folder = root / "checkpoint-00000001"
    for name in ("../x.safetensors", "/etc/passwd", "a/b.safetensors", ".safetensors", "evil.pt"):
        manifest = json.loads((folder / "manifest.json").read_bytes())
        manifest["files"][name] = {"bytes": 1, "sha256": ""}
        (folder / "manifest.json").write_text(dump_json(manifest))
        with pytest.raises(CheckpointError, match="not a file of a checkpoint"):
            load_checkpoint(root)
        del manifest["files"][name]
        (folder / "manifest.json").write_text(dump_json(manifest))
    for name in ("../elsewhere", "checkpoint-1", ".", "checkpoint-00000001/../x"):
        (root / "latest").write_text(name)
        with pytest.raises(CheckpointError, match="latest"):
            load_checkpoint(root)
    for part in ("../up", "a/b", "", "a.b"):
        with pytest.raises(CheckpointError, match="cannot name a part"):
            save_checkpoint(root, {part: {}})


def test_symbolic_links_are_refused(root, tmp_path_factory):
    target = root / "checkpoint-00000001" / "algorithm.safetensors"
    outside = tmp_path_factory.mktemp("outside") / "file"
    shutil.copy(target, outside)
    target.unlink()
    target.symlink_to(outside)
    with pytest.raises(CheckpointError, match="symbolic link"):
        load_checkpoint(root)
    folder = root / "checkpoint-00000001"
    folder.rename(outside.with_name("moved"))
    folder.symlink_to(outside.with_name("moved"))
    with pytest.raises(CheckpointError, match="checkpoint-00000001 is a symbolic link"):
        load_checkpoint(root)


def test_no_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path)


def test_leftovers_are_removed(root):
    (root / ".writing-checkpoint-00000002-77").mkdir()
    (root / ".writing-latest-77").write_text("x")
    (root / ".removing-checkpoint-00000000").mkdir()
    assert remove_leftovers(root) == 3
    assert load_checkpoint(root)["progress"] == {"step": 1}


def test_a_write_that_fails_leaves_the_last_checkpoint(root, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spnpolicy.training.checkpoints.write_durably", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; \d+ bytes are free"):
        save_checkpoint(root, {"progress": {"step": 2}})
    assert load_checkpoint(root)["progress"] == {"step": 1}


KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from spnpolicy.training.checkpoints import load_checkpoint, save_checkpoint
root, rounds = Path(sys.argv[1]), int(sys.argv[2])
random.seed(0)
state = {"algorithm": {"w": torch.zeros(100_000)}, "progress": {"step": 0}}
save_checkpoint(root, state)
for _ in range(rounds):
    before = load_checkpoint(root)["progress"]["step"]
    child = os.fork()
    if child == 0:
        for step in range(before + 1, 10**9):
            state["algorithm"]["w"].fill_(step)
            state["progress"]["step"] = step
            save_checkpoint(root, state)
    time.sleep(random.uniform(0.001, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    loaded = load_checkpoint(root)
    assert (loaded["algorithm"]["w"] == loaded["progress"]["step"]).all()
    assert loaded["progress"]["step"] >= before
print("last step", loaded["progress"]["step"])
"""


def test_kill_minus_nine_leaves_a_readable_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILL_LOOP, str(tmp_path), "60"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10
    save_checkpoint(tmp_path, {"progress": {"step": 1}})
    assert len(list(tmp_path.iterdir())) == 3
