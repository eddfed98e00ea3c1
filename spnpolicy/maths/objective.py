"""The exact evidence lower bound of exp(Q / temperature): the objective of maximum-entropy control."""

from jaxtyping import Float
from torch import Tensor

from circuits import CircuitDistribution
from factor_q import Factors


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
    Cost: linear in the circuit's edges and the factors' entries.
    Source: Shih and Ermon 2020; Vora, Centralised MARL by leveraging tractable inference.
    """
    return pi.expectation(q) + temperature * pi.entropy()
