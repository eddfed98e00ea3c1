"""Trajectories: consecutive steps of every environment, for on-policy learning and for recurrent networks."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.base.errors import ConfigError
from spnpolicy.data.env import Step
from spnpolicy.data.protocol import Window
from spnpolicy.data.replay import transition_rows

_TYPES = {"actions": torch.int64, "terminated": torch.bool, "ended": torch.bool, "valid": torch.bool}


class Trajectories:
    """The last `capacity` steps of a batch of environments, in their order.

    Episodes follow each other without a gap; `Batch.ended` says where one is over. Steps that an environment's failure
    made worthless keep their place and are marked as not valid.

    Args:
        capacity: steps of every environment that are kept; the oldest ones are overwritten.
        generator: source of the random draws.
        length: steps of the windows that are drawn; None to give all that is kept, the newest `capacity` steps.
    """

    def __init__(self, capacity: int, generator: torch.Generator, length: int | None = None):
        if capacity < 1:
            raise ConfigError(f"trajectories of {capacity} steps cannot be kept; it must be at least 1.")
        self.capacity = capacity
        self._length = length
        self._generator = generator
        self._columns: dict[str, Tensor] = {}
        self._position = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def prepare(self, step: Step) -> None:
        """Do nothing: the columns are laid out by the first step stored."""

    def add(
        self,
        step_before: Step,
        actions: Int[np.ndarray, "envs agents"],
        step_after: Step,
        memory: Float[Tensor, "envs agents memory"] | None = None,
    ) -> None:
        """Store one step of every environment.

        Args:
            step_before: what the agents saw.
            actions: what they did.
            step_after: what came of it.
            memory: what the policy remembered when it saw `step_before`; None where it remembers nothing.
        """
        rows = transition_rows(step_before, actions, step_after)
        failed = np.zeros(len(actions), bool) if step_after.discarded is None else step_after.discarded
        rows["ended"] = step_after.terminated | step_after.truncated | failed
        rows["valid"] = ~failed
        rows["memory"] = np.zeros((*actions.shape, 0), np.float32) if memory is None else memory.cpu().numpy()
        for name, values in rows.items():
            if name not in self._columns:
                kind = torch.bool if values.dtype == bool else _TYPES.get(name, torch.float32)
                self._columns[name] = torch.zeros((self.capacity, *values.shape), dtype=kind)
            self._columns[name].numpy()[self._position] = values
        self._position = (self._position + 1) % self.capacity
        self._size = min(self._size + 1, self.capacity)

    def draw(self, count: int) -> Window:
        """Return about so many rows: windows drawn uniformly and with replacement, or with no length all that is kept.

        While little is stored, the windows drawn are shorter.

        Raises:
            ConfigError: too little has been stored.
        """
        if self._length is None:
            return self._everything()
        if self._size == 0:
            raise ConfigError("nothing has been stored: add steps before drawing windows.")
        count, length = max(1, count // self._length), min(self._length, self._size)
        envs = self._columns["valid"].shape[1]
        oldest = self._position - self._size
        start = torch.randint(self._size - length + 1, (count,), generator=self._generator)
        env = torch.randint(envs, (count,), generator=self._generator)
        times = (oldest + start + torch.arange(length)[:, None]) % self.capacity
        # One number per row: copying whole rows is several times faster than indexing by time and environment.
        rows = (times * envs + env).flatten()
        drawn = {
            name: column.flatten(0, 1).index_select(0, rows).unflatten(0, times.shape)
            for name, column in self._columns.items()
        }
        return Window(**(drawn | {"memory": drawn["memory"][0]}))

    def _everything(self) -> Window:
        if self._size < self.capacity:
            raise ConfigError(f"the newest {self.capacity} steps were asked for, but only {self._size} are stored.")
        times = torch.arange(self._position, self._position + self.capacity) % self.capacity
        drawn = {name: column.index_select(0, times) for name, column in self._columns.items()}
        return Window(**(drawn | {"memory": drawn["memory"][0]}))

    def state_dict(self) -> dict[str, Any]:
        """Return the filled part of every column and the place of the next write."""
        filled = {name: column[: self._size].clone() for name, column in self._columns.items()}
        return {"columns": filled, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` of trajectories of the same capacity returned."""
        self._position = state["position"]
        self._columns, self._size = {}, 0
        for name, rows in state["columns"].items():
            self._columns[name] = torch.zeros((self.capacity, *rows.shape[1:]), dtype=rows.dtype)
            self._columns[name][: len(rows)] = rows
            self._size = len(rows)
