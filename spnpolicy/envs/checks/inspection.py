"""What is wrong with a step: a quick look in the usual case, and the exact place when something is."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from spnpolicy.data.env import EnvSpec, Step

NUMBERS = ("observation", "state", "reward", "final_observation", "final_state")
MASKS = ("available_actions", "final_available_actions")


class Problem(NamedTuple):
    """Something wrong in a step."""

    field: str
    """Field of `Step`, or "step"."""
    text: str
    """What is wrong, to follow the name of the field."""
    env: int | None = None
    """Index of the environment, None where it concerns the whole batch."""
    agent: int | None = None
    """Index of the agent, None where it concerns no single one."""
    entry: int | None = None
    """Index in the vector of a nan or infinity."""


class Inspector:
    """Looks at the steps of one batch of environments."""

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        agents, actions = spec.num_agents, max(spec.cardinalities)
        self._exists: Bool[np.ndarray, "agents actions"] = np.arange(actions) < np.array(spec.cardinalities)[:, None]
        self._missing = ~self._exists
        self._has_masks = spec.has_action_masks
        shapes = {
            "observation": (num_envs, agents, spec.observation_size),
            "state": (num_envs, spec.state_size),
            "reward": (num_envs, agents),
            "terminated": (num_envs,),
            "truncated": (num_envs,),
            "available_actions": (num_envs, agents, actions),
        }
        # in the order of the fields of Step
        self._shapes = [shapes[name.removeprefix("final_")] for name in Step._fields[:-1]]
        self._kinds = ["f" if name in NUMBERS else "b" for name in Step._fields[:-1]]

    def is_sound(self, step: Step) -> bool:
        """Say quickly whether nothing at all is wrong."""
        if self.problem_of_batch(step) is not None:
            return False
        observation, final = step.observation, step.final_observation
        if not (np.isfinite(observation).all() and np.isfinite(step.reward).all()):
            return False
        if not (_is_view(step.state, observation) or np.isfinite(step.state).all()):
            return False
        if final is not observation and not np.isfinite(final).all():
            return False
        last = step.final_state
        if not (last is step.state or _is_view(last, final) or np.isfinite(last).all()):
            return False
        masks, final_masks = step.available_actions, step.final_available_actions
        return self._allows(masks) and (final_masks is masks or self._allows(final_masks, _ended(step)))

    def problem_of_batch(self, step: object) -> Problem | None:
        """Return what is wrong with the step as a whole: its type, or the shape or type of an array."""
        if not isinstance(step, Step):
            return Problem("step", f"is a {type(step).__name__}; it must be a spnpolicy.envs.Step")
        for name, array, shape, kind in zip(Step._fields, step, self._shapes, self._kinds, strict=False):
            if not isinstance(array, np.ndarray):
                return Problem(name, f"is a {type(array).__name__}; it must be a numpy array")
            if array.shape != shape:
                return Problem(name, f"has shape {array.shape}; it must have {shape}")
            if array.dtype.kind != kind:
                rule = "True or False (dtype bool)" if kind == "b" else "floating-point numbers"
                return Problem(name, f"has dtype {array.dtype}; it must hold {rule}")
        return None

    def problems_of_rows(self, step: Step) -> list[Problem]:
        """Return the first problem of every field in every environment that has one."""
        found = []
        for name in NUMBERS:
            array = getattr(step, name)
            bad = ~np.isfinite(array)
            for env in np.flatnonzero(bad.reshape(len(array), -1).any(axis=1)):
                where = tuple(int(i) for i in np.argwhere(bad[env])[0])
                agent = None if name.endswith("state") else where[0]
                entry = None if name == "reward" else where[-1]
                found.append(Problem(name, f"is {array[env][where]}", int(env), agent, entry))
        for name in MASKS:
            found += self._mask_problems(name, step)
        return found

    def _allows(self, mask: np.ndarray, is_over: np.ndarray | bool = False) -> bool:
        if not self._has_masks:
            return bool((mask == self._exists).all())
        some = np.logical_or.reduce(mask, axis=2).all(axis=1) | is_over
        return bool(some.all()) and not (mask & self._missing).any()

    def _mask_problems(self, name: str, step: Step) -> list[Problem]:
        mask = getattr(step, name)
        # Nobody acts in the last state of an episode: its masks may be empty.
        is_over = _ended(step)[:, None] if name.startswith("final_") else False
        first: dict[int, Problem] = {}
        for env, agent in np.argwhere(~(mask & self._exists).any(axis=2) & ~np.asarray(is_over)):
            first.setdefault(int(env), Problem(name, "allows no action", int(env), int(agent)))
        for env, agent, action in np.argwhere(mask & self._missing):
            text = f"allows action {action}; the agent has {self._exists[agent].sum()} actions"
            first.setdefault(int(env), Problem(name, text, int(env), int(agent)))
        if not self._has_masks:
            for env, agent, action in np.argwhere(~mask & self._exists):
                text = f"forbids action {action}, but spec.has_action_masks is False; make it True"
                first.setdefault(int(env), Problem(name, text, int(env), int(agent)))
        return list(first.values())


def _ended(step: Step) -> Bool[np.ndarray, " envs"]:
    return step.terminated | step.truncated


def _is_view(state: np.ndarray, observation: np.ndarray) -> bool:
    """Say whether the state is the observation in another shape, so that looking at one is enough."""
    return state.base is observation and state.size == observation.size
