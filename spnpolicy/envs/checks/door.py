"""The door check: everything that can be said about an environment before it is trained in, in one list."""

import itertools
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from spnpolicy.base.errors import EnvError, SpnPolicyError
from spnpolicy.data.env import BatchedEnv, EnvSpec, Step
from spnpolicy.envs.checks.inspection import Inspector
from spnpolicy.envs.faults import FAILURES, Fault, last_lines
from spnpolicy.envs.make import make_env
from spnpolicy.envs.pettingzoo.adapter import ParallelBatch
from spnpolicy.envs.targets import missing_members

MOST_STEPS = 2_000
"""Steps of random play, at most; an episode limit beyond that is not tried."""
COMPARED_STEPS = 50
"""Steps for which two runs are compared."""


class _Stopped(Exception):
    """So much is wrong that the rest cannot be tried."""


def check_env(env: Any, **options: Any) -> None:
    """Try out an environment and raise one error that lists everything wrong with it.

    It plays some episodes at random. Tried are the names that the protocol asks for, the spec, shapes and
    types, nan, masks, the episode limit, what is shown at the end of an episode, the same seed twice, arrays
    that change after they were returned, actions out of range, and saving and loading.

    Args:
        env: a `BatchedEnv`, the name of one (all that `make_env` takes), or a PettingZoo `ParallelEnv`.
        options: options of the named environment, or `bins`, `episode_limit` and `agents_stay` for a ParallelEnv.

    Raises:
        ConfigError: the environment cannot be made.
        EnvError: something is wrong; the message has a line for each problem and says what to do.

    Example:
        >>> from spnpolicy.envs import check_env
        >>> check_env("coverage", agents=2, size=3, num_envs=2)
    """
    batch = _made(env, options)
    problems = list(dict.fromkeys(_problems(batch)))
    if problems:
        name = getattr(batch, "name", type(batch).__name__)
        listed = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(problems, 1))
        raise EnvError(f"{name}: {len(problems)} problem{'s' * (len(problems) > 1)} found:{listed}")


def _made(env: Any, options: dict[str, Any]) -> Any:
    if isinstance(env, str):
        return make_env(env, **options)
    # Not isinstance: a ParallelEnv that forgot to inherit deserves the messages about its other mistakes.
    if hasattr(env, "possible_agents") and not hasattr(env, "num_envs"):
        return ParallelBatch(env, **options)
    if options:
        raise EnvError(f"check_env: options {sorted(options)} can only be given with a name or a ParallelEnv.")
    return env


def _problems(env: Any) -> Iterator[str]:
    """Yield every problem; later checks are left out where an earlier one makes them pointless."""
    missing = missing_members(env)
    if missing:
        yield f"{', '.join(missing)} missing; spnpolicy.data.env.BatchedEnv says what each is for."
        return
    broken = list(_spec_problems(env))
    yield from broken
    if broken:
        return
    checks: list[Callable[[BatchedEnv], Iterator[str]]] = [
        _unseeded,
        _random_play,
        _determinism,
        _aliasing,
        _wrong_actions,
        _restoring,
    ]
    failures: list[Fault] = []
    if hasattr(env, "watch"):
        env.watch("raise", failures.append)
    for check in checks:
        found, goes_on = _found_by(check, env)
        # What else was found would be found in what came of these, and be no fault of its own.
        yield from _failures(failures) if failures else found
        if failures or not goes_on:
            return


def _found_by(check: Callable[[Any], Iterator[str]], env: Any) -> tuple[list[str], bool]:
    """Return the problems that one check finds, and whether the next ones make sense."""
    found: list[str] = []
    try:
        # One by one: those found before an exception count.
        for problem in check(env):
            found.append(problem)  # noqa: PERF402
    except _Stopped:
        return found, False
    except SpnPolicyError as error:
        found.append(f"{_title(check)} ended in an error: {error}")
    except Exception as error:
        found.append(f"{_title(check)} raised {type(error).__name__}: {error}{_place_of(error)}")
    return found, True


def _failures(faults: list[Fault]) -> Iterator[str]:
    """Yield the first failure of each kind, and how many there were: training would drop these episodes."""
    causes = [fault.message.partition("]: ")[2] for fault in faults]
    for cause in dict.fromkeys(causes):
        fault = faults[causes.index(cause)]
        times = f" This was the first of {causes.count(cause)}." if causes.count(cause) > 1 else ""
        dropped = " Training would drop the episode." if fault.field in FAILURES else ""
        yield f"{fault.message}{dropped}{times}{last_lines(fault.traceback)}"


def _place_of(error: Exception) -> str:
    """Return where in somebody's code an exception was raised."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f" ({frame.filename}, line {frame.lineno}, in {frame.name})"


def _title(check: Callable[..., Any]) -> str:
    return check.__name__.strip("_").replace("_", " ")


def _spec_problems(env: Any) -> Iterator[str]:
    if not isinstance(env.name, str) or not env.name:
        yield f"name is {env.name!r}; it must be a word, for messages and files."
    for owner, member in ((env, "num_envs"), (env, "episode_limit")):
        if not _is_count(getattr(owner, member)):
            yield f"{member} is {getattr(owner, member)!r}; it must be a whole number, 1 or more."
    spec = env.spec
    if not isinstance(spec, EnvSpec):
        yield f"spec is a {type(spec).__name__}; it must be a spnpolicy.envs.EnvSpec."
        return
    counts = spec.cardinalities
    if not isinstance(counts, tuple) or not counts or not all(map(_is_count, counts)):
        yield f"spec.cardinalities is {counts!r}; it must be a tuple with the number of actions of each agent."
        return
    for member in ("observation_size", "state_size"):
        if not _is_count(getattr(spec, member)):
            yield f"spec.{member} is {getattr(spec, member)!r}; it must be a whole number, 1 or more."
    if spec.entities is not None and spec.entities.observation_size != spec.observation_size:
        yield (
            f"spec.entities ends at column {spec.entities.observation_size}; it must divide all "
            f"{spec.observation_size} numbers of an observation."
        )
    most = max(counts)
    if len(env.action_names) != most:
        yield f"action_names has {len(env.action_names)} names; it needs one for each of the {most} actions."


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _unseeded(env: BatchedEnv) -> Iterator[str]:
    """A reset must work without a seed; what it shows is judged in full, since all else builds on it."""
    found = list(_step_problems(env, env.reset(), "reset()"))
    yield from found
    if found:
        raise _Stopped


def _step_problems(env: BatchedEnv, step: Any, moment: str) -> Iterator[str]:
    inspector = Inspector(env.spec, env.num_envs)
    if inspector.is_sound(step):
        return
    problem = inspector.problem_of_batch(step)
    problems = [problem] if problem else inspector.problems_of_rows(step)
    seen = set()
    for each in problems:
        if each.field not in seen:
            seen.add(each.field)
            where = "" if each.env is None else f" in env {each.env}"
            whose = "" if each.agent is None else f" of agent {each.agent}"
            yield f"after {moment}, {each.field}{whose}{where} {each.text}."


def _random_play(env: BatchedEnv) -> Iterator[str]:
    step = env.reset(seed=0)
    if step.reward.any() or step.terminated.any() or step.truncated.any():
        yield "reset() pays a reward or ends an episode; rewards must be 0 and terminated and truncated False there."
    generator = np.random.default_rng(0)
    ages = np.zeros(env.num_envs, np.int64)
    found: dict[str, None] = {}
    for number in range(1, min(2 * env.episode_limit + 2, MOST_STEPS) + 1):
        before, step = step, env.step(_random_actions(env, step, generator))
        ages += 1
        wrong = list(_step_problems(env, step, f"step {number}"))
        if wrong:
            yield from [*found, *wrong]
            raise _Stopped
        found |= dict.fromkeys(_end_problems(env, before, step, ages))
        ages[step.terminated | step.truncated] = 0
    yield from found


def _end_problems(env: BatchedEnv, before: Step, step: Step, ages: Int[np.ndarray, " envs"]) -> Iterator[str]:
    over = step.terminated | step.truncated
    goes_on = ~over
    if step.discarded is not None:
        # Of an episode that was dropped no end is shown.
        over &= ~step.discarded
    if (step.terminated & step.truncated).any():
        yield "terminated and truncated are both True; an episode that is really over is terminated only."
    if (ages[goes_on] >= env.episode_limit).any():
        yield f"an episode goes on after {env.episode_limit} steps, its limit; set truncated there."
    for field in ("observation", "state", "available_actions"):
        shown, final = getattr(step, field), getattr(step, f"final_{field}")
        if (shown[goes_on] != final[goes_on]).any():
            yield f"{field} and final_{field} differ where the episode goes on; they must agree there."
    # The new start in place of the end is told by looking for it: an end that happens to look like a start is
    # possible, but not when the observation before was another one and every end does.
    for env_index in np.flatnonzero(over & (ages > 1)):
        is_start = np.array_equal(step.final_observation[env_index], step.observation[env_index])
        if is_start and not np.array_equal(before.observation[env_index], step.observation[env_index]):
            yield (
                "final_observation shows the start of the next episode; it must hold the last observation of the one "
                "that ended, or time limits are learned wrongly."
            )


def _random_actions(env: BatchedEnv, step: Step, generator: np.random.Generator) -> Int[np.ndarray, "envs agents"]:
    """Draw allowed actions: the allowed one with the largest random number."""
    return np.where(step.available_actions, generator.random(step.available_actions.shape), -1.0).argmax(axis=2)


def _play(env: BatchedEnv, step: Step, steps: int, seed: int) -> Iterator[Step]:
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        step = env.step(_random_actions(env, step, generator))
        yield step


def _difference(first: Step, second: Step) -> str | None:
    for name, a, b in zip(Step._fields, first, second, strict=True):
        if not np.array_equal(a, b):  # pyright: ignore[reportArgumentType] None equals None
            return name
    return None


def _determinism(env: BatchedEnv) -> Iterator[str]:
    runs = []
    for _ in range(2):
        start = env.reset(seed=1)
        runs.append([start, *(_copied(step) for step in _play(env, start, COMPARED_STEPS, seed=1))])
    for number, (first, second) in enumerate(zip(*runs, strict=True)):
        field = _difference(first, second)
        if field:
            yield (
                f"two runs with reset(seed=1) and the same actions differ in {field} at step {number}; draw all random "
                "numbers from a generator made from that seed."
            )
            return


def _aliasing(env: BatchedEnv) -> Iterator[str]:
    start = env.reset(seed=2)
    kept = [(start, _copied(start))]
    for step in _play(env, start, 5, seed=2):
        kept.append((step, _copied(step)))
    names = [_difference(step, copy) for step, copy in kept]
    for name in dict.fromkeys(filter(None, names)):
        yield f"{name} of an earlier step changes later; return a new array in every step."


def _copied(step: Step) -> Step:
    return Step(*(None if column is None else column.copy() for column in step))  # pyright: ignore[reportArgumentType]


def _wrong_actions(env: BatchedEnv) -> Iterator[str]:
    joint = np.zeros((env.num_envs, env.spec.num_agents), np.int64)
    cases = {
        "an action that no agent has": np.full_like(joint, max(env.spec.cardinalities)),
        "a negative action": joint - 1,
        "an array of the wrong shape": joint[:, :0],
        "an array of floats": joint + 0.5,
    }
    for what, actions in cases.items():
        env.reset(seed=3)
        try:
            env.step(actions)
        except Exception:  # noqa: S112 any error will do: the mistake has been noticed
            continue
        yield f"step() accepts {what} without an error; spnpolicy.envs.options.checked_actions refuses it."


def _restoring(env: BatchedEnv) -> Iterator[str]:
    if not getattr(env, "is_restorable", True):
        return
    start = env.reset(seed=4)
    *_, last = _play(env, start, 7, seed=4)
    state = env.state_dict()
    expected = [_copied(step) for step in _play(env, last, COMPARED_STEPS, seed=5)]
    env.reset(seed=6)
    shown = env.load_state_dict(state)
    got = [shown, *_play(env, shown, COMPARED_STEPS, seed=5)]
    if not isinstance(shown, Step):
        yield f"load_state_dict() returns a {type(shown).__name__}; it must return the Step that is shown then."
        return
    for field in ("observation", "state", "available_actions"):
        if not np.array_equal(getattr(shown, field), getattr(last, field)):
            yield f"load_state_dict() shows another {field} than the step before state_dict(); restore all of it."
            return
    for number, (first, second) in enumerate(itertools.zip_longest(expected, got[1:]), 1):
        field = _difference(first, second)
        if field:
            yield (
                f"after load_state_dict() {field} differs at step {number} from what followed state_dict(); save all "
                "that it depends on, generators too, as copies; or set is_restorable = False."
            )
            return
