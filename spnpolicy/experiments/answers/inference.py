"""Questions to a joint policy in one state, answered exactly from its circuit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from circuits import CircuitDistribution
from spnpolicy.data.env import Step
from spnpolicy.training.runs import LoadedRun, all_policies

EvidenceByAgent = Mapping[int, list[int]]
"""For some agents, the actions that they may do."""


@dataclass(frozen=True)
class Answer:
    """What evidence about some agents says about all of them."""

    probability: float
    """P(evidence) under the policy; 1 without evidence."""
    before: Float[np.ndarray, "agents actions"]
    """Marginals of the policy."""
    after: Float[np.ndarray, "agents actions"]
    """Marginals given the evidence."""
    mode: tuple[int, ...]
    """Most probable joint action given the evidence."""
    mode_probability: float
    """Its probability given the evidence."""


class Surprise(NamedTuple):
    """How unexpected one joint action is, in nats."""

    log_likelihood: float
    """log pi(u)."""
    by_agent: tuple[float, ...]
    """-log pi(u_i | what all others do), for every agent."""

    @property
    def total(self) -> float:
        """-log pi(u); the policy's entropy is its mean."""
        return -self.log_likelihood


def joint_policy(run: LoadedRun, step: Step, env: int = 0) -> CircuitDistribution:
    """Return the joint policy of a run in one state, in float64 and without a batch.

    The state is that of one environment of a step; see `all_policies`.
    """
    policies = all_policies(run, step)
    return CircuitDistribution(policies.circuit, policies.logits[env].double(), validate_args=False)


def ask(policy: CircuitDistribution, evidence: EvidenceByAgent) -> Answer:
    """Condition a joint policy on evidence.

    Raises:
        ImpossibleEvidenceError: the policy rules the evidence out.
        EvidenceError: an agent or action does not exist.
    """
    with torch.no_grad():
        given = policy.condition(dict(evidence))
        mode, log_probability = given.map()
        return Answer(
            probability=policy.log_evidence(dict(evidence)).exp().item(),
            before=policy.marginals().numpy(),
            after=given.marginals().numpy(),
            mode=tuple(mode.tolist()),
            mode_probability=log_probability.exp().item(),
        )


def surprise(policy: CircuitDistribution, actions: Sequence[int]) -> Surprise:
    """Return how unexpected a joint action is, in total and for each agent given the others."""
    with torch.no_grad():
        log_likelihood = policy.log_prob(torch.tensor(list(actions))).item()
        by_agent: list[float] = []
        for agent in range(len(actions)):
            others = {other: [action] for other, action in enumerate(actions) if other != agent}
            by_agent.append(policy.log_evidence(others).item() - log_likelihood)
    return Surprise(log_likelihood, tuple(by_agent))


def spread_of_surprise(policy: CircuitDistribution, *, generator: torch.Generator, draws: int = 4_096) -> float:
    """Return the standard deviation of -log pi(u) for u ~ pi, estimated from samples."""
    with torch.no_grad():
        return policy.log_prob(policy.sample((draws,), generator=generator)).std().item()


def change_by_evidence(
    policies: CircuitDistribution, agent: int, action: int
) -> tuple[Float[np.ndarray, " envs"], Float[np.ndarray, " envs"]]:
    """Return for every state how probable an action is and how much knowing it changes what the others do.

    The change is the total variation distance between an agent's marginals before and after, summed over the others.
    """
    with torch.no_grad():
        probability = policies.log_evidence({agent: [action]}).exp()
        # Where it is impossible there is nothing to condition on; a weight of e^-100 asks almost the same.
        width = max(policies.circuit.cardinalities)
        soft = torch.zeros((policies.circuit.num_variables, width))
        soft[agent] = -100.0
        soft[agent, action] = 0.0
        change = (policies.condition(soft).marginals() - policies.marginals()).abs().sum(-1) / 2
        change[:, agent] = 0.0
    return probability.double().numpy(), change.sum(-1).double().numpy()
