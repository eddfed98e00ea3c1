"""Where steps are kept until they are learned from: single transitions for replay, or trajectories in their order."""

import os
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Needs, Window
from spnpolicy.maths.masks import existing_actions


class Store(ABC):
    """The last `capacity` rows of a batch of environments, in preallocated columns; the oldest are overwritten.

    Args:
        capacity: number of rows.
        generator: source of the random draws.
    """

    def __init__(self, capacity: int, generator: torch.Generator):
        if capacity < 1:
            raise ConfigError(f"the capacity of a store is {capacity}, but must be at least 1.")
        self.capacity = capacity
        self._generator = generator
        self._columns: dict[str, Tensor] = {}
        self._position = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @abstractmethod
    def prepare(self, step: Step) -> None:
        """Get ready for what the agents see first."""

    def add(
        self,
        step_before: Step,
        actions: Integer[np.ndarray, "envs agents"],
        step_after: Step,
        memory: Float[Tensor, "envs agents memory"] | None = None,
    ) -> None:
        """Keep one step of every environment.

        Args:
            step_before: what the agents saw.
            actions: what they did.
            step_after: what came of it.
            memory: what the policy remembered when it saw `step_before`; None where it remembers nothing.

        Raises:
            ConfigError: replay has fewer rows than there are environments.
            EnvError: the state stopped being the reshaped observation.
        """
        self.prepare(step_before)
        self._keep(step_before, step_after, transition_rows(step_before, actions, step_after), memory)

    @abstractmethod
    def _keep(self, before: Step, after: Step, rows: dict[str, np.ndarray], memory: Tensor | None) -> None:
        """Write one transition of every environment into the columns."""

    @abstractmethod
    def draw(self, count: int) -> Batch:
        """Return about so many rows to learn from; of a rollout all, however many they are.

        Raises:
            ConfigError: too little has been stored.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the filled part of every column and the place of the next write."""
        filled = {name: column[: self._size].clone() for name, column in self._columns.items()}
        return {"columns": filled, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` of a store of the same capacity returned."""
        self._position = state["position"]
        self._columns, self._size = {}, 0
        for name, rows in state["columns"].items():
            self._columns[name] = torch.zeros((self.capacity, *rows.shape[1:]), dtype=rows.dtype)
            self._columns[name][: len(rows)] = rows
            self._size = len(rows)

    def _column(self, name: str, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        """Return a column, laid out for rows of this kind and shape when it is first asked for."""
        if name not in self._columns:
            number = torch.int64 if name == "actions" else torch.float32
            dtype = torch.bool if kind.kind == "b" else number
            self._columns[name] = torch.zeros((self.capacity, *shape), dtype=dtype)
        return self._columns[name].numpy()

    def _advance(self, count: int) -> None:
        self._position = (self._position + count) % self.capacity
        self._size = min(self._size + count, self.capacity)


class ReplayBuffer(Store):
    """The last `capacity` transitions of a batch of environments.

    What follows a transition is read from the `final_*` fields of the step, never from the first observation
    of the next episode; `terminated` is stored as it is, so that a time limit still bootstraps.

    Two things are not stored where that would waste memory: action masks of an environment that promises to
    have none, and a state that is only the reshaped observation. The latter is recognised on the first
    transition (state and observation share memory) unless `state_is_observation` says so.

    Args:
        capacity: number of transitions kept; the oldest ones are overwritten.
        spec: sizes of the environment.
        generator: source of the random draws of `draw`.
        state_is_observation: True or False to decide, None to look at the first transition.
    """

    def __init__(
        self,
        capacity: int,
        spec: EnvSpec,
        generator: torch.Generator,
        *,
        state_is_observation: bool | None = None,
    ):
        super().__init__(capacity, generator)
        self._spec = spec
        self._state_is_observation = state_is_observation
        self._available = existing_actions(spec.cardinalities)

    def prepare(self, step: Step) -> None:
        """Tell whether the state is the reshaped observation; from a checkpoint that could no longer be told."""
        if self._state_is_observation is None:
            same_size = step.state.size == step.observation.size
            self._state_is_observation = same_size and np.may_share_memory(step.state, step.observation)

    def _keep(self, before: Step, after: Step, rows: dict[str, np.ndarray], memory: Tensor | None) -> None:
        """Write what no environment's failure made worthless; a memory is of no use to single transitions."""
        if len(after.reward) > self.capacity:
            envs = len(after.reward)
            raise ConfigError(f"replay capacity is {self.capacity}, but must be at least {envs}, one per env.")
        if self._state_is_observation:
            _check_state(before.state, before.observation)
            _check_state(after.final_state, after.final_observation)
            del rows["state"], rows["next_state"]
        if not self._spec.has_action_masks:
            del rows["available_actions"], rows["next_available_actions"]
        if after.discarded is not None:
            rows = {name: values[~after.discarded] for name, values in rows.items()}
        count = len(rows["reward"])
        head = min(count, self.capacity - self._position)
        for name, values in rows.items():
            target = self._column(name, values.dtype, values.shape[1:])
            target[self._position : self._position + head] = values[:head]
            if head < count:
                target[: count - head] = values[head:]
        self._advance(count)

    def draw(self, count: int) -> Batch:
        """Draw so many transitions uniformly and with replacement."""
        if self._size == 0:
            raise ConfigError("replay is empty: add transitions before drawing.")
        indices = torch.randint(self._size, (count,), generator=self._generator)
        drawn = {name: column.index_select(0, indices) for name, column in self._columns.items()}
        if self._state_is_observation:
            drawn["state"] = drawn["observation"].flatten(1)
            drawn["next_state"] = drawn["next_observation"].flatten(1)
        if not self._spec.has_action_masks:
            everything = self._available.expand(count, -1, -1)
            drawn["available_actions"] = drawn["next_available_actions"] = everything
        return Batch(**drawn)

    def state_dict(self) -> dict[str, Any]:
        """Return what is stored, and what was found out about the state."""
        return super().state_dict() | {"state_is_observation": self._state_is_observation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` of a buffer of the same capacity returned."""
        super().load_state_dict(state)
        self._state_is_observation = state["state_is_observation"]


class Trajectories(Store):
    """The last `capacity` steps of a batch of environments, in their order.

    Episodes follow each other without a gap; `Batch.ended` says where one is over. Steps that an environment's failure
    made worthless keep their place and are marked as not valid.

    Args:
        capacity: steps of every environment that are kept; the oldest ones are overwritten.
        generator: source of the random draws.
        length: steps of the windows that are drawn; None to give all that is kept, the newest `capacity` steps.
        burn_in: steps that windows have before those, marked as not valid: only the memory is to see them.
    """

    def __init__(self, capacity: int, generator: torch.Generator, length: int | None = None, burn_in: int = 0):
        super().__init__(capacity, generator)
        self._length, self._burn_in = length, burn_in

    def prepare(self, step: Step) -> None:
        """Do nothing: the columns are laid out by the first step stored."""

    def _keep(self, before: Step, after: Step, rows: dict[str, np.ndarray], memory: Tensor | None) -> None:
        """Write the step, with marks where an episode ended and where an environment failed."""
        actions = rows["actions"]
        failed = np.zeros(len(actions), bool) if after.discarded is None else after.discarded
        rows["ended"] = after.terminated | after.truncated | failed
        rows["valid"] = ~failed
        rows["memory"] = np.zeros((*actions.shape, 0), np.float32) if memory is None else memory.cpu().numpy()
        for name, values in rows.items():
            self._column(name, values.dtype, values.shape)[self._position] = values
        self._advance(1)

    def draw(self, count: int) -> Window:
        """Return about so many rows: windows drawn uniformly and with replacement, or with no length all that is kept.

        Rows that only warm up the memory come on top. While little is stored, there are fewer of them, and then the
        windows drawn are shorter.
        """
        if self._length is None and self._size < self.capacity:
            raise ConfigError(f"the newest {self.capacity} steps were asked for, but only {self._size} are stored.")
        if self._size == 0:
            raise ConfigError("nothing has been stored: add steps before drawing windows.")
        envs = self._columns["valid"].shape[1]
        length, start, env = self._size, torch.zeros(envs, dtype=torch.long), torch.arange(envs)
        if self._length is not None:
            count, length = max(1, count // self._length), min(self._burn_in + self._length, self._size)
            start = torch.randint(self._size - length + 1, (count,), generator=self._generator)
            env = torch.randint(envs, (count,), generator=self._generator)
        oldest = self._position - self._size
        times = (oldest + start + torch.arange(length)[:, None]) % self.capacity
        # One number per row: copying whole rows is several times faster than indexing by time and environment.
        rows = (times * envs + env).flatten()
        drawn = {
            name: column.flatten(0, 1).index_select(0, rows).unflatten(0, times.shape)
            for name, column in self._columns.items()
        }
        drawn["valid"][: max(0, length - (self._length or length))] = False
        return Window(**(drawn | {"memory": drawn["memory"][0]}))


def store_for(needs: Needs, spec: EnvSpec, *, capacity: int, num_envs: int, generator: torch.Generator) -> Store:
    """Return an empty store of the kind that an algorithm learns from.

    Args:
        needs: what the algorithm says of itself.
        spec: sizes of the environment.
        capacity: transitions kept for replay; a rollout is as long as it is.
        num_envs: environments stepped together.
        generator: source of the random draws.

    Raises:
        ConfigError: it would be larger than the memory of this machine.
    """
    if needs.rollout is None:
        _require_memory("train.replay_capacity", capacity, capacity, needs, spec)
    else:
        _require_memory("rollout", needs.rollout, needs.rollout * num_envs, needs, spec)
    if needs.rollout is not None:
        return Trajectories(needs.rollout, generator)
    if needs.sequence is not None:
        return Trajectories(max(1, capacity // num_envs), generator, needs.sequence, needs.burn_in)
    return ReplayBuffer(capacity, spec, generator)


def _require_memory(setting: str, value: int, rows: int, needs: Needs, spec: EnvSpec) -> None:
    # Asked before anything is laid out: the system hands out more pages than it has, and ends whoever uses them.
    seen = spec.num_agents * (spec.observation_size + max(spec.cardinalities) / 4) + spec.state_size
    size = rows * 4 * (2 * seen + spec.num_agents * (3 + needs.memory_size))
    if size > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise ConfigError(
            f"{setting} is {value}, but then {rows:,} transitions of {size / rows:,.0f} bytes would be kept, and this "
            f"machine has {memory / 2**30:,.0f} GiB of memory: make it smaller."
        )


def transition_rows(before: Step, actions: Integer[np.ndarray, "envs agents"], after: Step) -> dict[str, np.ndarray]:
    """Return one transition of every environment, by the names of `Batch`.

    Args:
        before: what the agents saw.
        actions: what they did.
        after: what came of it; only its `final_*` fields belong to the same episode.
    """
    return {
        "observation": before.observation,
        "state": before.state,
        "available_actions": before.available_actions,
        "actions": actions,
        "reward": after.reward,
        "terminated": after.terminated,
        "next_observation": after.final_observation,
        "next_state": after.final_state,
        "next_available_actions": after.final_available_actions,
    }


def _check_state(state: np.ndarray, observation: np.ndarray) -> None:
    # Comparing addresses is enough in the usual case; only a copy has to be compared by value.
    if state.ctypes.data == observation.ctypes.data and state.size == observation.size:
        return
    if not np.array_equal(state, observation.reshape(len(observation), -1)):
        raise EnvError(
            "the state was the reshaped observation at first and no longer is. "
            "Build ReplayBuffer(..., state_is_observation=False) for this environment."
        )
