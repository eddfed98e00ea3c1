import json
import subprocess
import sys

import pytest

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli import main
from spnpolicy.cli.commands import COMMANDS
from spnpolicy.cli.listing import structures
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.experiments.presets import COVERAGE

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
    from spnpolicy.cli.options import read_command_line

    for example in command.examples:
        assert f"spnpolicy {example}" in text
        words = example.partition("     (")[0].split()
        assert words[0] == name
        read_command_line(command.parser(), words[1:], takes_settings=command.takes_settings)


def test_list_names_everything_there_is(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in (*ALGORITHMS, *ENVIRONMENTS, *COVERAGE):
        assert f"  {name} " in text
    for entry in ALGORITHMS.values():
        assert f"{entry.family}; needs {entry.execution}; {entry.source}\n" in text


def test_list_as_json_says_the_same(capsys):
    assert main(["list", "--json"]) == 0
    lists = json.loads(capsys.readouterr().out)
    assert list(lists["algorithms"]) == list(ALGORITHMS)
    for name, entry in ALGORITHMS.items():
        facts = (entry.description, entry.family, entry.execution, entry.source)
        assert tuple(lists["algorithms"][name].values()) == facts
        assert all(facts)
    assert set(ENVIRONMENTS) < set(lists["environments"])
    assert lists["circuit structures"] == structures()


def test_list_of_an_environment_of_others(capsys):
    assert main(["list", "pettingzoo:mpe2.simple_spread_v3"]) == 0
    text = capsys.readouterr().out
    batch, _, own = text.partition("\nsettings\n")[2].partition("\nsettings of mpe2.simple_spread_v3 itself\n")
    flags = [
        {line.split()[0]: line.split("default: ")[1] for line in part.strip().splitlines()} for part in (batch, own)
    ]
    assert flags[0]["--env.workers"] == "None"
    assert flags[1]["--env.N"] == "3"
    assert flags[1]["--env.max_cycles"] == "25"
    assert not set(flags[0]) & set(flags[1])
    assert main(["list", "pettingzoo:mpe2.simple_spred_v3"]) == 2
    assert "did you mean 'simple_spread_v3'" in capsys.readouterr().err


def test_listed_structures_are_the_registered_ones():
    from circuits.structures import STRUCTURES

    assert set(structures()) == set(STRUCTURES)
    assert all(structures().values())


def test_list_of_one_algorithm_shows_nested_settings_with_defaults(capsys):
    assert main(["list", "spn_ac"]) == 0
    text = capsys.readouterr().out
    assert "--algorithm.network.features.frequencies" in text
    assert "--algorithm.network.hidden" in text
    assert "--algorithm.discount" not in text
    assert main(["list", "coverage"]) == 0
    text = capsys.readouterr().out
    assert "--env.size" in text
    assert "num_envs" not in text.partition("\nsettings\n")[2]
