"""Curricula on the command line: what the flags say, what is shown, and what is refused."""

import json

import pytest
from cli_cases import TINY

from spnpolicy.base.decoding import encode
from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.cli import main
from spnpolicy.cli.options import read_command_line
from spnpolicy.cli.progress import result_text, training_text
from spnpolicy.cli.train import COMMAND, run_config
from spnpolicy.training.config import Curriculum, RunConfig
from spnpolicy.training.loop import Progress, TrainResult


def curriculum_of(*words, what=("vdn", "coverage")):
    return run_config(read_command_line(COMMAND.parser(), [*what, *words], takes_settings=True)).curriculum


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Curriculum()),
        (["--curriculum", "size=6,8"], Curriculum(({"size": 6}, {"size": 8}))),
        (["--curriculum=size=6"], Curriculum(({"size": 6},))),
        (
            ["--curriculum", "size=6,8", "variant=claim"],
            Curriculum(({"size": 6, "variant": "claim"}, {"size": 8, "variant": "claim"})),
        ),
        (["--curriculum", '[{"size": 6}, {"agents": 2}]'], Curriculum(({"size": 6}, {"agents": 2}))),
        (
            ["--curriculum", "size=6,8", "--curriculum-success", "0.8", "--curriculum-episodes", "64"],
            Curriculum(({"size": 6}, {"size": 8}), 0.8, 64),
        ),
    ],
)
def test_flags_say_the_stages(words, expected):
    assert curriculum_of(*words) == expected


def test_flags_go_on_top_of_a_config_file(tmp_path):
    base = RunConfig("vdn", "coverage", curriculum=Curriculum(({"size": 3},), episodes=50))
    (tmp_path / "config.json").write_text(json.dumps(encode(base)))
    what = ("--config", str(tmp_path / "config.json"))
    assert curriculum_of(what=what) == base.curriculum
    assert curriculum_of("--curriculum", "size=2,4", what=what) == Curriculum(({"size": 2}, {"size": 4}), episodes=50)
    assert curriculum_of("--curriculum-success", "1", what=what).success == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--curriculum", "size"], "'size' must be an option and its values, such as size=6,8,11"),
        (["--curriculum", "size=6", "size=8"], "'size=8' must be an option"),
        (["--curriculum", "size=6,8,9", "agents=2,3"], "agents must have one for each of the 3 stages, or one"),
        (["--curriculum", "[{]"], "is not valid JSON"),
        (["--curriculum", "size=6", "--curriculum-success", "nan"], "curriculum.success is not a finite number"),
        (["--curriculum", "size=6", "--curriculum-episodes", "many"], "curriculum.episodes is 'many'"),
        (["--curriculum-episodes", "30"], "curriculum.episodes is given, but there are no stages"),
        (["--curriculum", "num_envs=6"], "num_envs is a setting of train"),
        (["--curriculum.size", "6"], "unknown flag '--curriculum.size'"),
    ],
)
def test_mistakes_are_named(words, message):
    with pytest.raises(SpnPolicyError) as caught:
        curriculum_of(*words)
    assert message in str(caught.value)


def test_a_stage_that_does_not_fit_is_refused_and_nothing_written(tmp_path, capsys):
    words = ["train", "vdn", "coverage", *TINY, "--out", str(tmp_path / "run"), "--curriculum", "agents=1"]
    assert main(words) == 2
    assert "stage 1 of the curriculum ({'agents': 1}): cardinalities" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["train", "--resume", str(tmp_path / "run"), "--curriculum", "size=3"]) == 2
    assert "began with: remove --curriculum, or begin a new run" in capsys.readouterr().err


def test_the_stage_is_shown_while_it_runs_and_at_the_end(tmp_path):
    assert "(10%), stage 2 of 3, 10 steps/s" in training_text(Progress(100, 1_000, 10.0, {}, 2, 3))
    assert "stage" not in training_text(Progress(100, 1_000, 10.0, {}))
    config = RunConfig("vdn", "coverage", curriculum=Curriculum(({"size": 3}, {"size": 4})))
    was = "curriculum: training was in stage 2 of 3 and never came to the task of the run"
    assert was in result_text(tmp_path, config, TrainResult(1_000, True, {}, 10.0, 0, 2))
    assert "curriculum" not in result_text(tmp_path, config, TrainResult(1_000, True, {}, 10.0, 0, 3))
