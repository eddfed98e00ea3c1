"""A batch of PettingZoo games: any ParallelEnv with discrete actions, in this process or in several."""

import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from pettingzoo import ParallelEnv

from spnpolicy.base.decoding import decode
from spnpolicy.base.errors import CheckpointError, ConfigError, EnvError
from spnpolicy.data.entities import Entities
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.envs.faults import FAILURES, Fault
from spnpolicy.envs.options import begun, checked_actions, reading_saved_state, true_or_false, whole_number
from spnpolicy.envs.pettingzoo.game import layout_of
from spnpolicy.envs.pettingzoo.makers import parallel_maker
from spnpolicy.envs.pettingzoo.pictures import PICTURES, check_render_mode, options_to_draw
from spnpolicy.envs.pettingzoo.share import Rows, Share
from spnpolicy.envs.pettingzoo.workers import Local, Worker

FEWEST_PER_WORKER = 8
"""Games that make a process worth its messages, unless `workers` says otherwise."""
MOST_WORKERS = 8


class ParallelBatch:
    """A batch of copies of one PettingZoo `ParallelEnv`.

    Observations are flattened as gymnasium does it (choices become one-hot) and filled up with zeros to the longest of
    the agents. The state is that of the environment's own `state()`, or else all observations side by side.
    Masks come from `info["action_mask"]`, or from the key "action_mask" of a dictionary that is seen.
    An agent that has left sees zeros, earns 0 and has only action 0; an episode is over when all have left,
    as terminated if the part of every agent ended by termination, as truncated if any was cut off, and after
    `episode_limit` steps in any case.

    Every episode gets a seed of its own, fixed by the seed of `reset`, the index of the environment and the
    number of the episode: results do not depend on the number of workers.

    Where an environment raises, its episode is dropped (`Step.discarded`), it is made anew and the others go
    on; after three failed resets in a row it is given up. The same holds where a worker process dies or hangs, for
    all games of that process. Within this process (`workers` 0) nothing helps against that.

    Args:
        source: a module with a function `parallel_env` or a class in a module ("package.module.Class"); or,
            without workers, a ParallelEnv (for a batch of one) or a function that makes them.
        num_envs: number of games in the batch.
        workers: processes among which the games are divided, 0 for none; None takes one per 8 games, as far
            as there are processors for it, and none for small batches and those that draw.
        bins: values per dimension of continuous actions.
        episode_limit: steps of an episode; None takes `max_cycles` of the environment, or else 1000.
        agents_stay: a promise that no agent leaves early and no action is ever forbidden; algorithms that
            apply masks are then spared that.
        own_state: take the state from the environment's `state()` if it has one; false takes all observations side
            by side, which saves time where the two are the same.
        entities: what an agent's observation consists of, for networks of kind "entities"; a record
            (`spnpolicy.data.entities`) or its fields as JSON gives them.
        timeout: seconds without an answer after which a worker counts as hung.
        render_mode: handed to the environment; with "rgb_array" and no workers, `render` returns its pictures.
        options: what the environment itself takes.

    Raises:
        ConfigError: an option, render mode or space that cannot be used, or no such environment.
    """

    def __init__(
        self,
        source: str | ParallelEnv | Callable[[], ParallelEnv],
        *,
        num_envs: int = 1,
        workers: int | None = None,
        bins: int | None = None,
        episode_limit: int | None = None,
        agents_stay: bool = False,
        own_state: bool = True,
        entities: Entities | Mapping[str, Any] | None = None,
        timeout: float = 60.0,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.name = _name_of(source)
        self.num_envs = whole_number(self.name, "num_envs", num_envs, 1)
        self.render_mode = render_mode
        workers = self._checked_workers(source, workers)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise ConfigError(f"{self.name}: timeout={timeout!r} must be a number of seconds above 0.")
        layout_options: dict[str, Any] = {
            "bins": bins, "episode_limit": episode_limit, "agents_stay": agents_stay, "own_state": own_state
        }  # fmt: skip
        for option in ("agents_stay", "own_state"):
            true_or_false(self.name, option, layout_options[option])
        own_options = options_to_draw(self.name, source, options, render_mode)
        make, first = self._makers(source, own_options)
        if render_mode is not None:
            check_render_mode(self.name, first, render_mode)
        layout = layout_of(self.name, first, **layout_options)
        self.spec, self.episode_limit = _declaring(self.name, layout.spec, entities), layout.episode_limit
        self.action_names = max((each.names for each in layout.actions), key=len)
        own_names = getattr(getattr(first, "unwrapped", first), "action_names", None)
        if own_names is not None and len(own_names) == len(self.action_names):
            self.action_names = tuple(own_names)
        self.agent_names = layout.agents
        """Names of the agents, in the order of the arrays."""
        self.is_restorable = hasattr(first, "state_dict") and hasattr(first, "load_state_dict")
        """Whether `load_state_dict` goes on in the middle of an episode; otherwise it begins new ones."""
        self._cardinalities = np.array(self.spec.cardinalities)
        self._made_with = {"name": self.name, "options": repr(sorted(options.items())), "num_envs": self.num_envs} | {
            name: layout_options[name] for name in ("bins", "agents_stay", "own_state")
        }
        self._seed: int | None = None
        self._episodes = np.full(self.num_envs, -1, np.int64)
        self._shown: Step | None = None
        self._on_fault = "raise"
        self._report: Callable[[Fault], None] = lambda fault: None
        # The games of each process are neighbours, and as evenly divided as possible.
        self._rows = np.array_split(np.arange(self.num_envs), max(workers, 1))
        if workers == 0:
            draws = render_mode == PICTURES
            share = Share(self.name, make, layout, range(self.num_envs), ready=[first], draws=draws)
            self._hands: list[Local | Worker] = [Local(share)]
        else:
            first.close()
            opening = {"name": self.name, "target": source, "options": own_options, "layout_options": layout_options}
            self._hands = [Worker(self.name, rows.tolist(), timeout, opening) for rows in self._rows]

    def _checked_workers(self, source: object, workers: int | None) -> int:
        if workers is None:
            can_send = isinstance(source, str) and os.name == "posix"
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            wanted = min(cores, self.num_envs // FEWEST_PER_WORKER, MOST_WORKERS)
            return wanted if can_send and wanted > 1 and self.render_mode is None else 0
        whole_number(self.name, "workers", workers, 0)
        if workers and not isinstance(source, str):
            raise ConfigError(f"{self.name}: workers={workers} need the name of the environment; use workers=0.")
        if workers and os.name != "posix":
            raise ConfigError(f"{self.name}: workers={workers} is not supported on this system; use workers=0.")
        return min(workers, self.num_envs)

    def _makers(self, source: Any, options: dict[str, Any]) -> tuple[Callable[[], ParallelEnv] | None, ParallelEnv]:
        if isinstance(source, str):
            make = parallel_maker(self.name, source, options)
            return make, make()
        if options:
            raise ConfigError(f"{self.name}: unknown option {sorted(options)[0]!r}; give it to the environment itself.")
        # Not isinstance: an environment that forgot to inherit can be used all the same.
        if isinstance(source, type) or not hasattr(source, "possible_agents"):
            return source, source()
        if self.num_envs != 1:
            raise ConfigError(f"{self.name}: num_envs={self.num_envs} games cannot be made of one object; give a name.")
        return None, source

    def watch(self, on_fault: str, report: Callable[[Fault], None]) -> None:
        """Say what is to become of faults; `spnpolicy.envs.checks.guard` calls this.

        Args:
            on_fault: "raise" or "drop-episode", for values that are wrong; failures are always survived.
            report: called with every fault.
        """
        self._on_fault, self._report = on_fault, report

    def reset(self, *, seed: int | None = None) -> Step:
        """Start a new episode in every game; without a seed those with the next numbers.

        Raises:
            EnvError: an environment could not be started three times in a row.
        """
        if seed is not None:
            self._seed = whole_number(self.name, "seed", seed, 0)
            self._episodes[:] = -1
        if self._seed is None:
            self._seed = secrets.randbits(63)
        first = self._episodes + 1
        return self._show(self._ask("reset", *((self._seed, first[rows]) for rows in self._rows)))

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Step:
        """Apply one joint action in every game; games that end or fail begin anew by themselves.

        Raises:
            EnvError: also where an action is not allowed, or a game is beyond help.
        """
        shown = begun(self.name, self._shown)
        actions = checked_actions(self.name, actions, self.num_envs, self._cardinalities)
        if self.spec.has_action_masks:
            self._check_allowed(actions, shown)
        return self._show(self._ask("step", *((actions[rows],) for rows in self._rows)))

    def restart(self, rows: list[int]) -> Step:
        """Give up the episodes of some games and begin their next ones.

        Args:
            rows: indices of the games, in ascending order.

        Returns:
            What these games show now, one row each.
        """
        parts = []
        for hand, owned in zip(self._hands, self._rows, strict=True):
            wanted = [row - int(owned[0]) for row in rows if owned[0] <= row <= owned[-1]]
            if wanted:
                hand.send("restart", wanted)
                parts.append(hand.receive())
        step = self._step_of(parts)
        self._episodes[rows] = np.concatenate([part.episodes for part in parts])
        if self._shown is not None:
            for field in ("observation", "state", "available_actions"):
                # a copy, because what was shown before must not change
                column = getattr(self._shown, field).copy()
                column[rows] = getattr(step, field)
                self._shown = self._shown._replace(**{field: column})
        self._handle([fault for part in parts for fault in part.faults])
        return step

    def render(self, index: int = 0, *, final: bool = False) -> UInt8[np.ndarray, "height width 3"]:
        """Return the picture that one game draws of itself; needs `render_mode` "rgb_array" and no workers.

        If it ended on the latest step, the final picture is that of what it reached instead of the new start.

        Raises:
            EnvError: the batch was made without that mode or with workers, `reset` was never called, there is no
                such game, or it returns no picture.
        """
        if self.render_mode != PICTURES or not isinstance(self._hands[0], Local):
            raise EnvError(f"{self.name}: pictures need render_mode={PICTURES!r} and workers=0 when it is made.")
        begun(self.name, self._shown)
        if not 0 <= index < self.num_envs:
            raise EnvError(f"{self.name}: there is no env {index}; the batch has 0 .. {self.num_envs - 1}.")
        return self._hands[0].share.picture(index, final=final)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on: exactly, if `is_restorable`, else with the next episodes."""
        shown = begun(self.name, self._shown)
        state: dict[str, Any] = {
            "restorable": self.is_restorable,
            "made_with": dict(self._made_with),
            "seed": self._seed,
            "episodes": self._episodes.copy(),
        }
        if self.is_restorable:
            games = self._ask("state_dicts", *(() for _ in self._rows))
            state["games"] = [game for part in games for game in part]
            for field in ("observation", "state", "available_actions"):
                state[field] = getattr(shown, field).copy()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on from a state that `state_dict` returned."""
        with reading_saved_state(self.name):
            is_restorable, made_with = bool(state["restorable"]), dict(state["made_with"])
            seed, episodes = int(state["seed"]), np.array(state["episodes"], np.int64)
            games = list(state["games"]) if is_restorable else []
            shown = [np.array(state[name]) for name in ("observation", "state", "available_actions") if is_restorable]
        if made_with != self._made_with or is_restorable != self.is_restorable or episodes.shape != (self.num_envs,):
            raise CheckpointError(f"{self.name}: the saved state was made with {made_with}, this is {self._made_with}.")
        self._seed, self._episodes = seed, episodes
        if not is_restorable:
            return self.reset()
        spec = self.spec
        agents = spec.num_agents
        sizes = [(agents, spec.observation_size), (spec.state_size,), (agents, max(spec.cardinalities))]
        if len(games) != self.num_envs or [each.shape for each in shown] != [(self.num_envs, *size) for size in sizes]:
            raise CheckpointError(f"{self.name}: the saved state has arrays of other shapes than this environment.")
        try:
            self._ask("load_state_dicts", *((seed, episodes[rows], [games[i] for i in rows]) for rows in self._rows))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, EnvError) as error:
            raise CheckpointError(f"{self.name}: the saved state is damaged: {error!r}.") from error
        observation, own_state = shown[0].astype(np.float32), shown[1].astype(np.float32)
        self._shown = Step.showing(observation, shown[2].astype(bool), state=own_state)
        return self._shown

    def close(self) -> None:
        """End the worker processes and close the environments."""
        for hand in self._hands:
            hand.close()

    def _ask(self, method: str, *arguments: tuple[Any, ...]) -> list[Any]:
        """Ask every process, then collect the answers: they work at the same time."""
        for hand, each in zip(self._hands, arguments, strict=True):
            hand.send(method, *each)
        return [hand.receive() for hand in self._hands]

    def _show(self, parts: list[Rows]) -> Step:
        step = self._step_of(parts)
        self._episodes = np.concatenate([part.episodes for part in parts])
        self._shown = step
        self._handle([fault for part in parts for fault in part.faults])
        return step

    def _handle(self, faults: list[Fault]) -> None:
        for fault in faults:
            self._report(fault)
            if self._on_fault == "raise" and fault.field not in FAILURES:
                raise EnvError(fault.message)

    def _step_of(self, parts: list[Rows]) -> Step:
        """Put the rows of all processes below each other; what is one array in every part stays one."""
        names = ["state", "reward", "terminated", "truncated"]
        if any(part.observation is not part.final_observation for part in parts):
            names += ["final_observation", "final_state", "final_available_actions"]
        columns = {name: _joined(parts, name) for name in names}
        step = Step.showing(_joined(parts, "observation"), _joined(parts, "available_actions"), **columns)
        discarded = _joined(parts, "discarded")
        return step._replace(discarded=discarded) if discarded.any() else step

    def _check_allowed(self, actions: Integer[np.ndarray, "envs agents"], shown: Step) -> None:
        is_allowed = np.take_along_axis(shown.available_actions, actions[:, :, None], axis=2)
        if not is_allowed.all():
            env, agent, _ = np.argwhere(~is_allowed)[0]
            allowed = np.flatnonzero(shown.available_actions[env, agent]).tolist()
            raise EnvError(
                f"{self.name}[env {env}]: action {actions[env, agent]} of agent {agent} is not available; "
                f"its mask allows {allowed}."
            )


def _joined(parts: list[Rows], field: str) -> Any:
    """Return a column of all parts; None for a state that is the observations side by side."""
    columns = [getattr(part, field) for part in parts]
    return columns[0] if len(columns) == 1 or columns[0] is None else np.concatenate(columns)


def _declaring(owner: str, spec: EnvSpec, entities: Entities | Mapping[str, Any] | None) -> EnvSpec:
    if entities is None:
        return spec
    declared = decode(Entities, entities, path=f"{owner}: entities")
    if declared.observation_size != spec.observation_size:
        raise ConfigError(
            f"{owner}: entities ends at column {declared.observation_size}, but an observation has "
            f"{spec.observation_size} numbers."
        )
    if declared.state_is_observations and spec.state_size != spec.num_agents * spec.observation_size:
        raise ConfigError(
            f"{owner}: entities.state_is_observations is True, but the state has {spec.state_size} numbers; set "
            "own_state=False."
        )
    return spec._replace(entities=declared)


def _name_of(source: object) -> str:
    if isinstance(source, str):
        return f"pettingzoo:{source}"
    if callable(source):
        return f"pettingzoo:{getattr(source, '__name__', type(source).__name__)}"
    metadata = getattr(source, "metadata", {})
    return f"pettingzoo:{metadata.get('name') or type(source).__name__}"
