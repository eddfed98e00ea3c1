"""The door check: one broken environment per message."""

import numpy as np
import pytest

import spnpolicy
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.envs import EnvSpec, Step, check_env
from spnpolicy.envs.options import checked_actions
from tests.spnpolicy.envs.pettingzoo.small_games import Pair, Spaces


class Right:
    """An environment that is right in everything: the number of the step, a random number, episodes of 5 steps."""

    name = "right"
    num_envs = 2
    spec = EnvSpec((2, 2), 2, 4, has_action_masks=False)
    episode_limit = 5
    action_names = ("x", "y")

    def __init__(self):
        self.generator = np.random.default_rng()

    def reset(self, *, seed=None):
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.age = np.zeros(2, int)
        return self.show(self.look(), np.zeros((2, 2)), np.zeros(2, bool))

    def look(self):
        seen = self.generator.random((2, 2, 2)).astype(np.float32)
        seen[:, :, 0] = self.age[:, None]
        return seen

    def step(self, actions):
        actions = checked_actions(self.name, actions, 2, np.array([2, 2]))
        self.age += 1
        final, ended = self.look(), self.age == self.episode_limit
        self.age[ended] = 0
        return self.show(final, actions, ended)

    def show(self, final, reward, ended):
        seen = np.where(ended[:, None, None], self.look(), final) if ended.any() else final
        self.seen = seen
        mask = np.ones((2, 2, 2), bool)
        return Step(
            *(seen, seen.reshape(2, -1), np.asarray(reward, np.float32), np.zeros(2, bool), ended, mask),
            *(final, final.reshape(2, -1), mask),
        )

    def state_dict(self):
        return {"age": self.age.copy(), "generator": self.generator.bit_generator.state, "seen": self.seen.copy()}

    def load_state_dict(self, state):
        self.age = state["age"].copy()
        self.generator.bit_generator.state = state["generator"]
        return self.show(state["seen"].copy(), np.zeros((2, 2)), np.zeros(2, bool))


def changed(**members):
    """Return an environment that differs from the right one in some members."""
    return type("Wrong", (Right,), members)()


def of_step(change):
    """Return a `step` whose result goes through `change`."""
    return lambda self, actions: change(Right.step(self, actions))


class Reusing(Right):
    """Shows the same array in every step."""

    buffer = np.zeros((2, 2, 2), np.float32)

    def look(self):
        self.buffer[:] = super().look()
        return self.buffer

    def show(self, final, reward, ended):
        step = super().show(final, reward, ended)
        return step._replace(observation=final, state=final.reshape(2, -1))


def accepting(self, actions):
    return Right.step(self, np.zeros((2, 2), int))


def endless(self, actions):
    step = Right.step(self, actions)
    return step._replace(
        truncated=np.zeros(2, bool),
        final_observation=step.observation,
        final_state=step.state,
        terminated=np.zeros(2, bool),
    )


def forgetting(self, state):
    Right.load_state_dict(self, state)
    self.generator = np.random.default_rng(0)
    return self.show(state["seen"].copy(), np.zeros((2, 2)), np.zeros(2, bool))


WRONG = {
    "no name": (changed(name=""), "name is ''; it must be a word"),
    "no envs": (changed(num_envs=0), "num_envs is 0; it must be a whole number, 1 or more"),
    "limit as float": (changed(episode_limit=5.0), "episode_limit is 5.0; it must be a whole number"),
    "spec of another type": (changed(spec=(2, 2)), "spec is a tuple; it must be a spnpolicy.envs.EnvSpec"),
    "counts in a list": (
        changed(spec=EnvSpec([2, 2], 2, 4, False)),
        "spec.cardinalities is [2, 2]; it must be a tuple",
    ),
    "no state size": (changed(spec=EnvSpec((2, 2), 2, 0, False)), "spec.state_size is 0"),
    "names": (changed(action_names=("x",)), "action_names has 1 names; it needs one for each of the 2 actions"),
    "observation size": (
        changed(spec=EnvSpec((2, 2), 3, 4, False)),
        "after reset(), observation has shape (2, 2, 2); it must have (2, 2, 3)",
    ),
    "unseeded reset": (
        changed(reset=lambda self, *, seed: Right.reset(self, seed=seed)),
        "unseeded raised TypeError",
    ),
    "reset pays": (
        changed(reset=lambda self, *, seed=None: Right.reset(self, seed=seed)._replace(reward=np.ones((2, 2)))),
        "reset() pays a reward or ends an episode",
    ),
    "nan": (
        changed(step=of_step(lambda step: step._replace(reward=np.full((2, 2), np.nan)))),
        "after step 1, reward of agent 0 in env 0 is nan",
    ),
    "whole rewards": (
        changed(step=of_step(lambda step: step._replace(reward=np.zeros((2, 2), int)))),
        "after step 1, reward has dtype int64",
    ),
    "empty mask": (
        changed(
            spec=EnvSpec((2, 2), 2, 4, True),
            step=of_step(lambda step: step._replace(available_actions=np.zeros((2, 2, 2), bool))),
        ),
        "after step 1, available_actions of agent 0 in env 0 allows no action",
    ),
    "both ends": (
        changed(step=of_step(lambda step: step._replace(terminated=step.truncated.copy()))),
        "terminated and truncated are both True",
    ),
    "endless": (changed(step=endless), "an episode goes on after 5 steps, its limit; set truncated there"),
    "lost ends": (
        changed(step=of_step(lambda s: s._replace(final_observation=s.observation.copy(), final_state=s.state.copy()))),
        "final_observation shows the start of the next episode",
    ),
    "early differences": (
        changed(step=of_step(lambda step: step._replace(final_state=step.final_state + 1))),
        "state and final_state differ where the episode goes on",
    ),
    "own randomness": (
        changed(reset=lambda self, *, seed=None: Right.reset(self)),
        "two runs with reset(seed=1) and the same actions differ in observation at step 0",
    ),
    "one array": (Reusing(), "observation of an earlier step changes later; return a new array in every step"),
    "any action": (changed(step=accepting), "step() accepts an action that no agent has without an error"),
    "any action at all": (changed(step=accepting), "step() accepts an array of floats without an error"),
    "forgets": (changed(load_state_dict=forgetting), "after load_state_dict() observation differs at step 1"),
    "loads nothing": (
        changed(load_state_dict=lambda self, state: self.reset(seed=0)),
        "load_state_dict() shows another observation than the step before state_dict()",
    ),
    "shows nothing": (
        changed(load_state_dict=lambda self, state: Right.load_state_dict(self, state) and None),
        "restoring raised",
    ),
    "cannot save": (changed(state_dict=lambda self: {}), "restoring raised KeyError: 'age'"),
}


def test_nothing_is_found_where_nothing_is_wrong():
    assert check_env(Right()) is None
    assert spnpolicy.check_env is check_env


@pytest.mark.parametrize("fault", WRONG)
def test_every_fault_has_its_message(fault):
    env, message = WRONG[fault]
    with pytest.raises(EnvError) as error:
        check_env(env)
    assert message in str(error.value)


def test_all_problems_are_listed():
    env = changed(num_envs=0, episode_limit=-1, action_names=())
    with pytest.raises(
        EnvError, match=r"right: 3 problems found:\n  1\. num_envs.*\n  2\. episode_limit.*\n  3\. action"
    ):
        check_env(env)


def test_what_is_missing_is_listed():
    with pytest.raises(EnvError, match="name, num_envs, spec, .* missing; spnpolicy.data.env.BatchedEnv says"):
        check_env(object())


def test_an_environment_that_cannot_be_restored_may_say_so():
    check_env(changed(load_state_dict=forgetting, is_restorable=False))


def test_parallel_environments_are_checked_too():
    check_env(Pair())
    check_env(Pair(first_leaves=2), episode_limit=4)
    check_env(Spaces("box"), bins=3, episode_limit=10)
    with pytest.raises(ConfigError, match="continuous actions"):
        check_env(Spaces("box"))

    class Unrewarded(Pair):
        def step(self, actions):
            observations, _, *rest = super().step(actions)
            return observations, {"a": 0.0}, *rest

    with pytest.raises(EnvError, match=r"pettingzoo:pair: .*\n.*reward of b is missing"):
        check_env(Unrewarded())

    class Careless(Pair):
        def reset(self, seed=None, options=None):
            return super().reset(seed=None)

    with pytest.raises(EnvError, match=r"two runs with reset\(seed=1\) and the same actions differ in observation"):
        check_env(Careless())


def test_options_need_a_name():
    with pytest.raises(EnvError, match=r"options \['size'\] can only be given with a name or a ParallelEnv"):
        check_env(Right(), size=3)
