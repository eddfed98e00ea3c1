"""What every algorithm does alike: give its parts to a checkpoint, take them back, move its networks."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Kind = TypeVar("Kind", bound=type[Any])


def saves(*parts: str) -> Callable[[Kind], Kind]:
    """Give a class `state_dict`, `load_state_dict` and `to`, from the names of its parts.

    Args:
        parts: attributes that change in training: networks, optimisers and whatever else has a `state_dict`, and plain
            numbers. What has a method `to` among them moves with the whole.

    Example:
        @saves("critic", "target_critic", "critic_optimizer", "num_updates")
        class IQL: ...
    """

    def state_dict(self: Any) -> dict[str, Any]:
        """Return what continuing needs."""
        return {name: _state_of(getattr(self, name)) for name in parts}

    def load_state_dict(self: Any, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for name in parts:
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])

    def to(self: Any, device: torch.device) -> None:
        """Move all networks to a device; actions are still drawn on the CPU."""
        for name in parts:
            if hasattr(part := getattr(self, name), "to"):
                part.to(device)

    def decorate(kind: Kind) -> Kind:
        for method in (state_dict, load_state_dict, to):
            if method.__name__ not in vars(kind):
                setattr(kind, method.__name__, method)
        return kind

    return decorate


def _state_of(part: Any) -> Any:
    return part.state_dict() if hasattr(part, "state_dict") else part
