"""The guard: looks at every step of an environment before anyone uses it."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Integer

from spnpolicy.base.errors import CheckpointError, EnvError
from spnpolicy.data.env import BatchedEnv, Step
from spnpolicy.envs.checks.inspection import Inspector, Problem
from spnpolicy.envs.faults import Fault, place
from spnpolicy.envs.options import one_of, reading_saved_state

POLICIES = ("raise", "drop-episode")
MOST_RESTARTS = 3
"""Restarts in a row after which an environment that still shows something wrong is given up."""
MOST_DROPPED = 100
"""Episodes in a row that may be dropped in one environment, or in all of them without one that came to its end."""
_DROPPED_PER_ENV = 4
"""In large batches all of them may drop so many episodes each before the first one comes to its end."""


def guarded(
    env: BatchedEnv,
    *,
    on_fault: Literal["raise", "drop-episode"] = "raise",
    report: Callable[[Fault], None] | None = None,
) -> "Guard":
    """Return the environment with every step checked.

    Caught at the step where it happens: nan or infinity in observations, state and rewards, wrong shapes and
    types, masks that allow nothing or what does not exist.

    Args:
        env: any batch of environments.
        on_fault: "raise" ends with an EnvError; "drop-episode" discards that environment's episode, starts
            it anew and goes on. What concerns the whole batch (a wrong shape) is always an error.
        report: called with every fault, also with those that the environment itself survived (crashes of
            other people's code, see `spnpolicy.envs.pettingzoo.adapter`).

    Raises:
        ConfigError: no such policy.

    Example:
        >>> from spnpolicy.envs import make_env
        >>> env = guarded(make_env("coverage"), on_fault="drop-episode", report=print)
        >>> env.reset(seed=0).reward.shape
        (1, 3)
    """
    return Guard(env, one_of("guarded", "on_fault", on_fault, POLICIES), report)


class Guard:
    """A batch of environments whose steps have been checked; made by `guarded`.

    Whatever else the environment can do (`optimal_return`, `render`, `close`, ...) is passed on.
    """

    def __init__(self, env: BatchedEnv, on_fault: str, report: Callable[[Fault], None] | None) -> None:
        self._env, self._on_fault, self._report = env, on_fault, report
        self.name, self.num_envs, self.spec = env.name, env.num_envs, env.spec
        self.episode_limit, self.action_names = env.episode_limit, env.action_names
        self.faults_total: dict[str, int] = {}
        """Faults so far, counted by `Fault.field`."""
        self._inspector = Inspector(env.spec, env.num_envs)
        self._episodes = np.full(env.num_envs, -1, np.int64)
        self._ages = np.zeros(env.num_envs, np.int64)
        self._last: Step | None = None
        self._last_fault: Fault | None = None
        self._dropped = np.zeros(env.num_envs, np.int64)
        self._dropped_by_all = 0
        watch = getattr(env, "watch", None)
        if watch is not None:
            watch(on_fault, self._count)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._env, name)

    @property
    def unguarded(self) -> BatchedEnv:
        """The environment itself."""
        return self._env

    def reset(self, *, seed: int | None = None) -> Step:
        """Start every environment anew and check what it shows."""
        step = self._env.reset(seed=seed)
        if seed is not None:
            self._episodes[:] = -1
        self._episodes += 1
        self._ages[:] = 0
        return self._checked(step)

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Step:
        """Apply one joint action in every environment and check what comes of it.

        Raises:
            EnvError: something is wrong, and the policy is "raise", the environment cannot be restarted, or one
                episode after the other is dropped.
        """
        step = self._env.step(actions)
        self._ages += 1
        step = self._checked(step)
        is_over = step.terminated | step.truncated
        if step.discarded is not None:
            is_over |= step.discarded
        if is_over.any():
            self._watch_drops(is_over, step.discarded)
            self._episodes += is_over
            self._ages[is_over] = 0
        return step

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the environment and the counters."""
        return {
            "env": self._env.state_dict(),
            "episodes": self._episodes.copy(),
            "ages": self._ages.copy(),
            "faults_total": dict(self.faults_total),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on from a state that `state_dict` returned."""
        with reading_saved_state(self.name):
            inner = state["env"]
            episodes, ages = (np.array(state[name], np.int64) for name in ("episodes", "ages"))
            faults_total = {str(field): int(count) for field, count in state["faults_total"].items()}
        if episodes.shape != self._episodes.shape or ages.shape != self._ages.shape:
            raise CheckpointError(f"{self.name}: the saved counters are not those of {self.num_envs} environments.")
        step = self._env.load_state_dict(inner)
        self._episodes, self._ages, self.faults_total = episodes, ages, faults_total
        if not getattr(self._env, "is_restorable", True):
            self._episodes += 1
            self._ages[:] = 0
        return self._checked(step)

    def _checked(self, step: Step) -> Step:
        if not self._inspector.is_sound(step):
            step = self._handle(step)
        self._last = step
        return step

    def _handle(self, step: Step) -> Step:
        """Raise, or return the step without what was wrong."""
        problem = self._inspector.problem_of_batch(step)
        if problem is not None:
            age = int(self._ages.max())
            raise EnvError(f"{self.name}[step {age}]: {problem.field} {problem.text}.")
        problems = self._inspector.problems_of_rows(step)
        if step.discarded is not None:
            # what the environment gave up itself needs to be right only in what begins anew
            problems = [p for p in problems if not (step.discarded[p.env] and _concerns_end(p))]
        reported: set[tuple[int | None, str]] = set()
        for each in problems:
            # the last observation of an episode that goes on is the observation: one fault, not two
            key = (each.env, each.field.removeprefix("final_"))
            if key not in reported:
                reported.add(key)
                self._fault(each)
        bad = np.zeros(self.num_envs, bool)
        bad[[p.env for p in problems if p.env is not None]] = True
        is_over = step.terminated | step.truncated
        for each in problems:
            if not _concerns_end(each):
                is_over[each.env] = False
        return self._without(step, bad, np.flatnonzero(bad & ~is_over).tolist())

    def _fault(self, problem: Problem) -> None:
        env = problem.env or 0
        episode, age = int(self._episodes[env]), int(self._ages[env])
        subject = problem.field
        if problem.agent is not None:
            subject += f" of agent {problem.agent}"
        if problem.entry is not None:
            subject += f", entry {problem.entry},"
        message = f"{place(self.name, env, episode, age)}: {subject} {problem.text}{self._before(problem)}."
        field = problem.field.removeprefix("final_")
        fault = Fault(env, episode, age, problem.agent, field, message)
        self._count(fault)
        if self._on_fault == "raise":
            raise EnvError(message)

    def _before(self, problem: Problem) -> str:
        """Return what the number was one step earlier, where that is known."""
        if self._last is None or not problem.text.startswith("is ") or self._ages[problem.env or 0] == 0:
            return ""
        # what was shown last is the start of this episode if one ended there; the final fields belong to the one before
        column = getattr(self._last, problem.field.removeprefix("final_"))
        where = tuple(index for index in (problem.env, problem.agent, problem.entry) if index is not None)
        value = column[where]
        return f"; the last finite one was {value:.6g}" if np.isfinite(value) else ""

    def _without(self, step: Step, bad: Bool[np.ndarray, " envs"], restart: list[int]) -> Step:
        """Return the step with the bad rows discarded; those in `restart` begin new episodes."""
        observation, state, available = (
            getattr(step, field).copy() for field in ("observation", "state", "available_actions")
        )
        if restart:
            fresh = self._restarted(restart)
            observation[restart], state[restart] = fresh.observation, fresh.state
            available[restart] = fresh.available_actions
        if step.state.base is step.observation:
            state = observation.reshape(state.shape)
        final = {}
        for field, start in (("observation", observation), ("state", state), ("available_actions", available)):
            final[f"final_{field}"] = getattr(step, f"final_{field}").copy()
            final[f"final_{field}"][bad] = start[bad]
        if step.final_state.base is step.final_observation:
            final["final_state"] = final["final_observation"].reshape(state.shape)
        reward = step.reward.copy()
        reward[bad] = 0.0
        discarded = bad if step.discarded is None else bad | step.discarded
        repaired = step._replace(
            observation=observation, state=state, available_actions=available, reward=reward, **final
        )
        if not self._ages.any():
            # right after a reset there is no step that could be discarded
            return repaired
        return repaired._replace(terminated=step.terminated & ~bad, truncated=step.truncated | bad, discarded=discarded)

    def _restarted(self, rows: list[int]) -> Step:
        """Start some environments anew until what they show is right."""
        restart = getattr(self._env, "restart", None)
        if restart is None:
            raise EnvError(
                f"{self.name}: env {rows[0]} must be started anew without the others, and {type(self._env).__name__} "
                "has no method restart(rows) for that. Write one, or use on_fault='raise'."
            )
        inspector = Inspector(self.spec, len(rows))
        for _ in range(MOST_RESTARTS):
            step: Step = restart(rows)
            if inspector.is_sound(step):
                return step
        problem = inspector.problem_of_batch(step) or inspector.problems_of_rows(step)[0]
        env = rows[problem.env or 0]
        raise EnvError(
            f"{self.name}[env {env}]: {problem.field} {problem.text} after {MOST_RESTARTS} restarts in a row."
        )

    def _watch_drops(self, is_over: Bool[np.ndarray, " envs"], discarded: Bool[np.ndarray, " envs"] | None) -> None:
        """Give up where nothing but drops follow each other: whoever waits for an episode would wait for ever."""
        if discarded is None or (is_over & ~discarded).any():
            self._dropped_by_all = 0
        self._dropped[is_over] = 0 if discarded is None else (self._dropped[is_over] + 1) * discarded[is_over]
        if discarded is None or not discarded.any():
            return
        self._dropped_by_all += int(discarded.sum())
        most, everywhere = int(self._dropped.max()), max(MOST_DROPPED, _DROPPED_PER_ENV * self.num_envs)
        if most >= MOST_DROPPED or self._dropped_by_all >= everywhere:
            where = f" in env {int(self._dropped.argmax())}" if most >= MOST_DROPPED else ""
            last = self._last_fault
            remedy = "Mend the environment"
            if last is not None and ".state()" in last.traceback:
                remedy += ", or leave its state() out: own_state false (--env.own_state false)"
            raise EnvError(
                f"{self.name}: {max(most, self._dropped_by_all):,} episodes in a row were dropped{where} and none came "
                f"to its end, so there is nothing to learn from or to score. {remedy}."
                + ("" if last is None else f" The last fault: {last.message}")
            )

    def _count(self, fault: Fault) -> None:
        self._last_fault = fault
        self.faults_total[fault.field] = self.faults_total.get(fault.field, 0) + 1
        if self._report is not None:
            self._report(fault)


def _concerns_end(problem: Problem) -> bool:
    """Say whether a problem lies in what ended, so that the start that follows may be used."""
    return problem.field == "reward" or problem.field.startswith("final_")
