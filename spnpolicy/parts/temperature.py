"""The weight of entropy in a soft objective: fixed, or tuned so that the entropy follows a falling target."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from factor_q import Factors
from factor_q.congestion import Congestion
from spnpolicy.base.decoding import Checked
from spnpolicy.base.ranges import Range, Share
from spnpolicy.parts.settings import LinearSchedule

LOWEST, HIGHEST = 1e-6, 1e6
"""Between these lies every temperature, in reward per nat."""
COLDEST, WARMEST = 1e-3, 3.0
"""Between these lies a tuned one, in spreads: beyond, the policy is the best joint action, or uniform, as it is here
already, and the way back would take longer with every step."""
LEAST_SPREAD = 0.05
"""Values are taken to spread by this share of the largest reward at least, and before there is one nothing is tuned."""
MEMORY = 0.9
"""Share of the smoothed spread that is kept in an update."""


@dataclass(frozen=True)
class TemperatureConfig(Checked):
    """How the temperature is set."""

    fixed: Annotated[float, Range(LOWEST, HIGHEST)] | None = None
    """The temperature for ever, in units of reward per nat; none: it is tuned, so that the mean entropy follows a
    target, a share of the largest possible entropy."""
    initial: Annotated[float, Range(COLDEST, WARMEST)] = 1.0
    """What a tuned one begins with, in spreads: standard deviations of the values of joint actions drawn at random."""
    start: Share = 0.9
    """Target share at the start of training."""
    end: Share = 0.25
    """Target share once the schedule is over; near 0 the temperature vanishes and greedy play can loop."""
    falls_with: Literal["progress", "evidence"] = "progress"
    """What lets the target fall: the share of training that is done, or the evidence that the task is understood (see
    `Evidence`), which may come sooner or later, and which may be lost again."""
    share: Share = 0.5
    """Part of it over which the target falls linearly."""
    rate: Annotated[float, Range(0.0, 1.0)] = 0.02
    """Most that a tuned one moves in an update, relative to itself."""


class Temperature:
    """A positive number alpha: a multiple of the spread of action values, raised where the entropy is below its target.

    The multiple moves by `rate` times the relative error of the entropy, which is exact, so the step has no sampling
    noise. The spread carries all that depends on the scale of rewards: where values grow a hundredfold, so does the
    temperature in the same update, before the policy can settle on the first joint action that looks good. For discrete
    actions the target is positive, a share of the largest entropy: the convention of continuous control (minus the
    number of dimensions) can never be reached.

    Source: Haarnoja et al. 2018, for the target; the unit and the proportional step are ours.
    """

    def __init__(self, config: TemperatureConfig) -> None:
        self.config = config
        self.multiple = config.initial
        self.spread: float | None = None
        """Of the action values, smoothed over updates; None before the first one."""

    @property
    def value(self) -> float:
        """The temperature now."""
        if self.config.fixed is not None:
            return self.config.fixed
        # Before anything is known of the values, rewards are taken to be about 1.
        spread = 1.0 if self.spread is None else self.spread
        return min(max(self.multiple * spread, LOWEST), HIGHEST)

    def target(self, largest_entropy: float, progress: float) -> float:
        """Return the entropy to aim at, in nats."""
        config = self.config
        return LinearSchedule(config.start, config.end, config.share).at(progress) * largest_entropy

    def update(self, entropy: float, largest_entropy: float, progress: float, spread: float) -> None:
        """Raise the temperature when the mean entropy is below the target, lower it when above.

        Args:
            entropy: mean entropy of the policy, in nats.
            largest_entropy: mean entropy of the uniform policy.
            progress: share of training done, or the evidence where that counts.
            spread: mean standard deviation of the values of random joint actions.
        """
        target = max(self.target(largest_entropy, progress), LOWEST)
        error = min(max((target - entropy) / target, -1.0), 1.0)
        self.spread = spread if self.spread is None else MEMORY * self.spread + (1.0 - MEMORY) * spread
        self.multiple = min(max(self.multiple * math.exp(self.config.rate * error), COLDEST), WARMEST)

    def state_dict(self) -> dict[str, Any]:
        """Return multiple and spread."""
        return {"multiple": self.multiple, "spread": self.spread}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.multiple, self.spread = state["multiple"], state["spread"]


def spread(q: Factors | Congestion, available: Bool[Tensor, "*batch agents actions"]) -> Float[Tensor, "*batch"]:
    """Return the standard deviation of Q over joint actions drawn uniformly from the available ones, exactly.

    The variance is that of each agent's main effect plus that of each pair's interaction; these are uncorrelated.

    Args:
        q: factors of at most two agents each; of congestion, only what agents' choices are worth alone is looked at.
        available: which actions may be drawn, at least one per agent; its rows are those of `q`.

    Raises:
        ValueError: a factor has more than two agents.
    Source: Hoeffding 1948 (decomposition of functions of independent variables).
    """
    q = q.own if isinstance(q, Congestion) else q
    weight = available / available.sum(-1, keepdim=True)
    effects, variance = torch.zeros_like(weight), weight.new_zeros(weight.shape[:-2])
    groups: dict[tuple[int, ...], list[int]] = {}
    tables = q.tables  # a property that makes all views anew
    for factor, shape in enumerate(q.graph.table_shapes):
        groups.setdefault(shape, []).append(factor)
    for shape, members in groups.items():
        if len(shape) > 2:
            raise ValueError(f"spread: the factor of agents {q.scopes[members[0]]} has more than two.")
        if not shape:
            continue
        agents = torch.tensor([q.scopes[factor] for factor in members], device=weight.device).unbind(-1)
        parts = [torch.stack([tables[factor] for factor in members], -len(shape) - 1)]
        if len(shape) == 2:
            first, second = (weight.index_select(-2, each)[..., :k] for each, k in zip(agents, shape, strict=True))
            table = parts[0]
            rows, columns = (table * second.unsqueeze(-2)).sum(-1), (table * first.unsqueeze(-1)).sum(-2)
            mean = (rows * first).sum(-1)
            interaction = table - rows.unsqueeze(-1) - columns.unsqueeze(-2) + mean[..., None, None]
            variance = variance + torch.einsum("...pa,...pb,...pab->...", first, second, interaction.square())
            parts = [rows, columns]
        for each, part in zip(agents, parts, strict=True):
            effects = effects.index_add(-2, each, functional.pad(part, (0, weight.shape[-1] - part.shape[-1])))
    centred = effects - (weight * effects).sum(-1, keepdim=True)
    return (variance + (weight * centred.square()).sum((-2, -1))).sqrt()
