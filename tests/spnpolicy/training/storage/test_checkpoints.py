import hashlib
import json
import math
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from spnpolicy.base.errors import CheckpointError, ConfigError, DiskError
from spnpolicy.base.strict_json import dump_json
from spnpolicy.training.storage.checkpoints import (
    complete_checkpoints,
    load_checkpoint,
    remove_leftovers,
    save_best,
    save_checkpoint,
)
from spnpolicy.training.storage.state_tree import flatten, unflatten
from spnpolicy.training.storage.tensor_files import MAX_HEADER
from tests.identical import assert_identical


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
        "numbers": [0, -0.0, 1e-320, 0.1, 2**100, math.inf, -math.inf, math.nan, -math.nan, True, None, "ü\n$"],
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
    "tree",
    [
        *[{"$tensor": "missing"}, {"$code": 1}, {"$tensor": []}, {"$float": "1"}, {"$float": 1.0}, {"$float": []}],
        *[
            {"$float": text}
            for text in ("7ff8000000000000", "3ff0000000000000", "FFF8000000000000", "x" * 16, "ff f8  000000000")
        ],
        *[{"$tuple": 3}, {"$tuple": "ab"}, {"$tuple": [], "b": 1}, {"$scalar": "two"}],
        *[{"$items": [[1]]}, {"$items": ["ab"]}, {"$items": {"ab": 1}}, {"$items": [[1.0, 2]]}, {"$items": [[[], 2]]}],
        *[{"$items": [["a", 1], ["a", 2]]}, {"$items": [[True, 1]]}],
    ],
)
def test_malformed_trees_are_refused(tree):
    with pytest.raises(CheckpointError, match=r"malformed|unknown marker"):
        unflatten({"a": [tree]}, {"two": torch.zeros(2)})


def test_every_tensor_has_one_place():
    tensors = {"a": torch.zeros(1), "b": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="no place in the saved state for the tensor 'b'"):
        unflatten([{"$tensor": "a"}], tensors)
    with pytest.raises(CheckpointError, match="malformed '\\$tensor'"):
        unflatten([{"$tensor": "a"}, {"$tensor": "a"}], tensors)


def test_nests_that_could_not_be_read_again_are_refused(tmp_path):
    deep = []
    for _ in range(98):
        deep = [deep]
    save_checkpoint(tmp_path, {"a": deep})
    assert load_checkpoint(tmp_path) == {"a": deep}
    endless = []
    endless.append(endless)
    too_many = {str(number): torch.zeros(0) for number in range(40_000)}
    too_long = ["x" * 1000] * 5000
    for value, problem in (
        ([deep], "more than 99 levels"),
        (endless, "contains itself"),
        (too_many, "40000 tensors in one part"),
        (too_long, "Put long lists of numbers into arrays"),
        (10**5000, "cannot save the state"),
        (torch.zeros(1, dtype=torch.complex128), "complex128"),
        (torch.zeros(1).to_sparse(), "sparse"),
    ):
        with pytest.raises(CheckpointError, match=problem):
            save_checkpoint(tmp_path, {"a": value})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000001", "latest"]


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


def test_keep_must_be_at_least_one(root):
    with pytest.raises(ConfigError, match="keep is 0, but must be at least 1"):
        save_checkpoint(root, {}, keep=0)


def test_the_best_is_kept_beside_the_last_two(root):
    for step, score in ((10, 0.5), (20, 0.75)):
        folder = save_best(root, {"algorithm": {"w": torch.full((2,), step)}}, score, step)
        save_checkpoint(root, {"progress": {"step": step}})
    best = load_checkpoint(root, "best")
    assert best["best"] == {"score": 0.75, "step": 20}
    assert best["algorithm"]["w"].tolist() == [20, 20]
    assert load_checkpoint(folder)["best"] == best["best"]
    assert load_checkpoint(root)["progress"] == {"step": 20}
    names = sorted(path.name for path in root.iterdir())
    assert names == ["best", "best-00000002", "checkpoint-00000002", "checkpoint-00000003", "latest"]
    for state, score in (({}, math.nan), ({"best": 1}, 1.0)):
        with pytest.raises(CheckpointError, match="cannot save the best"):
            save_best(root, state, score, 30)


def test_a_damaged_latest_is_refused_until_the_older_one_is_asked_for(root, caplog):
    save_checkpoint(root, {"algorithm": {"w": torch.arange(6.0)}, "progress": {"step": 2}})
    older, newest = complete_checkpoints(root)
    path = newest / "algorithm.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    way_out = rf"The checkpoint {older.name} is whole: remove {root / 'latest'} to have it taken\.$"
    with pytest.raises(CheckpointError, match=rf"{path} does not match.*{way_out}"):
        load_checkpoint(root)
    assert load_checkpoint(older)["progress"] == {"step": 1}
    with pytest.raises(CheckpointError, match=rf"'best' is missing. The checkpoint {older.name} .* ask for the latest"):
        load_checkpoint(root, "best")
    # What the message says, works.
    (root / "latest").unlink()
    assert load_checkpoint(root)["progress"] == {"step": 1}
    assert f"latest is missing; the newest whole checkpoint is taken, {older.name}" in caplog.text
    (older / "state.json").unlink()
    with pytest.raises(CheckpointError, match=f"no whole checkpoint, .* 'latest' is missing: {path} does not"):
        load_checkpoint(root)


def test_where_the_pointer_is_lost_the_newest_whole_one_is_read_and_the_next_one_follows_it(root):
    save_checkpoint(root, {"progress": {"step": 2}})
    (root / "latest").unlink()
    assert load_checkpoint(root)["progress"] == {"step": 2}
    assert save_checkpoint(root, {"progress": {"step": 3}}).name == "checkpoint-00000003"
    assert load_checkpoint(root)["progress"] == {"step": 3}


def test_some_parts_may_be_read_alone(root):
    assert load_checkpoint(root, parts=("progress", "nothing")) == {"progress": {"step": 1}}
    # What is not read need not be whole.
    (root / "checkpoint-00000001" / "algorithm.safetensors").unlink()
    assert load_checkpoint(root, parts=("progress",)) == {"progress": {"step": 1}}
    with pytest.raises(CheckpointError, match="algorithm.safetensors is missing"):
        load_checkpoint(root, parts=("algorithm",))


def test_another_checkpoint_under_the_name_of_the_latest_is_refused(root):
    save_checkpoint(root, {"progress": {"step": 2}})
    older, newest = complete_checkpoints(root)
    shutil.rmtree(newest)
    older.rename(newest)
    with pytest.raises(CheckpointError, match=r"manifest\.json does not match the SHA-256"):
        load_checkpoint(root)
    # Whoever gives the folder itself means what is in it.
    assert load_checkpoint(newest)["progress"] == {"step": 1}


def test_tensor_files_are_what_safetensors_reads_and_writes(root):
    state = awkward_state()
    folder = save_checkpoint(root, {"algorithm": state})
    _, tensors = flatten(state)
    read = safetensors.torch.load_file(folder / "algorithm.safetensors")
    assert set(read) == set(tensors)
    for name, tensor in read.items():
        assert_identical(tensors[name].contiguous(), tensor)
    (folder / "algorithm.safetensors").unlink()
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    with_honest_manifest(folder, "algorithm.safetensors", safetensors.torch.save(whole))
    assert_identical(load_checkpoint(folder)["algorithm"], state)


def test_strides_of_single_values_do_not_matter(tmp_path):
    state = {"a": [np.broadcast_to(np.float64(3.0), (1, 1)), torch.arange(6.0)[::3][1:], torch.ones(2).expand(3, 2)]}
    save_checkpoint(tmp_path, state)
    assert_identical(load_checkpoint(tmp_path), state)


def test_tensors_of_many_megabytes_come_back(tmp_path, generator):
    state = {"replay": [torch.randint(0, 256, (9_000_001,), dtype=torch.uint8, generator=generator), torch.ones(3)]}
    save_checkpoint(tmp_path, state)
    assert_identical(load_checkpoint(tmp_path), state)


def test_lazy_conjugates_are_saved_as_what_they_stand_for(tmp_path):
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    save_checkpoint(tmp_path, {"a": [numbers.conj(), numbers.conj().imag]})
    assert_identical(load_checkpoint(tmp_path)["a"], [torch.tensor([1 - 2j, 3 + 4j]), torch.tensor([-2.0, 4.0])])


def test_every_changed_or_missing_byte_is_noticed(root, tmp_path_factory):
    rng = np.random.default_rng(0)
    for path in [*sorted((root / "checkpoint-00000001").iterdir()), root / "latest"]:
        content = path.read_bytes()
        for position in range(0, len(content), max(1, len(content) // 60)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            for bad in (bytes(damaged), content[:position], content + b"x"):
                path.write_bytes(bad)
                with pytest.raises(CheckpointError, match=path.parent.name):
                    load_checkpoint(root)
        path.unlink()
        if path.name != "latest":
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
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(dump_json(manifest))


def test_pickles_and_other_hostile_files_are_refused_unread(root, tmp_path_factory):
    folder = root / "checkpoint-00000001"
    for content, problem in hostile_files(tmp_path_factory.mktemp("hostile")):
        with_honest_manifest(folder, "algorithm.safetensors", content)
        with pytest.raises(CheckpointError, match=problem):
            load_checkpoint(folder)
    header = b'{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}'
    with_honest_manifest(folder, "algorithm.safetensors", len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match="a type, shape or place that does not exist"):
        load_checkpoint(folder)
    assert not (Path(__file__).parent / "EXPLODED").exists()


def test_json_with_duplicate_keys_or_nan_is_refused(root):
    for content in (b'{"progress": 1, "progress": 2}', b'{"progress": NaN}', b"[" * 100_000, b"[]"):
        folder = root / "checkpoint-00000001"
        with_honest_manifest(folder, "state.json", content)
        with pytest.raises(CheckpointError, match=r"state\.json"):
            load_checkpoint(folder)


def test_paths_cannot_leave_the_folder(root, tmp_path):
    folder = root / "checkpoint-00000001"
    for name in ("../x.safetensors", "/etc/passwd", "a/b.safetensors", ".safetensors", "evil.pt"):
        manifest = json.loads((folder / "manifest.json").read_bytes())
        manifest["files"][name] = {"bytes": 1, "sha256": ""}
        (folder / "manifest.json").write_text(dump_json(manifest))
        with pytest.raises(CheckpointError, match="not a file of a checkpoint"):
            load_checkpoint(folder)
        del manifest["files"][name]
        (folder / "manifest.json").write_text(dump_json(manifest))
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    for name in ("../elsewhere", "checkpoint-1", ".", "checkpoint-00000001/../x", "checkpoint-\u0660000000\u0661"):
        (root / "latest").write_text(f"{name} {digest}\n", encoding="utf-8")
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

    monkeypatch.setattr("spnpolicy.training.storage.checkpoints.write_durably", full)
    with pytest.raises(DiskError, match=r"No space left on device; \d+ bytes are free"):
        save_checkpoint(root, {"progress": {"step": 2}})
    assert sorted(path.name for path in root.iterdir()) == ["checkpoint-00000001", "latest"]
    assert load_checkpoint(root)["progress"] == {"step": 1}


@pytest.mark.parametrize("spaces", [8, MAX_HEADER])
def test_a_header_beyond_the_limit_is_refused_however_harmless(root, spaces):
    folder = root / "checkpoint-00000001"
    header = b'{"w":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}' + b" " * spaces + b"}"
    content = len(header).to_bytes(8, "little") + header + np.arange(6, dtype=np.float32).tobytes()
    with_honest_manifest(folder, "algorithm.safetensors", content)
    if len(header) <= MAX_HEADER:
        assert load_checkpoint(folder)["algorithm"]["w"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    else:
        with pytest.raises(
            CheckpointError, match=f"algorithm.safetensors has a header of .* more than the {MAX_HEADER}"
        ):
            load_checkpoint(folder)
