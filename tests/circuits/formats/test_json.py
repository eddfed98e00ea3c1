"""Files: what was saved comes back, and nothing else is ever accepted or executed."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

import circuits
from circuits import Circuit, CircuitDistribution, FormatError, StructureError, structures
from tests import strategies


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    circuit = structures.keep_set([2, 3], labels=6)
    path = tmp_path / "policy.safetensors"
    circuits.save(path, circuit, torch.arange(2.0 * circuit.num_parameters).reshape(2, -1))
    return path


@given(strategies.recipes())
@settings(max_examples=30)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, recipe: tuple[str, int]) -> None:
    path = tmp_path_factory.mktemp("io") / "x"
    circuit = strategies.circuit_of(*recipe)
    noise = torch.Generator().manual_seed(recipe[1])
    for logits in (
        torch.randn(2, 3, circuit.num_parameters, generator=noise),
        torch.zeros(circuit.num_parameters).double(),
    ):
        circuits.save(path, circuit, logits)
        back, numbers = circuits.load(path)
        assert torch.equal(numbers, logits)
        assert numbers.dtype == logits.dtype
        assert (back.nodes, back.cardinalities, back.name) == (circuit.nodes, circuit.cardinalities, circuit.name)


def test_conditioned_logits_with_minus_infinity_round_trip(saved: Path) -> None:
    circuit, logits = circuits.load(saved)
    given_ = CircuitDistribution(circuit, logits).condition({1: 2})
    circuits.save(str(saved), circuit, given_.logits.requires_grad_())
    back, numbers = circuits.load(str(saved))
    assert torch.equal(
        CircuitDistribution(back, numbers).marginals(), CircuitDistribution(circuit, given_.logits).marginals()
    )
    assert not numbers.requires_grad
    assert os.listdir(saved.parent) == [saved.name]


def test_logits_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    circuit = structures.mean_field([2, 2])
    for wrong in (torch.zeros(5), torch.zeros(4, dtype=torch.long)):
        with pytest.raises(StructureError, match="4 parameters"):
            circuits.save(tmp_path / "x", circuit, wrong)
    assert not os.listdir(tmp_path)


def test_a_failed_write_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    circuit, logits = circuits.load(saved)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        circuits.save(saved, circuit, logits + 1)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_unopened(tmp_path: Path, protocol: int) -> None:
    path, marker = tmp_path / "x.safetensors", tmp_path / "exploded"
    path.write_bytes(pickle.dumps(Bomb(marker), protocol=protocol))
    with pytest.raises(FormatError, match=r"x\.safetensors: (this is a pickle|not a whole)"):
        circuits.load(path)
    assert not marker.exists()


def test_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(FormatError, match="zip archive"):
        circuits.load(path)
    torch.save({"logits": torch.zeros(3)}, path)
    with pytest.raises(FormatError, match="zip archive"):
        circuits.load(path)


def test_every_flipped_bit_and_every_cut_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for position in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        saved.write_bytes(bytes(broken))
        with pytest.raises(FormatError, match=saved.name):
            circuits.load(saved)
    for length in [*range(0, len(whole), 29), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=saved.name):
            circuits.load(saved)
    saved.write_bytes(whole + b"x")
    with pytest.raises(FormatError, match=saved.name):
        circuits.load(saved)


def rewrite(path: Path, change) -> None:
    """Change the file's metadata and numbers, keeping the container valid and the digest right."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from circuits.formats.json import _digest

    with safe_open(path, "pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
    change(metadata, tensors)
    if "structure" in metadata and "logits" in tensors and metadata["sha256"] != "kept":
        metadata["sha256"] = _digest(metadata["structure"], tensors["logits"])
    save_file(tensors, path, metadata)


def with_structure(**changes: object):
    def change(metadata: dict, _: dict) -> None:
        metadata["structure"] = json.dumps(json.loads(metadata["structure"]) | changes)

    return change


def text(value: str):
    return lambda metadata, _: metadata.update(structure=value)


INPUTS = [["input", 0, [0, 1]], ["input", 1, [0, 1, 2]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, _: m.update(version="1"), "version '1' is unknown"),
        (lambda m, _: m.pop("version"), "version None is unknown"),
        (lambda m, _: m.update(format="weights"), "not written by circuits.save"),
        (lambda m, _: m.clear(), "not written by circuits.save"),
        (lambda m, _: m.update(extra="1"), "parts are wrong"),
        (lambda m, _: m.update(sha256="kept"), "damaged"),
        (lambda _, t: t.update(other=torch.zeros(1)), "parts are wrong"),
        (lambda _, t: t.update(logits=torch.zeros(2, 5)), r"shape \(2, 5\).*6 parameters"),
        (lambda _, t: t.update(logits=torch.zeros(2, 6, dtype=torch.int32)), "int32"),
        (text("{"), "not valid"),
        (text("[]"), "must be an object"),
        (text("[" * 100_000), "not valid"),
        (text('{"name": "a", "name": "b"}'), "twice"),
        (with_structure(unknown=1), "must be an object with"),
        (with_structure(name=3), "name is 3"),
        (with_structure(cardinalities=[2, 3.5]), "not an integer"),
        (with_structure(cardinalities=[2, float("nan")]), "not an integer"),
        (with_structure(cardinalities=[2, True]), "list of integers"),
        (with_structure(cardinalities=[2, 0]), "cardinality 0"),
        (with_structure(cardinalities=[2, 10**15]), "more than"),
        (with_structure(nodes={}), "nodes must be a list"),
        (with_structure(nodes=[["maximum", [0]]]), "node 0 is not"),
        (with_structure(nodes=[["input", True, [0]]]), "node 0 is not"),
        (with_structure(nodes=[*INPUTS, ["product", [0, 9]]]), "node 2 has child 9"),
        (with_structure(nodes=[*INPUTS, ["product", [0, -1]]]), "node 2 has child -1"),
        (with_structure(nodes=[*INPUTS, ["product", ["0", 1]]]), "list of integers"),
        (with_structure(nodes=[*INPUTS, ["sum", [0, 1]]]), "not smooth"),
    ],
)
def test_wrong_content_is_refused_with_its_reason(saved: Path, change, message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(FormatError, match=message) as error:
        circuits.load(saved)
    assert str(saved) in str(error.value)


def test_a_header_that_promises_too_much_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(struct.pack("<Q", 1 << 63) + whole[8:])
    with pytest.raises(FormatError, match=saved.name):
        circuits.load(saved)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        circuits.load(tmp_path / "missing")


def test_the_loaded_circuit_is_an_ordinary_one(saved: Path) -> None:
    circuit, logits = circuits.load(saved)
    assert isinstance(circuit, Circuit)
    assert circuit.is_deterministic
    assert CircuitDistribution(circuit, logits).sample((4,)).shape == (4, 2, 2)
