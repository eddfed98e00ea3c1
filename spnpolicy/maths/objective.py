"""The exact evidence lower bound of exp(Q / temperature): the objective of maximum-entropy control."""

from numbers import Real

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits import CircuitDistribution
from circuits.shapes import common_shape
from factor_q import Factors
from spnpolicy.base.errors import ConfigError


def elbo(
    pi: CircuitDistribution, q: Factors, temperature: float | Float[Tensor, "*batch"] = 1.0
) -> Float[Tensor, "*batch"]:
    """Return E_pi[Q] + temperature * H(pi), exactly and differentiably; no sampling.

    It never exceeds temperature * log sum_u exp(Q(u) / temperature); the gap is temperature * KL(pi || exp(Q/T)/Z).

    Args:
        pi: a joint policy on a deterministic circuit, batch shape (*batch).
        q: joint action values as factors over the same agents, batch shape (*batch).
        temperature: positive weight of the entropy, in Q's unit per nat.

    Returns:
        Shape (*batch), in Q's unit.

    Raises:
        NotTractableError: the circuit is not deterministic.
        ConfigError: the temperature is negative or nan, or something is of another type.
        StructureError: the batch shapes do not broadcast.
        EvidenceError: action values are nan or +inf.
    Cost: linear in the circuit's edges and the factors' entries.
    Source: Shih and Ermon 2020; Vora, Centralised MARL by leveraging tractable inference.
    """
    if not isinstance(pi, CircuitDistribution) or not isinstance(q, Factors):
        raise ConfigError(
            f"elbo takes a CircuitDistribution and Factors, in this order, not a {type(pi).__name__} and a "
            f"{type(q).__name__}."
        )
    if isinstance(temperature, bool) or not isinstance(temperature, Real | np.number | Tensor):
        raise ConfigError(f"elbo: the temperature is {temperature!r}; give a number, or a tensor of one per batch row.")
    shape = temperature.shape if isinstance(temperature, Tensor) else torch.Size()
    common_shape([pi.batch_shape, q.batch_shape, shape], "elbo: policy, action values and temperature")
    if not bool(torch.as_tensor(temperature >= 0).all()):  # nan is not either
        raise ConfigError(
            f"elbo: the temperature is {temperature}; it must be at least 0, or entropy would be avoided."
        )
    return pi.expectation(q) + temperature * pi.entropy()
