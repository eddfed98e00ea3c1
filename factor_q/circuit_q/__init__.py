"""Q-functions shaped like a circuit: exact maximum, soft value and Boltzmann policy at any size."""

from factor_q.circuit_q.circuit_q import CircuitQ
from factor_q.circuit_q.critic import CircuitQCritic

__all__ = ["CircuitQ", "CircuitQCritic"]
