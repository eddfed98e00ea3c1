"""Bad input ends with exit code 2 and a few words, and leaves the disk as it was."""

import shutil

import pytest
from cli_cases import TINY, contents

from spnpolicy.cli import main
from spnpolicy.cli.failures import MAX_LINES

TRAIN = ["train", "vdn", "coverage"]
QUERY = ["query", "spn"]
BENCHMARK = ["benchmark", "coverage", "--out", "new"]
INFER = ["infer", "model.uai"]

# Words of the command line, and what the message must say.
CASES = {
    "unknown command": (["trian"], "Did you mean 'train'"),
    "no algorithm": (["train"], "ALGORITHM"),
    "no environment": (["train", "vdn"], "ENV"),
    "one word too many": ([*TRAIN, "again"], "'again' is one argument too many"),
    "unknown algorithm": (["train", "vdnn", "coverage"], "Did you mean 'vdn'"),
    "unknown environment": (["train", "vdn", "covrage"], "Did you mean 'coverage'"),
    "unknown name to list": (["list", "spn-ac"], "Did you mean 'spn_ac'"),
    "unknown flag": ([*TRAIN, "--sede", "3"], "Did you mean '--seed'"),
    "abbreviated flag": ([*TRAIN, "--discoun", "0.9"], "Did you mean '--discount'"),
    "unknown group": ([*TRAIN, "--environment.size", "3"], "unknown flag '--environment.size'"),
    "no agents": ([*TRAIN, "--env.agents", "0"], "agents=0 is too small"),
    "grid too small": ([*TRAIN, "--env.size", "2"], "use size=3 or more"),
    "more goals than agents": ([*TRAIN, "--env.goals", "4"], "goals=4"),
    "unknown variant": ([*TRAIN, "--env.variant", "lach"], "did you mean 'latch'"),
    "unknown environment option": ([*TRAIN, "--env.sise", "4"], "did you mean 'size'"),
    "copies as an option": ([*TRAIN, "--env.num_envs", "4"], "train.num_envs"),
    "fraction of an agent": ([*TRAIN, "--env.agents", "2.5"], "agents=2.5"),
    "negative steps": ([*TRAIN, "--steps", "-1"], "train.steps is -1"),
    "steps in words": ([*TRAIN, "--steps", "many"], "train.steps is 'many'"),
    "fractional steps": ([*TRAIN, "--steps", "1e5"], "must be of type int"),
    "steps missing": ([*TRAIN, "--steps"], "--steps"),
    "infinite discount": ([*TRAIN, "--discount", "inf"], "not a finite number"),
    "discount above one": ([*TRAIN, "--discount", "1.5"], "between 0 and 1"),
    "negative seed": ([*TRAIN, "--seed", "-3"], "train.seed is -3"),
    "replay too small": ([*TRAIN, "--replay-capacity", "8"], "at least train.num_envs"),
    "no threads": ([*TRAIN, "--threads", "0"], "--threads"),
    "unknown setting": ([*TRAIN, "--algorithm.hiden", "8"], "Did you mean 'hidden'"),
    "unknown nested setting": ([*TRAIN, "--algorithm.features.frequences", "2"], "Did you mean 'frequencies'"),
    "setting of the wrong type": ([*TRAIN, "--algorithm.hidden", "8.5,"], "hidden[0] is 8.5"),
    "setting that is no list": ([*TRAIN, "--algorithm.hidden", "8"], "must be a list"),
    "discount of the algorithm": ([*TRAIN, "--algorithm.discount", "0.9"], "set train.discount"),
    "setting without a value": ([*TRAIN, "--algorithm.hidden"], "needs a value"),
    "setting without a name": ([*TRAIN, "--algorithm.", "8"], "names no setting"),
    "setting given twice": ([*TRAIN, "--env.size", "4", "--env.size", "5"], "given twice"),
    "setting against its parent": ([*TRAIN, "--algorithm.target", "1", "--algorithm.target.rate", "1"], "contradicts"),
    "broken JSON": ([*TRAIN, "--algorithm.hidden", "[8"], "not valid JSON"),
    "existing folder": ([*TRAIN, *TINY, "--out", "vdn"], "choose another --out"),
    "existing file": ([*TRAIN, *TINY, "--out", "file"], "choose another --out"),
    "missing run": (["evaluate", "nothing"], "nothing is not a run"),
    "file as a run": (["evaluate", "file"], "file is not a run"),
    "no episodes": (["evaluate", "vdn", "--episodes", "0"], "--episodes"),
    "too many episodes": (["evaluate", "vdn", "--episodes", "1000000000"], "100,000"),
    "animation of another kind": (["evaluate", "vdn", "--gif", "x.png"], "must end in .gif"),
    "animation over a file": (["evaluate", "vdn", "--gif", "old.gif"], "old.gif exists"),
    "animation in no folder": (["evaluate", "vdn", "--gif", "no/x.gif"], "there is no folder no"),
    "settings for a run": (["evaluate", "vdn", "--env.size", "4"], "takes no --env settings"),
    "corrupt checkpoint": (["evaluate", "corrupt"], "does not match its SHA-256"),
    "checkpoint without a manifest": (["evaluate", "torn"], "manifest.json"),
    "config of another kind": (["evaluate", "misconfigured"], "not valid JSON"),
    "query of action values": (["query", "vdn"], "vdn learns action values"),
    "agent out of range": ([*QUERY, "--given", "2=stay"], "there is no agent '2'; agents are 0 to 1"),
    "negative agent": ([*QUERY, "--given=-1=stay"], "there is no agent '-1'"),
    "action out of range": ([*QUERY, "--given", "0=6"], "unknown action of agent 0 '6'"),
    "unknown action": ([*QUERY, "--given", "0=sty"], "Did you mean 'stay'"),
    "evidence without an action": ([*QUERY, "--given", "0="], "--given 2=stay"),
    "evidence without an agent": ([*QUERY, "--given", "stay"], "--given 2=stay"),
    "evidence twice": ([*QUERY, "--given", "0=up", "--given", "0=left"], "names agent 0 twice"),
    "asked agent out of range": ([*QUERY, "--ask", "0,7"], "there is no agent '7'"),
    "asked agent twice": ([*QUERY, "--ask", "1,1"], "names an agent twice"),
    "step after the end": ([*QUERY, "--at-step", "5000"], "is over after step"),
    "picture over a file": ([*QUERY, "--picture", "old.png"], "old.png exists"),
    "missing model": (["infer", "nothing.uai"], "nothing.uai: No such file or directory"),
    "folder as a model": (["infer", "vdn"], "vdn: Is a directory"),
    "no model": (["infer"], "MODEL.uai"),
    "malformed model": (["infer", "cut.uai"], "cut.uai:3:1: 1 factors cannot be described"),
    "model of another kind": (["infer", "file"], "it must begin with MARKOV or BAYES"),
    "missing evidence file": ([*INFER, "--evidence", "nothing.evid"], "nothing.evid: No such file or directory"),
    "malformed evidence": ([*INFER, "--evidence", "file"], "file:1:1: 'mine' is not a number"),
    "evidence of an unknown variable": ([*INFER, "--evidence", "far.evid"], "far.evid:1:3: variable 7 is observed"),
    "unknown structure": ([*INFER, "--structure", "keepset"], "Did you mean 'keep_set'"),
    "no labels": ([*INFER, "--labels", "0"], "--labels"),
    "no time": ([*INFER, "--seconds", "0"], "a number above 0"),
    "endless time": ([*INFER, "--seconds", "inf"], "a number above 0"),
    "time in words": ([*INFER, "--seconds", "soon"], "--seconds: is 'soon'"),
    "negative seed of an inference": ([*INFER, "--seed", "-1"], "--seed"),
    "too few parameters": (
        [*INFER, "--structure", "mean_field", "--max-parameters", "1", "--json"],
        "max_parameters is 1",
    ),
    "too few entries": ([*INFER, "--max-entries", "2"], "--max-entries is 2"),
    "structure without variables": (["infer", "empty.uai", "--structure", "tree"], "has no variables"),
    "settings for an inference": ([*INFER, "--env.size", "4"], "takes no --env settings"),
    "unknown benchmark": (["benchmark", "covrage"], "Did you mean 'coverage'"),
    "unknown preset": ([*BENCHMARK, "--preset", "quik"], "Did you mean 'quick'"),
    "unknown algorithm to compare": ([*BENCHMARK, "--algorithms", "vdn", "spn_ca"], "Did you mean 'spn_ac'"),
    "algorithm compared twice": ([*BENCHMARK, "--algorithms", "vdn", "vdn"], "named once"),
    "no seeds": ([*BENCHMARK, "--seeds", "0"], "--seeds"),
    "no workers": ([*BENCHMARK, "--workers", "0"], "--workers"),
    "benchmark of an impossible task": ([*BENCHMARK, "--env.agents", "30"], "too few for 30 agents"),
    "benchmark of an unknown setting": ([*BENCHMARK, "--algorithm.labls", "3"], "unknown setting 'labls'"),
    "benchmark in the folder of a run": (["benchmark", "coverage", "--out", "vdn"], "not the folder of a benchmark"),
    "benchmark in a file": (["benchmark", "coverage", "--out", "file"], "not the folder of a benchmark"),
}


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A folder with good and broken runs, in which the command is given."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for name in ("file", "old.gif", "old.png"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "model.uai").write_text("MARKOV\n2 2 2\n1 2 0 1 4 1 2 3 4\n")
    (tmp_path / "cut.uai").write_text("MARKOV\n2 2 2\n1 0\n")
    (tmp_path / "empty.uai").write_text("MARKOV 0 0\n")
    (tmp_path / "far.evid").write_text("1 7 0\n")
    for name in ("corrupt", "torn", "misconfigured"):
        shutil.copytree(tmp_path / "vdn", tmp_path / name)
    newest = max((tmp_path / "corrupt" / "checkpoints").glob("checkpoint-*")) / "algorithm.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    for manifest in (tmp_path / "torn" / "checkpoints").glob("*/manifest.json"):
        manifest.unlink()
    (tmp_path / "misconfigured" / "config.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, place, capsys):
    words, expected = CASES[case]
    before = contents(place)
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert expected in output.err
    assert len(output.err.splitlines()) <= MAX_LINES
    assert "Traceback" not in output.err
    assert output.err.startswith("spnpolicy: ")
    assert contents(place) == before


def test_traceback_is_shown_on_request(capsys):
    assert main(["train", "vdnn", "coverage", "--traceback"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err
