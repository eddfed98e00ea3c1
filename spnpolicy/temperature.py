"""The weight of entropy in a soft objective: fixed, or tuned so that the entropy follows a falling target."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from spnpolicy.errors import ConfigError
from spnpolicy.exploration import linear_schedule

LOWEST, HIGHEST = 1e-6, 1e2


@dataclass(frozen=True)
class TemperatureConfig:
    """How the temperature is set."""

    initial: float = 0.1
    """Temperature at the start, and for ever unless `automatic`; in units of reward per nat."""
    automatic: bool = True
    """Tune it so that the mean entropy follows a target; the target is a share of the largest possible entropy."""
    start: float = 0.9
    """Target share at the start of training."""
    end: float = 0.25
    """Target share once the schedule is over; near 0 the temperature vanishes and greedy play can loop."""
    share: float = 0.5
    """Part of training over which the target falls linearly."""
    learning_rate: float = 3e-3
    """Step size of Adam on the logarithm of the temperature."""

    def __post_init__(self) -> None:
        if not LOWEST <= self.initial <= HIGHEST:
            raise ConfigError(f"temperature.initial is {self.initial}, but must be between {LOWEST} and {HIGHEST}.")
        for name in ("start", "end", "share"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"temperature.{name} is {value}, but must be a share between 0 and 1.")
        if not self.learning_rate > 0:
            raise ConfigError(f"temperature.learning_rate is {self.learning_rate}, but must be positive.")


class Temperature:
    """A positive number alpha, moved along log(alpha) * (entropy - target).

    The entropy is exact, so the step has no sampling noise. For discrete actions the target is positive, a share of
    the largest entropy: the convention of continuous control (minus the number of dimensions) can never be reached.

    Source: Haarnoja et al. 2018.
    """

    def __init__(self, config: TemperatureConfig) -> None:
        self.config = config
        self._log = torch.tensor(math.log(config.initial), dtype=torch.float64, requires_grad=True)
        self._optimizer = torch.optim.Adam([self._log], lr=config.learning_rate)

    @property
    def value(self) -> float:
        """The temperature now."""
        return math.exp(self._log.item())

    def target(self, largest_entropy: float, progress: float) -> float:
        """Return the entropy to aim at, in nats."""
        schedule = self.config
        share = linear_schedule(progress, start=schedule.start, end=schedule.end, share=schedule.share)
        return share * largest_entropy

    def update(self, entropy: float, largest_entropy: float, progress: float) -> None:
        """Raise the temperature when the mean entropy is below the target, lower it when above."""
        if not self.config.automatic:
            return
        self._log.grad = torch.tensor(entropy - self.target(largest_entropy, progress), dtype=torch.float64)
        self._optimizer.step()
        with torch.no_grad():
            self._log.clamp_(math.log(LOWEST), math.log(HIGHEST))

    def state_dict(self) -> dict[str, Any]:
        """Return value and optimiser state."""
        return {"log": self._log.detach().clone(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        with torch.no_grad():
            self._log.copy_(state["log"])
        self._optimizer.load_state_dict(state["optimizer"])
