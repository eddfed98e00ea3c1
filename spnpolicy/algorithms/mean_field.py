"""The mean-field relative of the exact-ELBO actor-critic: the same objective, with independent agents."""

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits import Circuit, CircuitDistribution, structures
from factor_q import FactorGraph, Factors, approximate
from factor_q.congestion import Congestion
from spnpolicy.algorithms import spn_ac
from spnpolicy.base.ranges import Range, Repeats
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.networks.joint_values import ActionValues
from spnpolicy.parts.joint_settings import JointSettings
from spnpolicy.parts.learner import saves
from spnpolicy.parts.temperature import LOWEST

TOLERANCE = 1e-4
"""Gain of a sweep, in nats, below which the ascent is over; values are single precision."""
START_SEED = 0
"""Of the random starts: the same in every solution, so that play from the same values is the same."""
GREEDY = 0.03
"""Temperature of greedy play with coordinate ascent, as a share of how far an agent's own values spread. The team's
reward is a mean: a hundred agents that learned as thirty have less to decide about each, and at the temperature of
learning they could not."""
FORBIDDEN = -1e9
"""What a forbidden action is worth, in units of the temperature: its probability is 0, and arithmetic stays finite."""


@dataclass(frozen=True)
class Config(JointSettings):
    """Settings of the mean-field actor-critic; those shared with spn_ac mean the same."""

    solver: Literal["gradient", "coordinate_ascent"] = "gradient"
    """Where the policy comes from: a network that follows the gradient, or the critic's tables in every state anew."""
    sweeps: Repeats = 10
    """Most times that coordinate ascent improves every agent."""
    starts: Annotated[int, Range(1, 1024)] = 4
    """Starts of coordinate ascent, the first one uniform and the others random; the best end is taken."""


@saves("learner")
class MeanField:
    """pi(u|s) = product of pi_i(u_i|s), set on the exact ELBO of the same factor-graph critic as spn_ac.

    It is spn_ac on the circuit without sums over joint behaviour: what is lost against spn_ac is what a joint policy
    is worth. With coordinate ascent there is no policy to be learned: in every state, agents in turn take
    pi_i(x) ~ exp(E[Q(s, x, others)] / alpha), and no step lowers the ELBO.

    Source: algorithms' comparison policy in Vora, Centralised MARL by leveraging tractable inference; coordinate ascent
    is in Jordan et al. 1999.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams) -> None:
        self.config = config
        shared = {part.name: getattr(config, part.name) for part in fields(JointSettings)}
        options = spn_ac.Config(**shared, structure="mean_field")
        solver = self._solve if config.solver == "coordinate_ascent" else None
        self.learner = spn_ac.SPNActorCritic(options, spec, streams, solver)
        self.needs = self.learner.needs

    def retarget(self, spec: EnvSpec) -> None:
        """Play and learn from now on in another task of the same kind, as spn_ac does."""
        self.learner.retarget(spec)

    def policy_at(self, step: Step) -> CircuitDistribution:
        """Return the policy of every environment, with forbidden actions ruled out."""
        return self.learner.policy_at(step)

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Sample joint actions, or take every agent's most probable one; with coordinate ascent, near temperature 0."""
        if explore or self.config.solver == "gradient":
            return self.learner.act(step, explore=explore, progress=progress)
        return self.learner.uncompiled_at(step, sharpness=math.inf).mode.cpu().numpy()

    def draw(self, step: Step, *, generator: torch.Generator, sharpness: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Draw joint actions without exploring, as spn_ac does."""
        return self.learner.draw(step, generator=generator, sharpness=sharpness)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the critic, one of the policy if it has a network, and one of the temperature."""
        return self.learner.update(batch, progress=progress)

    def _solve(
        self, q: ActionValues, available: Bool[Tensor, "*batch agents actions"], temperature: float
    ) -> CircuitDistribution:
        return coordinate_ascent(q, available, temperature, sweeps=self.config.sweeps, starts=self.config.starts)


def coordinate_ascent(
    q: ActionValues, available: Bool[Tensor, "*batch agents actions"], temperature: float, *, sweeps: int, starts: int
) -> CircuitDistribution:
    """Return independent policies of which no agent alone can raise E[Q] + temperature * H; a local optimum.

    Args:
        q: action values with a factor for every single agent.
        available: which actions may be chosen, at least one per agent.
        temperature: weight of the entropy; 0 means `GREEDY`.
        sweeps: most times that every agent is improved.
        starts: the first one is uniform over the available actions, the others are random and always the same.
    """
    batch = q.batch_shape
    exists = available.expand(*batch, -1, -1)
    temperature = temperature or max(GREEDY * _own_spread(q, exists), LOWEST)
    if isinstance(q, Congestion):
        return _of(q.independent(temperature, exists, sweeps=sweeps), q.graph, batch)
    tables = [
        table.where(exists[..., scope[0], : table.shape[-1]], FORBIDDEN * temperature) if len(scope) == 1 else table
        for scope, table in q
    ]
    found = approximate.mean_field(
        Factors(q.graph, tables), temperature, restarts=starts, start=exists.to(q.dtype), steps=sweeps,
        tolerance=TOLERANCE, generator=torch.Generator(q.device).manual_seed(START_SEED),
    )  # fmt: skip
    return _of(found.marginals * exists, q.graph, batch)


def _own_spread(q: ActionValues, available: Bool[Tensor, "*batch agents actions"]) -> float:
    """Return how far an agent's own values lie apart: their standard deviation, the mean over agents and rows."""
    if isinstance(q, Congestion):
        return q.spread(available)  # without a view of every table: of many agents, these take longer than all the rest
    own = [table.where(available[..., scope[0], : table.shape[-1]], 0.0) for scope, table in q if len(scope) == 1]
    return sum(float(table.std(-1, correction=0).mean()) for table in own) / len(own)


def _of(
    probabilities: Float[Tensor, "*batch agents actions"], graph: FactorGraph, batch: torch.Size
) -> CircuitDistribution:
    """Return independent policies as a circuit."""
    circuit = _circuit(graph.cardinalities)
    uniform = torch.zeros(*batch, circuit.num_parameters, dtype=probabilities.dtype, device=probabilities.device)
    return CircuitDistribution(circuit, uniform).condition(probabilities.log())


@lru_cache(maxsize=8)
def _circuit(cardinalities: tuple[int, ...]) -> Circuit:
    """Return the circuit of independent agents: a thousand of them take longer to compile than to act."""
    return structures.mean_field(cardinalities)
