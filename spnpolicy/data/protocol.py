"""What an algorithm is: a frozen config and a small class with four methods."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spnpolicy.base.errors import EnvError
from spnpolicy.data.env import Step


class Batch(NamedTuple):
    """Transitions. `terminated` is true only for real ends, never for time limits.

    Single transitions from replay have the leading shape (batch,) and none of the last three fields. Consecutive steps
    are a `Window`, with the leading shape (time, batch) and all of them.
    """

    observation: Float[Tensor, "*batch agents features"]
    state: Float[Tensor, "*batch state"]
    actions: Int[Tensor, "*batch agents"]
    reward: Float[Tensor, "*batch agents"]
    terminated: Bool[Tensor, "*batch"]
    available_actions: Bool[Tensor, "*batch agents actions"]
    next_observation: Float[Tensor, "*batch agents features"]
    next_state: Float[Tensor, "*batch state"]
    next_available_actions: Bool[Tensor, "*batch agents actions"]
    ended: Bool[Tensor, "*batch"] | None = None
    """Where an episode was over after the step, for whatever reason: the next row belongs to another one."""
    valid: Bool[Tensor, "*batch"] | None = None
    """False where an environment failed, or where a row is there for the memory only: nothing of it may be learned.
    None: all rows count."""
    memory: Float[Tensor, "batch agents memory"] | None = None
    """What recurrent networks remembered before the first step; size 0 where there are none."""

    def of(self, agent: int, num_actions: int) -> "Batch":
        """Return what one agent has of it, with its own actions only; the state, which is nobody's own, stays."""
        own = slice(agent, agent + 1)
        return self._replace(
            observation=self.observation[..., own, :],
            actions=self.actions[..., own],
            reward=self.reward[..., own],
            available_actions=self.available_actions[..., own, :num_actions],
            next_observation=self.next_observation[..., own, :],
            next_available_actions=self.next_available_actions[..., own, :num_actions],
            memory=None if self.memory is None else self.memory[:, own],
        )


class Window(Batch):
    """Consecutive steps of each of several environments (`Needs.rollout`, `Needs.sequence`), shape (time, batch)."""

    __slots__ = ()

    @property
    def cut(self) -> Bool[Tensor, "time batch"]:
        """Where a return looks no further and bootstraps from what the step led to.

        There the episode is over, or the window, or an environment failed in the next step. The step before a failure
        is sound, but nothing that came after it is.
        """
        assert self.ended is not None, "a window has all fields"
        assert self.valid is not None, "a window has all fields"
        cut = self.ended.clone()
        cut[:-1] |= ~self.valid[1:]
        cut[-1] = True
        return cut


class Needs(NamedTuple):
    """The data that an algorithm learns from, and what must be remembered for it while it acts."""

    rollout: int | None = None
    """On-policy: every update takes the newest so many steps of every environment, each step once. None: replay."""
    sequence: int | None = None
    """Replay gives windows of so many consecutive steps, for recurrent networks. None: single transitions."""
    burn_in: int = 0
    """Rows before those of a window that only warm up the memory; they are marked as not valid."""
    memory_size: int = 0
    """Numbers that a recurrent network keeps per agent from step to step; 0 where there is none."""
    passes: int = 1
    """How often an update goes through its batch, the most of its parts: epochs of PPO, steps of COMA's critic."""


@dataclass
class Memory:
    """What a recurrent policy remembers of the episodes under way in one batch of environments."""

    hidden: Float[Tensor, "envs agents memory"] | None = None
    """None before the first step."""


@runtime_checkable
class Algorithm(Protocol):
    """A learner. Built as `Algorithm(config, spec, streams)`.

    Optional are a method `to(device)`, with which the networks can live on a GPU and batches come from there, and
    `needs`, for an algorithm that learns from other data than single transitions from replay. One with a memory takes
    `memory=Memory()` in `act`; `spnpolicy.training.player.Player` passes it.
    """

    config: Any

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose joint actions; `progress` in [0, 1] is the share of training already done (for schedules).

        Without `explore` no random stream moves: an evaluation in between changes nothing that follows.
        """
        ...

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Learn from one batch and return named numbers for the metrics file.

        If a loss or gradient is not finite, nothing is changed and one of the numbers says so by not being finite.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values; enough to go on learning."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        ...


def seen(step: Step, field: Literal["observation", "state"], device: torch.device) -> Float[Tensor, "envs *shown"]:
    """Return what a step shows to those who act, on their device.

    Raises:
        EnvError: it holds nan or an infinity, at which a network would choose its first action without a word.
    """
    # A copy, because torch refuses to share memory with read-only arrays.
    shown = torch.tensor(getattr(step, field), dtype=torch.float32, device=device)
    # A finite sum has finite terms only: one pass in the usual case.
    if not bool(shown.sum().isfinite()) and not bool((finite := shown.isfinite()).all()):
        env, *entry = (~finite).nonzero()[0].tolist()
        raise EnvError(
            f"env {env}: the {field} holds {shown[env, *entry].item()} at {entry}, so nobody can act on it; give "
            "finite numbers, or have steps checked by spnpolicy.envs.guarded, which names agent and episode."
        )
    return shown
