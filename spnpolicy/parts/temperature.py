"""The weight of entropy in a soft objective: fixed, or tuned so that the entropy follows a falling target."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factor_q import Factors
from spnpolicy.base.decoding import Checked
from spnpolicy.base.ranges import Range, Share, StepSize, Weight
from spnpolicy.parts.settings import LinearSchedule

LOWEST, HIGHEST = 1e-6, 1e2
COLLAPSED = 0.5
"""Share of the target below which an entropy has not just wandered off, but is lost."""


@dataclass(frozen=True)
class TemperatureConfig(Checked):
    """How the temperature is set."""

    initial: Annotated[float, Range(LOWEST, HIGHEST)] = 0.1
    """Temperature at the start, and for ever unless `automatic`; in units of reward per nat."""
    automatic: bool = True
    """Tune it so that the mean entropy follows a target; the target is a share of the largest possible entropy."""
    start: Share = 0.9
    """Target share at the start of training."""
    end: Share = 0.25
    """Target share once the schedule is over; near 0 the temperature vanishes and greedy play can loop."""
    share: Share = 0.5
    """Part of training over which the target falls linearly."""
    learning_rate: StepSize = 3e-3
    """Step size of Adam on the logarithm of the temperature."""
    rescue: Weight = 1.0
    """Where the entropy is lost, at most so many standard deviations of the values of random joint actions are the
    temperature at once; 0 leaves it to the small steps."""


class Temperature:
    """A positive number alpha, moved along log(alpha) * (entropy - target).

    The entropy is exact, so the step has no sampling noise. For discrete actions the target is positive, a share of
    the largest entropy: the convention of continuous control (minus the number of dimensions) can never be reached.

    The steps are small, for a temperature that is about right. Where rewards are far larger than it, the policy settles
    on the first joint action that looks good, long before the steps have added up, and then stays there. So when the
    entropy is below half of its target, the temperature is raised at once to `rescue * (1 - 2 entropy / target)` times
    the spread of the values: one standard deviation is a policy that prefers, but excludes nothing.

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
        config = self.config
        return LinearSchedule(config.start, config.end, config.share).at(progress) * largest_entropy

    def update(
        self,
        entropy: float,
        largest_entropy: float,
        progress: float,
        spread_of_values: Callable[[], float] | None = None,
    ) -> None:
        """Raise the temperature when the mean entropy is below the target, lower it when above.

        Args:
            entropy: mean entropy of the policy, in nats.
            largest_entropy: mean entropy of the uniform policy.
            progress: share of training done.
            spread_of_values: gives the standard deviation of the values of random joint actions; asked only where the
                entropy is lost. None: no rescue.
        """
        if not self.config.automatic:
            return
        lost = 1.0 - entropy / (COLLAPSED * max(self.target(largest_entropy, progress), LOWEST))
        if lost > 0.0 and self.config.rescue > 0.0 and spread_of_values is not None:
            least = self.config.rescue * lost * spread_of_values()
            with torch.no_grad():
                self._log.clamp_(min=math.log(max(least, LOWEST)))
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


def spread(q: Factors, available: Bool[Tensor, "batch agents actions"]) -> Float[Tensor, " batch"]:
    """Return the standard deviation of Q over joint actions drawn uniformly from the available ones, exactly.

    The variance is that of each agent's main effect plus that of each pair's interaction; these are uncorrelated.

    Args:
        q: factors of at most two agents each.
        available: which actions may be drawn, at least one per agent; its rows are those of `q`.

    Raises:
        ValueError: a factor has more than two agents.
    Source: Hoeffding 1948 (decomposition of functions of independent variables).
    """
    weight = available / available.sum(-1, keepdim=True)
    effects = [weight.new_zeros(weight[..., i, :k].shape) for i, k in enumerate(q.cardinalities)]
    variance = weight.new_zeros(weight.shape[:-2])
    for scope, table in q:
        if len(scope) > 2:
            raise ValueError(f"spread: the factor of agents {scope} has more than two.")
        if len(scope) == 1:
            effects[scope[0]] = effects[scope[0]] + table
        elif len(scope) == 2:
            first, second = (weight[..., agent, : q.cardinalities[agent]] for agent in scope)
            rows, columns = (table * second.unsqueeze(-2)).sum(-1), (table * first.unsqueeze(-1)).sum(-2)
            mean = (rows * first).sum(-1)
            interaction = table - rows.unsqueeze(-1) - columns.unsqueeze(-2) + mean[..., None, None]
            variance = variance + torch.einsum("...a,...b,...ab->...", first, second, interaction.square())
            effects[scope[0]], effects[scope[1]] = effects[scope[0]] + rows, effects[scope[1]] + columns
    for agent, effect in enumerate(effects):
        own = weight[..., agent, : effect.shape[-1]]
        variance = variance + (own * (effect - (own * effect).sum(-1, keepdim=True)).square()).sum(-1)
    return variance.sqrt()
