"""Target networks, and what keeps them up to date."""

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from spnpolicy.base.errors import ConfigError

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(network: Module) -> Module:
    """Return a copy that gradients never reach: a target network at its start."""
    return copy.deepcopy(network).requires_grad_(False)


def soft_update(target: nn.Module, online: nn.Module, rate: float) -> None:
    """Move the target's parameters a share `rate` of the way to the online ones; 1 copies them."""
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, rate)


def hard_update(target: nn.Module, online: nn.Module) -> None:
    """Copy the online parameters into the target."""
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.copy_(fast)


@dataclass(frozen=True)
class TargetUpdate:
    """When and how far the target network follows: soft (small rate, every step) or hard (rate 1, rarely)."""

    rate: float = 0.01
    """Share of the way that the target moves in one update; 1 copies the online network."""
    every: int = 1
    """Gradient steps between two updates of the target."""

    def __post_init__(self):
        if not 0.0 < self.rate <= 1.0:
            raise ConfigError(f"target.rate is {self.rate}, but must be above 0 and at most 1.")
        if self.every < 1:
            raise ConfigError(f"target.every is {self.every}, but must be at least 1.")

    def apply(self, target: nn.Module, online: nn.Module, updates: int) -> None:
        """Update the target if it is due after this many gradient steps."""
        if updates % self.every:
            return
        if self.rate == 1.0:
            hard_update(target, online)
        else:
            soft_update(target, online, self.rate)
