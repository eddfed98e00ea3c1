"""`spnpolicy list`: everything there is, and everything about one name."""

import json

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli import main
from spnpolicy.cli.listing import structures
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.experiments.presets import COVERAGE


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
    assert "Did you mean 'simple_spread_v3'" in capsys.readouterr().err


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
