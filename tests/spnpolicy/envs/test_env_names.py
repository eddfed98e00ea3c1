"""Environments named by where they are, and what a user reads after a mistake in such a name."""

import json
import subprocess
import sys

import pytest

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.envs import make_env
from spnpolicy.envs.foraging.lbforaging import Foraging

SPREAD = "pettingzoo:mpe2.simple_spread_v3"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pettingzoo:mpe2.simple_spred_v3", {}, "'mpe2' has no 'simple_spred_v3'; did you mean 'simple_spread_v3'?"),
        ("pettingzoo:mpe22.simple_spread_v3", {}, "there is no module 'mpe22'. Install its package"),
        ("pettingzoo:mpe2.nothing.at_all", {}, "there is no module 'mpe2.nothing'"),
        ("pettingzoo:", {}, "write it like pettingzoo:mpe2.simple_spread_v3"),
        ("pettingzoo:mpe2/simple", {}, "write it like pettingzoo:mpe2.simple_spread_v3"),
        (
            "pettingzoo:small_games",
            {},
            "has no parallel_env; name a class in it, such as 'pettingzoo:small_games.MyEnv'",
        ),
        ("pettingzoo:small_games.Pear", {}, "'small_games' has no 'Pear'; did you mean 'Pair'?"),
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
        ("small_games:not_callable", {}, "name a class or function that makes a BatchedEnv"),
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
    with pytest.raises(EnvError, match=r"a Pair without name, num_envs, spec.* is no BatchedEnv.*'pettingzoo:package"):
        make_env("small_games:Pair")


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lbforaging", None)
    with pytest.raises(ConfigError, match=r"lbforaging is not installed; run `pip install spnpolicy\[environments\]`"):
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
