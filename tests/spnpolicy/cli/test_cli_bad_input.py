"""Bad input ends with exit code 2 and a few words, and leaves the disk as it was."""

import pytest
from bad_input_cases import CASES
from cli_cases import TINY, contents

from spnpolicy.cli import main
from spnpolicy.cli.commands import COMMANDS
from spnpolicy.cli.failures import MAX_LINES


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


def test_every_command_is_there():
    assert {words[0] for words, _ in CASES.values()} >= set(COMMANDS)


@pytest.mark.parametrize(("flag", "package"), [("--tensorboard", "tensorboard"), ("--wandb=project", "wandb")])
def test_a_sink_that_is_not_installed(flag, package, place, monkeypatch, capsys):
    monkeypatch.setattr("spnpolicy.cli.extras.find_spec", lambda name: None)
    before = contents(place)
    assert main(["train", "vdn", "coverage", *TINY, flag]) == 2
    assert f"{flag.partition('=')[0]} needs {package}" in (errors := capsys.readouterr().err)
    assert f"pip install 'spnpolicy[{package}]'" in errors
    assert contents(place) == before
