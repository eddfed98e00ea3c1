"""The registry, and what a user reads after a mistake."""

import json
import subprocess
import sys

import pytest

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs import ENVIRONMENTS, environment_class, make_env

# The test runner checks annotations at run time, before our own checks; users do not have that. So mistakes
# of type are tried in a plain interpreter: every expression must end in an error of ours with this text.
MISTAKES = [
    ("make_env('coverge')", "ConfigError", "unknown environment 'coverge'; did you mean 'coverage'?"),
    ("make_env('zzz')", "ConfigError", "unknown environment 'zzz'; known: assignment_game, coverage,"),
    ("make_env(None)", "ConfigError", "unknown environment None"),
    ("make_env('coverage', agent=3)", "ConfigError", "coverage: unknown option 'agent'; did you mean 'agents'?"),
    ("make_env('coverage', agents=0)", "ConfigError", "coverage: agents=0 is too small; it must be 1 or more."),
    ("make_env('coverage', agents=True)", "ConfigError", "agents=True is a bool; it must be a whole number"),
    ("make_env('coverage', agents=2.0)", "ConfigError", "agents=2.0 is a float"),
    ("make_env('coverage', size=float('nan'))", "ConfigError", "size=nan is a float"),
    ("make_env('coverage', size='5')", "ConfigError", "size='5' is a str"),
    ("make_env('coverage', goals=0)", "ConfigError", "goals=0 is too small"),
    ("make_env('coverage', goals=4)", "ConfigError", "goals=4 can never all be covered by agents=3; use goals=3"),
    ("make_env('coverage', size=2)", "ConfigError", "too few for 3 agents and 3 goals in distinct cells; use size=3"),
    ("make_env('coverage', size=1, agents=1)", "ConfigError", "size=1 has 1 cells"),
    ("make_env('coverage', size=10**6)", "ConfigError", "GiB; use a smaller grid or batch"),
    ("make_env('coverage', variant='lach')", "ConfigError", "unknown variant 'lach'; did you mean 'latch'?"),
    ("make_env('coverage', variant=3)", "ConfigError", "unknown variant 3"),
    ("make_env('coverage', placement='rand')", "ConfigError", "did you mean 'random'?"),
    ("make_env('coverage', num_envs=0)", "ConfigError", "num_envs=0 is too small"),
    ("make_env('coverage', num_envs=None)", "ConfigError", "num_envs=None is a NoneType"),
    ("make_env('coverage', episode_limit=0)", "ConfigError", "episode_limit=0 is too small"),
    ("make_env('coverage', layout_seed=-1)", "ConfigError", "layout_seed=-1 is too small"),
    ("make_env('coverage').reset(seed=1.5)", "ConfigError", "seed=1.5 is a float"),
    (
        "coverage.step([[0, 0, 0]])",
        "EnvError",
        "actions are a list; they must be a numpy integer array of shape (1, 3)",
    ),
    ("coverage.step(np.zeros(3, int))", "EnvError", "actions have shape (3,); they must have (1, 3) (envs, agents)."),
    ("coverage.step(np.zeros((1, 3)))", "EnvError", "actions have dtype float64; they must be integers."),
    ("coverage.step(np.ones((1, 3), bool))", "EnvError", "actions have dtype bool"),
    (
        "coverage.set_layout([[0.5, 1, 2]], [[3, 4, 5]])",
        "ConfigError",
        "agent_cells has shape (1, 3) and dtype float64",
    ),
    ("coverage.load_state_dict({})", "CheckpointError", "the saved state is damaged: KeyError('options')"),
    ("coverage.load_state_dict(None)", "CheckpointError", "the saved state is damaged"),
    ("make_env('matrix_game', payoff='abc')", "ConfigError", "payoff is not a table of numbers"),
    ("make_env('matrix_game', payoffs={})", "ConfigError", "payoffs is not a table of numbers"),
    ("make_env('matrix_game', game=3)", "ConfigError", "unknown game 3"),
    ("make_env('matrix_game', rounds=2.5)", "ConfigError", "rounds=2.5 is a float"),
    ("make_env('two_step', num_envs='4')", "ConfigError", "num_envs='4' is a str"),
    ("make_env('assignment_game', fixed=1)", "ConfigError", "fixed=1 must be true or false"),
    ("make_env('assignment_game', idle='no')", "ConfigError", "idle='no' must be true or false"),
    ("make_env('assignment_game', tasks=1.0)", "ConfigError", "tasks=1.0 is a float"),
    ("make_env('assignment_game', agents=10**5)", "ConfigError", "need tables of 37.3 GiB; use fewer"),
    ("make_env('matrix_game', game='penalty', k='x')", "ConfigError", "k='x' must be a finite number"),
]
PROGRAM = """
import json, sys
import numpy as np
from spnpolicy.envs import make_env
heavy = sorted({"torch", "scipy", "pettingzoo", "PIL", "matplotlib"} & set(sys.modules))
coverage = make_env("coverage")
coverage.reset(seed=0)
seen = []
for expression in json.load(sys.stdin):
    try:
        eval(expression)
        seen.append(["nothing", ""])
    except Exception as error:
        seen.append([type(error).__name__, str(error)])
json.dump({"heavy": heavy, "seen": seen}, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers():
    expressions = json.dumps([expression for expression, _, _ in MISTAKES])
    command = [sys.executable, "-c", PROGRAM]
    return json.loads(subprocess.run(command, input=expressions, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("row", range(len(MISTAKES)), ids=[mistake[0] for mistake in MISTAKES])
def test_mistakes_are_explained(answers, row):
    _, error, text = MISTAKES[row]
    kind, message = answers["seen"][row]
    assert kind == error
    assert text in message


def test_listing_environments_imports_nothing_heavy(answers):
    assert answers["heavy"] == []


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_registry_lines_lead_somewhere(name):
    env = make_env(name, num_envs=2)
    assert env.name == name
    assert isinstance(env, environment_class(name))
    assert ENVIRONMENTS[name][1]


def test_nearest_option_is_named():
    with pytest.raises(ConfigError, match="unknown option 'varient'; did you mean 'variant'"):
        make_env("coverage", varient="latch")
