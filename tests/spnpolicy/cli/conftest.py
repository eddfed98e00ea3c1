import json
import shutil

import pytest
from cli_cases import MATRIX, TINY

from spnpolicy.cli import main

RUN = {"algorithm": "vdn", "env": "coverage"}
CONFIGS = {
    "good": json.dumps(RUN),
    "twice": '{"algorithm": "vdn", "env": "coverage", "env": "coverage"}',
    "nan": '{"algorithm": "vdn", "env": "coverage", "train": {"discount": NaN}}',
    "infinite": '{"algorithm": "vdn", "env": "coverage", "train": {"discount": 1e999}}',
    "deep": "[" * 200_000,
    "unknown": json.dumps({**RUN, "trian": {}}),
    "setting": json.dumps({**RUN, "train": {"stps": 5}}),
    "type": json.dumps({**RUN, "train": {"steps": "5"}}),
    "half": json.dumps({"algorithm": "vdn"}),
    "algorithm": json.dumps({**RUN, "algorithm": "vnd"}),
    "env": json.dumps({**RUN, "env": "covrage"}),
    "list": "[]",
    "huge": " " * (1 << 21),
}
"""Contents of config files, most of them wrong."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with three tiny finished runs, `vdn`, `spn` and, in an environment without pictures, `matrix`."""
    folder = tmp_path_factory.mktemp("trained")
    for name, algorithm in (("vdn", "vdn"), ("spn", "spn_ac")):
        assert main(["train", algorithm, "coverage", *TINY, "--out", str(folder / name)]) == 0
    assert main(["train", "vdn", "matrix_game", *MATRIX, "--out", str(folder / "matrix")]) == 0
    return folder


@pytest.fixture(scope="session")
def good_and_broken(trained, tmp_path_factory):
    """A folder with good and broken runs and files."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    for name in ("file", "old.gif", "old.png", "old.mp4"):
        (folder / name).write_text("mine")
    (folder / "model.uai").write_text("MARKOV\n2 2 2\n1 2 0 1 4 1 2 3 4\n")
    (folder / "cut.uai").write_text("MARKOV\n2 2 2\n1 0\n")
    (folder / "empty.uai").write_text("MARKOV 0 0\n")
    (folder / "far.evid").write_text("1 7 0\n")
    (folder / "binary.json").write_bytes(b"\xff\xfe{")
    for name, text in CONFIGS.items():
        (folder / f"{name}.json").write_text(text)
    for name in ("stopped", "corrupt", "torn", "misconfigured"):
        shutil.copytree(folder / "vdn", folder / name)
        (folder / name / "result.json").unlink()
    newest = max((folder / "corrupt" / "checkpoints").glob("checkpoint-*")) / "algorithm.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    for manifest in (folder / "torn" / "checkpoints").glob("*/manifest.json"):
        manifest.unlink()
    (folder / "misconfigured" / "config.json").write_text("{")
    return folder


@pytest.fixture
def place(good_and_broken, monkeypatch):
    """The folder with good and broken runs, in which the command is given; to be left as it is."""
    monkeypatch.chdir(good_and_broken)
    return good_and_broken
