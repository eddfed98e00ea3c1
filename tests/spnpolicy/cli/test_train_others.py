"""Awkward games of others from the command line: they train, or one right sentence says what to do."""

import importlib.util
import subprocess
from pathlib import Path

import pytest
from cli_cases import PROGRAM

HERE = Path(__file__).parent
STEPS = ["--steps", "1000", "--num-envs", "4", "--evaluation-episodes", "2"]
STAND_INS = {
    "Walkers": ([], 2, r"first has continuous actions, .* give bins=5 (--env.bins 5), for example"),
    "Walkers --env.bins 2": (
        ["--env.bins", "2"], 5,
        "episodes in a row were dropped and none came to its end, so there is nothing to learn from or to score. Mend "
        "the environment, or leave its state() out: own_state false (--env.own_state false). The last fault: ",
    ),
    "Walkers --env.bins 2 --env.own_state false": (["--env.bins", "2", "--env.own_state", "false"], 0, ""),
    "Pursuers": ([], 0, ""),
    "Knights": ([], 0, ""),
    "Rock": ([], 0, ""),
}  # fmt: skip
"""Flags, exit code and the sentence."""
REAL = {
    "sisl.multiwalker_v9": ("Box2D", ["--env.bins", "2", "--env.own_state", "false"]),
    "sisl.pursuit_v5": ("pygame", ["--env.max_cycles", "50"]),
    "butterfly.knights_archers_zombies_v11": ("pygame", ["--env.max_cycles", "50"]),
    "classic.rps_v2": ("pygame", []),
}
"""The package that each needs beside PettingZoo, and flags."""


def train(env, flags, folder):
    command = [*PROGRAM, "train", "iql", f"pettingzoo:{env}", *STEPS, *flags, "--out", str(folder)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=300)
    said = [line for line in done.stderr.splitlines() if not line.startswith(("iql on", "    Help:"))]
    return done.returncode, done.stdout, said


@pytest.mark.full
@pytest.mark.parametrize("case", STAND_INS)
def test_a_game_like_one_of_pettingzoo_trains_or_says_what_to_do(case, tmp_path):
    flags, code, sentence = STAND_INS[case]
    name = case.partition(" ")[0]
    assert_as_expected(*train(f"stand_ins.{name}", flags, tmp_path / "run"), code, sentence)


@pytest.mark.full
@pytest.mark.parametrize("game", REAL)
def test_the_game_itself_trains_or_says_what_to_install(game, tmp_path):
    package, flags = REAL[game]
    code, sentence = 0, ""
    if importlib.util.find_spec(package) is None:
        extra = game.partition(".")[0]
        code, sentence = (
            2,
            f"needs the package '{package}', which is not installed; run `pip install 'pettingzoo[{extra}]'`",
        )
    assert_as_expected(*train(f"pettingzoo.{game}", flags, tmp_path / "run"), code, sentence)


def assert_as_expected(code, shown, said, expected, sentence):
    assert code == expected, said
    if expected == 0:
        assert "finished after 1,000 env steps" in shown
        assert said == []
    else:
        assert shown == ""
        assert len(said) == 1
        for part in sentence.split(".*"):
            assert part in said[0]
