"""One run of several processes: the same gradients as one process on the same global batch, and exact resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from parallel_program import CONFIG, global_advantages, global_batch, updated
from run_cases import assert_same_run, metrics_without_time

from spnpolicy.base import distributed as parallel
from spnpolicy.base.errors import ConfigError
from spnpolicy.parts.settings import RolloutSettings
from spnpolicy.parts.targets import normalized
from spnpolicy.training.loop import resume
from spnpolicy.training.runs import load_run, read_facts
from spnpolicy.training.storage.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A folder in which two processes have trained together, and what each of them found."""
    folder = tmp_path_factory.mktemp("together")
    program = Path(__file__).parent / "parallel_program.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(program)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"found{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["spn_ac", "vdn", "iql"])
def test_two_halves_of_a_batch_give_the_step_of_the_whole_batch(together, name):
    _, found = together
    assert found[0][name] == found[1][name], "replicas differ"
    alone = [tensor.flatten().double().numpy() for tensor in updated(global_batch(32), name, updates=3)]
    both = [np.array(values) for values in found[0][f"{name} parameters"]]
    assert len(alone) == len(both)
    # Adam divides by the root of tiny squares in its first steps, so rounding is magnified there.
    for ours, theirs in zip(alone, both, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=2e-3, atol=2e-5)


def test_a_smaller_batch_gives_another_step():
    # The test above can fail: with half of the data the parameters are elsewhere.
    whole = updated(global_batch(32), "vdn", updates=3)
    half = updated(type(global_batch(32))(*(column[:16] for column in global_batch(32)[:9])), "vdn", updates=3)
    assert max(float((a - b).abs().max()) for a, b in zip(whole, half, strict=True)) > 1e-4


def test_advantages_are_normalized_over_all_processes(together):
    _, found = together
    both = torch.cat([torch.tensor(part["normalized"]) for part in found], 1)
    torch.testing.assert_close(both, normalized(RolloutSettings(), *global_advantages()))
    assert both[:, :4].mean() < -0.5 < 0.5 < both[:, 4:].mean()


def test_numbers_travel(together):
    _, found = together
    assert [part["size"] for part in found] == [2, 2]
    assert found[0]["rows"] == found[1]["rows"] == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    assert found[0]["mean"] == found[1]["mean"] == [0.5, 3.0]
    assert found[0]["any"] == found[1]["any"] == [True, False]


def test_resume_of_several_processes_is_exact(together):
    folder, found = together
    assert [part["interrupted at"] for part in found] == [136, 136]
    assert_same_run(folder / "unbroken", folder / "broken")
    ranks = [load_checkpoint(folder / name / "checkpoints-rank1") for name in ("unbroken", "broken")]
    for part in ("replay", "streams", "environment"):
        assert str(ranks[0][part]) == str(ranks[1][part])


def test_the_processes_share_the_work(together):
    folder, _ = together
    facts = read_facts(folder / "unbroken")
    assert facts["attempts"][0]["processes"] == 2
    records = [record for record in metrics_without_time(folder / "unbroken") if record["kind"] == "train"]
    # Steps, updates and episodes are those of the whole run, not of one process.
    assert [record["step"] for record in records] == [48, 96, 144, 192, 240, 288]
    assert records[-1]["updates"] == 2 * (288 // 8 - 4)
    rows = (folder / "unbroken" / "episodes.csv").read_text().splitlines()
    assert sum(row.startswith("train,") for row in rows) == sum(record["episodes"] for record in records)
    columns = load_checkpoint(folder / "unbroken" / "checkpoints-rank1")["replay"]["columns"]
    mine = load_checkpoint(folder / "unbroken" / "checkpoints")["replay"]["columns"]
    assert len(columns["actions"]) == len(mine["actions"]) == 60
    assert not torch.equal(columns["actions"], mine["actions"])
    assert load_run(folder / "unbroken", num_envs=2).step == CONFIG.train.steps


def test_the_processes_go_on_to_the_next_stage_together(together):
    """Each counts the episodes of both."""
    folder, found = together
    assert [part["stage"] for part in found] == [2, 2]
    states = [load_checkpoint(folder / "staged" / name) for name in ("checkpoints", "checkpoints-rank1")]
    assert str(states[0]["curriculum"]) == str(states[1]["curriculum"])
    assert 0 < states[0]["curriculum"]["began_at"] < 160


def test_one_process_cannot_go_on_with_the_run_of_two(together, tmp_path):
    folder, _ = together
    (folder / "broken" / "result.json").rename(tmp_path / "result.json")
    with pytest.raises(ConfigError, match="processes was 2, is 1"):
        resume(folder / "broken")
    (tmp_path / "result.json").rename(folder / "broken" / "result.json")


def test_shares_must_be_equal(monkeypatch):
    assert parallel.share("train.num_envs", 7) == 7
    monkeypatch.setattr(parallel, "world", lambda: parallel.World(0, 2))
    assert parallel.share("train.num_envs", 8) == 4
    with pytest.raises(ConfigError, match="train.num_envs is 7, but must be a multiple of 2"):
        parallel.share("train.num_envs", 7)
