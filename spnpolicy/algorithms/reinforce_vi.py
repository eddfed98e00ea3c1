"""The sampling relative of the exact-ELBO actor-critic: the same objective, its gradient from the score function."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits import CircuitDistribution
from spnpolicy.algorithms import spn_ac
from spnpolicy.base.decoding import require
from spnpolicy.base.ranges import Repeats
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import policy_gradient_loss
from spnpolicy.networks.joint_values import ActionValues, Judged, least
from spnpolicy.parts.learner import saves
from spnpolicy.parts.solvers import Boltzmann


@dataclass(frozen=True)
class Config(spn_ac.Config):
    """Settings of the sampling actor-critic; those of spn_ac mean the same."""

    samples: Repeats = 16
    """Joint actions drawn per state, for the policy's gradient and for the value of what follows."""
    baseline: Literal["leave_one_out", "none"] = "leave_one_out"
    """What a sample is compared with: the mean of the other samples of its state, or nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = 1 if self.baseline == "none" else 2
        require(self.solver == "gradient", "solver", self.solver, "'gradient': here a network follows samples")
        require(self.samples >= least, "samples", self.samples, f"at least {least} with baseline {self.baseline!r}")


class Drawn(NamedTuple):
    """Samples of a policy, the sample axis first."""

    log_prob: Float[Tensor, "samples *batch"]
    """With gradient."""
    soft_return: Float[Tensor, "samples *batch"]
    """R = Q(u) - temperature * log pi(u), without gradient; its mean estimates the ELBO."""


@saves("learner")
class ReinforceVI:
    """Maximum-entropy actor-critic that replaces every expectation under its policy by a mean over samples.

    Networks, circuit, critic and temperature are those of spn_ac. The policy's gradient is the mean of
    grad log pi(u) * (R(u) - b) over samples u, and the critic's target the mean of R in the next state: unbiased both,
    but noisy. What is lost against spn_ac is what exact expectations are worth.

    Source: Vora, Centralised MARL by leveraging tractable inference; Kool, van Hoof and Welling 2019.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams) -> None:
        self.config = config
        exact = {part.name: getattr(config, part.name) for part in fields(spn_ac.Config)}
        self.learner = spn_ac.SPNActorCritic(spn_ac.Config(**exact), spec, streams)
        self.needs = self.learner.needs
        self._sample_generator = streams.torch("samples")

    def retarget(self, spec: EnvSpec) -> None:
        """Play and learn from now on in another task of the same kind, as spn_ac does."""
        self.learner.retarget(spec)

    def policy_at(self, step: Step) -> CircuitDistribution:
        """Return the joint policy of every environment, with forbidden actions ruled out."""
        return self.learner.policy_at(step)

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Sample joint actions, or take the exact mode."""
        return self.learner.act(step, explore=explore, progress=progress)

    def draw(self, step: Step, *, generator: torch.Generator, sharpness: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Draw joint actions without exploring, as spn_ac does."""
        return self.learner.draw(step, generator=generator, sharpness=sharpness)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the critic, one of the policy, and one of the temperature."""
        learner = self.learner
        with torch.no_grad():
            following = batch.next_observation, batch.next_state
            pi = learner.policy(*following, batch.next_available_actions)
            drawn = self._draw(pi, learner.values(learner.target_critic, *following).q)
            target_t = learner.target(batch, drawn.soft_return.mean(0), lambda: -drawn.log_prob.mean(0))
        return learner.learn(batch, target_t, self._actor_loss, progress)

    def _actor_loss(self, rows: Batch, judged: Judged) -> tuple[Tensor, Tensor]:
        drawn = self._draw(self.learner.policy_on(rows, judged), judged.q)
        loss = score_function_loss(drawn, self.config.baseline, rows.valid)
        return drawn.soft_return.mean(0), loss

    def _draw(self, pi: CircuitDistribution | Boltzmann, q: Sequence[ActionValues]) -> Drawn:
        assert isinstance(pi, CircuitDistribution), "a network gives circuits"
        return draw(pi, q, self.learner.temperature.value, self.config.samples, self._sample_generator)


def draw(
    pi: CircuitDistribution, q: Sequence[ActionValues], temperature: float, count: int, generator: torch.Generator
) -> Drawn:
    """Draw joint actions and say how probable and how good they are.

    Args:
        pi: the policy, batch shape (batch,).
        q: action values, batch shape (batch,); of several the least.
        temperature: weight of the entropy.
        count: samples per batch row.
        generator: source of the randomness, on the CPU.
    """
    on_cpu = pi if pi.logits.device.type == "cpu" else CircuitDistribution(pi.circuit, pi.logits.detach().cpu())
    actions = on_cpu.sample((count,), generator=generator).to(pi.logits.device)
    log_prob = pi.log_prob(actions)
    with torch.no_grad():
        value = least(each.detach()(actions) for each in q)
        return Drawn(log_prob, value - temperature * log_prob)


def score_function_loss(drawn: Drawn, baseline: str, valid: Bool[Tensor, "*batch"] | None = None) -> Float[Tensor, ""]:
    """Return a number whose gradient is minus an unbiased estimate of that of the mean ELBO.

    With "leave_one_out" each sample is compared with the mean of the others; a mean that holds the sample itself would
    shrink the gradient by (samples - 1) / samples. The derivative of -log pi inside R is 0 on average and left out.

    Args:
        drawn: samples, at least two per row with "leave_one_out".
        baseline: "leave_one_out" or "none".
        valid: which rows count; None for all.
    """
    value, count = drawn.soft_return, len(drawn.soft_return)
    if baseline == "leave_one_out":
        value = (value - value.mean(0)) * (count / (count - 1))
    counts = None if valid is None else valid.expand_as(value)
    return policy_gradient_loss(drawn.log_prob, value, counts)
