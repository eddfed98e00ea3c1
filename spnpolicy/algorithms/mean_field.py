"""The mean-field relative of the exact-ELBO actor-critic: the same objective, with independent agents."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from circuits import CircuitDistribution
from spnpolicy.algorithms import spn_ac
from spnpolicy.algorithms.protocol import Batch
from spnpolicy.envs.protocol import EnvSpec, Step
from spnpolicy.features import FourierFeatures
from spnpolicy.networks import TargetUpdate
from spnpolicy.temperature import TemperatureConfig
from spnpolicy.training.seeding import Streams


@dataclass(frozen=True)
class Config:
    """Settings of the mean-field actor-critic; they mean what they mean for spn_ac."""

    discount: float = 0.95
    """Worth of a reward one step later; a training run sets it."""
    num_pairs: int = 20
    """Most pair factors of the critic."""
    learning_rate: float = 1e-3
    """Step size of Adam on the critic."""
    policy_learning_rate: float = 1e-3
    """Step size of Adam on the policy."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of critic and policy."""
    features: FourierFeatures = field(default_factory=FourierFeatures)
    """What the networks see of an observation."""
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    """Weight of the entropy."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target critic follows."""


class MeanField:
    """pi(u|s) = product of pi_i(u_i|s), trained on the exact ELBO of the same factor-graph critic as spn_ac.

    It is spn_ac on the circuit without sums over joint behaviour: what is lost against spn_ac is what a joint policy
    is worth. Source: algorithms' comparison policy in Vora, Centralised MARL by leveraging tractable inference.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams) -> None:
        self.config = config
        shared = {part.name: getattr(config, part.name) for part in fields(config)}
        self._learner = spn_ac.SPNActorCritic(spn_ac.Config(**shared, structure="mean_field"), spec, streams)

    def policy_at(self, step: Step) -> CircuitDistribution:
        """Return the policy of every environment, with forbidden actions ruled out."""
        return self._learner.policy_at(step)

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Sample joint actions, or take every agent's most probable one."""
        return self._learner.act(step, explore=explore, progress=progress)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the critic, one of the policy, and one of the temperature."""
        return self._learner.update(batch, progress=progress)

    def to(self, device: torch.device) -> None:
        """Move all networks to a device."""
        self._learner.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return what continuing needs."""
        return self._learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._learner.load_state_dict(state)
