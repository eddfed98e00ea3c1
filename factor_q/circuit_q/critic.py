"""CircuitQCritic: a network that turns a state, or one observation per agent, into a CircuitQ."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits import Circuit
from circuits.errors import StructureError
from factor_q.circuit_q.circuit_q import CircuitQ
from factor_q.critic import OUTPUT_SCALE
from factor_q.layers import mlp


class CircuitQCritic(nn.Module):
    """A critic Q(state, u) shaped like a circuit: a network computes the score of every choice.

    Unlike `FactorQ` it has an exact maximum, soft value and Boltzmann policy at every size, because it uses only the
    interactions that the circuit can express; the policy lives on the same circuit, so the ELBO has no gap.

    Args:
        circuit: a deterministic circuit over the agents' actions.
        observation_size: numbers per state, or per agent with `per_agent`.
        hidden: widths of the hidden layers (ReLU), of the encoder with `per_agent`; at least one.
        per_agent: expect one observation per agent, shape (*batch, n, observation_size); an encoder shared by all
            agents embeds them, and the embeddings, agent after agent, go to the last layer.

    Raises:
        NotTractableError: some sum of the circuit is not deterministic.
        StructureError: a size is not positive.

    Example:
        >>> from circuits import structures
        >>> critic = CircuitQCritic(structures.markov_chain([2, 3]), observation_size=4)
        >>> critic(torch.zeros(5, 4)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        circuit: Circuit,
        observation_size: int = 64,
        *,
        hidden: Sequence[int] = (128, 128),
        per_agent: bool = False,
    ) -> None:
        super().__init__()
        if observation_size < 1 or not hidden or min(hidden) < 1:
            raise StructureError(
                f"CircuitQCritic: observation_size {observation_size} and hidden {tuple(hidden)} must be positive, "
                "with at least one hidden layer."
            )
        CircuitQ(circuit, torch.zeros(circuit.num_parameters))
        self.circuit = circuit
        self.observation_size = observation_size
        self.per_agent = per_agent
        self.trunk = mlp((observation_size, *hidden), output_gain=None, ends_in_relu=True)
        width = hidden[-1] * (circuit.num_variables if per_agent else 1)
        bound = OUTPUT_SCALE / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(width, circuit.num_parameters).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(circuit.num_parameters))

    def forward(self, observation: Float[Tensor, "*batch features"]) -> CircuitQ:
        """Return the Q-function of each state.

        Args:
            observation: shape (*batch, observation_size); with `per_agent` (*batch, n, observation_size).

        Returns:
            A CircuitQ on `circuit` with batch shape (*batch,).

        Raises:
            StructureError: the observation has another shape.
        """
        size = self.observation_size
        expected = (self.circuit.num_variables, size) if self.per_agent else (size,)
        if tuple(observation.shape[-len(expected) :]) != expected:
            axes = "(*batch, agents, observation_size)" if self.per_agent else "(*batch, observation_size)"
            raise StructureError(
                f"CircuitQCritic: the observation has shape {tuple(observation.shape)}, but it must end in "
                f"{expected}: {axes}."
            )
        embedding = self.trunk(observation)
        joined = embedding.flatten(-2) if self.per_agent else embedding
        return CircuitQ(self.circuit, joined @ self.weight + self.bias)

    def extra_repr(self) -> str:
        """Return what print(critic) shows beside the layers."""
        return f"{self.circuit!r}, observation_size={self.observation_size}, per_agent={self.per_agent}"
