"""Environments named by where they are, and what a user reads after a mistake in such a name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spnpolicy.base.decoding import decode
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.envs import make_env
from spnpolicy.envs.foraging.lbforaging import Foraging
from spnpolicy.envs.names import HOMES, games_in, hint
from spnpolicy.training.config import RunConfig

SPREAD = "pettingzoo:mpe2.simple_spread_v3"


@pytest.fixture(autouse=True)
def small_games(monkeypatch):
    """Let the module small_games be found, also where this file runs alone."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "pettingzoo")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pettingzoo:mpe2.simple_spred_v3", {}, "'mpe2' has no 'simple_spred_v3'. Did you mean 'simple_spread_v3'?"),
        ("pettingzoo:nowhere.game_v3", {}, "there is no module 'nowhere'. Install its package"),
        ("pettingzoo:mpe2.nothing.at_all", {}, "there is no module 'mpe2.nothing'"),
        ("pettingzoo:", {}, "'' is no name of a module. Write it like pettingzoo:mpe2.simple_spread_v3."),
        ("pettingzoo:my game", {}, "'my game' is no name of a module. Write it like pettingzoo:mpe2.simple_spread_v3."),
        (
            "pettingzoo:small_games",
            {},
            "has no parallel_env; name a class in it, such as 'pettingzoo:small_games.MyEnv'",
        ),
        ("pettingzoo:small_games.Pear", {}, "'small_games' has no 'Pear'. Did you mean 'Pair'?"),
        ("pettingzoo:small_games.not_callable", {}, "is a int; name a module, class or function"),
        ("pettingzoo:small_games.Talkative", {}, "it makes a Talkative without possible_agents, reset, step"),
        ("pettingzoo:small_games.Pair", {"lenght": 3}, "unknown option 'lenght'; did you mean 'length'?"),
        ("pettingzoo:small_games.Pair", {"worker": 3}, "unknown option 'worker'; did you mean 'workers'?"),
        ("pettingzoo:small_games.Pair", {"length": "3"}, "length='3' must be a number; the default is 6"),
        ("pettingzoo:small_games.Pair", {"first_is_cut_off": "no"}, "first_is_cut_off='no' must be true or false"),
        ("pettingzoo:small_games.Pair", {"ends_by": 3}, "ends_by=3 must be a word; the default is 'termination'"),
        ("pettingzoo:small_games.Spaces", {"action": "x"}, "it cannot be made with action='x': KeyError: 'x'"),
        (SPREAD, {"n": 3}, "unknown option 'n'"),
        (SPREAD, {"max_cycle": 3}, "unknown option 'max_cycle'; did you mean 'max_cycles'?"),
        (SPREAD, {"N": "three"}, "N='three' must be a number; the default is 3"),
        (SPREAD, {"N": 0}, "it cannot be made with N=0: ValueError"),
        (
            SPREAD,
            {"continuous_actions": True},
            "agent_0 has continuous actions, Box(0.0, 1.0, (5,), float32); give bins",
        ),
        ("foraging", {"tasks": "x"}, "unknown option 'tasks'; did you mean 'task'?"),
        ("foraging", {"task": "CartPole-v1"}, "unknown task 'CartPole-v1'; write it like 'Foraging-8x8-2p-3f-coop-v3'"),
        ("foraging", {"num_envs": 0}, "num_envs=0 is too small"),
        ("chain:Env", {}, "there is no module 'chain'"),
        ("small_games:Nothing", {}, "'small_games' has no 'Nothing'"),
        ("small_games:not_callable", {}, "it is a int. Name a class or function that makes a BatchedEnv"),
    ],
)
def test_mistakes_are_explained(name, options, message):
    with pytest.raises(ConfigError) as error:
        make_env(name, **options)
    assert message in str(error.value)


def test_own_batched_environment_by_name():
    env = make_env("spnpolicy.envs.games.matrix_games:MatrixGame", game="penalty", num_envs=3)
    assert env.optimum == 10
    assert env.num_envs == 3
    with pytest.raises(ConfigError, match="unknown option 'gme'; did you mean 'game'"):
        make_env("spnpolicy.envs.games.matrix_games:MatrixGame", gme="penalty")
    with pytest.raises(EnvError, match=r"a Pair without name, num_envs, spec.* is no BatchedEnv.*'pettingzoo:small"):
        make_env("small_games:Pair")


def test_words_that_look_like_numbers_arrive_as_words():
    """On the command line nan and inf are numbers, except where an option is a word."""
    config = decode(RunConfig, {"algorithm": "vdn", "env": "x", "env_options": {"ends_by": "nan"}}, path="config")
    env = make_env("pettingzoo:small_games.Pair", **config.env_options)
    assert env._hands[0].share._games[0].env.ends_by == "nan"
    with pytest.raises(ConfigError, match="ends_by=3 must be a word"):
        make_env("pettingzoo:small_games.Pair", ends_by=3)


SISL = "pettingzoo:pettingzoo.sisl.multiwalker_v9"
ZOMBIES = "pettingzoo:pettingzoo.butterfly.knights_archers_zombies_v11"


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("simple_spread_v3", SPREAD),
        ("simple_spread_v2", SPREAD),
        ("mpe2.simple_spread_v3", SPREAD),
        ("mpe2:simple_spread_v3", SPREAD),
        ("pettingzoo:simple_spread_v3", SPREAD),
        ("pettingzoo:mpe22.simple_spread_v3", SPREAD),
        ("pettingzoo:mpe2/simple_spread_v3", SPREAD),
        ("pettingzoo:mpe2.simple_spread", SPREAD),
        ("pettingzoo: mpe2.simple_spread_v3", SPREAD),
        ("PettingZoo:mpe2.simple_spread_v3", SPREAD),
        ("pettingzoo:pettingzoo.mpe.simple_spread_v3", SPREAD),
        ("pettingzoo.mpe.simple_spread_v2", SPREAD),
        ("pettingzoo:sisl.multiwalker_v9", SISL),
        ("pettingzoo:pettingzoo.sisl.multiwalker_v8", SISL),
        ("pettingzoo.sisl.multiwalker_v9", SISL),
        ("multiwalker_v9", SISL),
        ("pettingzoo:butterfly.knights_archers_zombies_v11", ZOMBIES),
        ("pettingzoo:butterfly.knights_archers_zombies_v10", ZOMBIES),
        ("pettingzoo:pettingzoo.butterfly:knights_archers_zombies_v11", ZOMBIES),
        ("pettingzoo:pettingzoo.butterfly.knights_archers_zombies_v10", ZOMBIES),
        ("pettingzoo:small_games:Pair", "pettingzoo:small_games.Pair"),
        ("pettingzoo:small_games/Pair", "pettingzoo:small_games.Pair"),
    ],
)
def test_a_mistaken_name_leads_to_the_right_one(name, right):
    with pytest.raises(ConfigError, match=rf"Did you mean '{re.escape(right)}'\?$"):
        make_env(name, num_envs=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small_games.Pair", "A PettingZoo environment is named 'pettingzoo:small_games.Pair', a batch of your own"),
        (
            "small_games:Pair",
            "it takes no num_envs, and a batch of environments must. A PettingZoo environment is named",
        ),
        (
            "mpe2.simple_v3:parallel_env",
            "keyword argument 'num_envs'. A PettingZoo environment is named 'pettingzoo:mpe2.s",
        ),
        ("pettingzoo:pettingzoo.classic.tictactoe_v3", "has no parallel_env; its agents take turns (AECEnv), and here"),
        ("pettingzoo:mpe2.simple_v3.raw_env", "it makes no ParallelEnv but a raw_env; its agents take turns (AECEnv)"),
        ("pettingzoo:mpe2", "has no parallel_env; name a game in it, such as 'pettingzoo:mpe2.simple_v3'."),
        ("pettingzoo:sisl", "Name a game, such as 'pettingzoo:pettingzoo.sisl.pursuit_v5'."),
        ("pettingzoo:pettingzoo.classic.gin_rummy_v4", "has no 'gin_rummy_v4': gin_rummy was removed from PettingZoo"),
        (
            "pettingzoo:pettingzoo.sisl.multiwalker_v8",
            "'multiwalker_v8' is an old version, which 'pettingzoo.sisl' has",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The old environment creation API:DeprecationWarning")
def test_what_is_no_name_of_a_game_is_explained(name, message):
    with pytest.raises(ConfigError) as error:
        make_env(name, num_envs=2)
    assert message in str(error.value)


@pytest.mark.parametrize(("game", "package"), [("sisl.multiwalker_v9", "Box2D"), ("butterfly.pistonball_v6", "pymunk")])
def test_a_game_whose_extra_is_missing_says_which(game, package, monkeypatch):
    monkeypatch.delitem(sys.modules, f"pettingzoo.{game}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    extra = game.partition(".")[0]
    message = rf"needs the package '{package}', which is not installed; run `pip install 'pettingzoo\[{extra}\]'`\.$"
    with pytest.raises(ConfigError, match=message):
        make_env(f"pettingzoo:pettingzoo.{game}")


def test_every_hint_names_a_game_that_is_there():
    """Whatever PettingZoo offers is found by its bare name, by that of its family and by an old version."""
    found = {home: games_in(home) for home in HOMES}
    assert min(map(len, found.values())) > 1
    for home, games in found.items():
        for game in games:
            assert hint(game).startswith("Did you mean 'pettingzoo:")
            assert hint(f"{home.rpartition('.')[2]}.{game}") == f"Did you mean 'pettingzoo:{home}.{game}'?"
            assert (
                hint(f"pettingzoo:{home}.{game.rpartition('_v')[0]}_v0") == f"Did you mean 'pettingzoo:{home}.{game}'?"
            )
    assert games_in("") == games_in("nowhere.at_all") == []


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lbforaging", None)
    with pytest.raises(
        ConfigError, match=r"lbforaging is not installed; run `pip install 'spnpolicy\[environments\]'`"
    ):
        Foraging()


def test_names_load_nothing_heavy():
    program = (
        "import json, sys, spnpolicy.envs as envs\n"
        "envs.PREFIXES\n"
        "print(json.dumps(sorted({'torch', 'pettingzoo', 'gymnasium', 'lbforaging'} & set(sys.modules))))\n"
        "envs.make_env('pettingzoo:mpe2.simple_spread_v3')\n"
        "print(json.dumps(sorted({'torch'} & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lists = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert lists == [[], []]
