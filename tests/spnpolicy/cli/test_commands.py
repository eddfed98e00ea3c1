"""Every command of the table: its help, and its answers to bad input: exit code 2, a few words, the disk untouched."""

import subprocess
import sys

import pytest
from cli_cases import TINY, contents
from command_cases import COMMAND_CASES, NO_COMMAND

from spnpolicy.cli import COMMANDS, main
from spnpolicy.cli.failures import MAX_LINES
from spnpolicy.cli.options import read_command_line

CASES = NO_COMMAND | {what: case for cases in COMMAND_CASES.values() for what, case in cases.items()}
LIGHT = [["--help"], ["list"], ["list", "--json"], ["--version"], ["completion", "bash"], ["trian"],
         *([name, "--help"] for name in COMMANDS)]  # fmt: skip
HEAVY_MODULES = ("torch", "numpy", "scipy", "matplotlib", "PIL", "pettingzoo", "gymnasium", "rich", "ray", "av")


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_help_loads_nothing_heavy(words):
    program = (
        "import sys; from spnpolicy.cli import main; main(sys.argv[1:]); "
        f"print([name for name in {HEAVY_MODULES} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    *text, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert text or words == ["trian"]


def test_overview_names_all_commands_and_exit_codes(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS.values():
        assert command.name in text
        assert command.summary in text
    for code in ("0 ok", "2 usage", "3 failed run", "4 disk", "5 env", "6 numbers", "130 interrupted"):
        assert code in text


def test_no_command_shows_the_overview_and_is_a_usage_error(capsys):
    assert main([]) == 2
    assert "usage: spnpolicy COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_its_own_parser_takes(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    command = COMMANDS[name]
    assert len(command.examples) >= 2
    for example in command.examples:
        assert f"spnpolicy {example}" in text
        words = example.partition("     (")[0].split()
        assert words[0] == name
        read_command_line(command.parser(), words[1:], takes_settings=command.takes_settings)


@pytest.mark.one_in(3)
@pytest.mark.usefixtures("as_installed")
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


def test_every_command_has_its_row():
    assert list(COMMAND_CASES) == list(COMMANDS)
    for name, cases in COMMAND_CASES.items():
        assert {words[0] for words, _ in cases.values()} == {name}


@pytest.mark.parametrize(("flag", "package"), [("--tensorboard", "tensorboard"), ("--wandb=project", "wandb")])
def test_a_sink_that_is_not_installed(flag, package, place, monkeypatch, capsys):
    monkeypatch.setattr("spnpolicy.training.sinks.find_spec", lambda name: None)
    before = contents(place)
    assert main(["train", "vdn", "coverage", *TINY, flag]) == 2
    assert f"{flag.partition('=')[0]} needs {package}" in (errors := capsys.readouterr().err)
    assert f"pip install 'spnpolicy[{package}]'" in errors
    assert contents(place) == before
