"""Counterfactuals: what an action is worth beside the agent's average, or beside the best that others could do."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from circuits import numerics
from factor_q import Factors
from factor_q.queries.condition import add_log_weights
from spnpolicy.maths.categorical import expected
from spnpolicy.maths.losses import chosen_value
from spnpolicy.maths.masks import usable


def counterfactual_advantage(
    value_t: Float[Tensor, "*batch agents actions"],
    log_prob_t: Float[Tensor, "*batch agents actions"],
    action_t: Int[Tensor, "*batch agents"],
) -> Float[Tensor, "*batch agents"]:
    """Return Q_i(u_i) - sum_a pi_i(a) Q_i(a): the action taken, compared with the agent's own average.

    Averaged over the agent's policy it is 0, so it leaves the expected gradient of independent agents as it is.

    Args:
        value_t: value of every action of each agent, the others' actions as they were taken.
        log_prob_t: log probabilities of the policy that acted; -inf for impossible actions.
        action_t: what was done.

    Source: Foerster et al. 2018.
    """
    return chosen_value(value_t, action_t) - expected(log_prob_t, value_t)


def with_floor(log_prob: Float[Tensor, "*batch actions"], epsilon: float) -> Float[Tensor, "*batch actions"]:
    """Return the log probabilities of (1 - epsilon) * policy + epsilon * uniform over the policy's possible actions."""
    if epsilon <= 0.0:
        return log_prob
    possible = log_prob > numerics.NEGATIVE_INFINITY
    mixed = (1.0 - epsilon) * log_prob.exp() + epsilon / possible.sum(-1, keepdim=True)
    # The log of an impossible action's floor would be finite, and its gradient not zero.
    return mixed.where(possible, 1.0).log().masked_fill(~possible, numerics.NEGATIVE_INFINITY)


def others_actions(actions: Int[Tensor, "*batch agents"], most_actions: int) -> Float[Tensor, "*batch agents entries"]:
    """Return for each agent the one-hot actions of all agents end to end, its own left out as zeros."""
    agents = actions.shape[-1]
    others = ~torch.eye(agents, dtype=torch.bool, device=actions.device)
    return (functional.one_hot(actions, most_actions).unsqueeze(-3) * others.unsqueeze(-1)).flatten(-2).float()


def optimistic_values(
    q: Factors, available: Bool[Tensor, "*batch agents actions"]
) -> Float[Tensor, "*batch agents actions"]:
    """Return max over u_-i of Q_i(x, u_-i) for every agent i and each of its actions x; exact.

    A table over all agents is enumerated, factors are maximised by elimination.

    Args:
        q: a joint action value of each agent, batch shape (*batch, agents).
        available: what the others may do; an agent with no available action may do anything. The agent's own actions
            are not ruled out, only those that do not exist are -inf.

    Raises:
        NotTractableError: elimination would need too large tables.
    Cost: O(agents * entries) for a table; O(agents^2 * k^(width + 1)) for factors.
    Source: Christianos et al. 2022; elimination: Guestrin, Lagoudakis and Parr 2002.
    """
    weights = torch.zeros_like(available, dtype=q.dtype).masked_fill(
        ~usable(available, q.cardinalities), numerics.NEGATIVE_INFINITY
    )
    agents, most = available.shape[-2:]
    if len(q.scopes) == 1 and q.scopes[0] == tuple(range(agents)):
        return _enumerated(q.tables[0], weights)
    own = torch.eye(agents, dtype=torch.bool, device=weights.device).unsqueeze(-1)
    weights = weights.unsqueeze(-3).masked_fill(own, 0.0)
    best = add_log_weights(q, weights).max_marginals()
    return best.diagonal(dim1=-3, dim2=-2).movedim(-1, -2)[..., :most]


def _enumerated(table: Tensor, weights: Float[Tensor, "*batch agents actions"]) -> Tensor:
    """Maximise a table (*batch, agents, k_0, k_1, ...) over all axes but the agent's own."""
    cardinalities = table.shape[weights.dim() - 1 :]
    agents = len(cardinalities)
    best = weights.new_full(weights.shape, numerics.NEGATIVE_INFINITY)
    for i in range(agents):
        joint = table.select(-agents - 1, i)
        for j in reversed(range(agents)):
            if j == i:
                continue
            # All axes behind j are gone, except the agent's own.
            behind = (1,) * (i > j)
            weight = weights[..., j, : cardinalities[j]]
            joint = joint + weight.reshape(*weight.shape[:-1], *(1,) * j, cardinalities[j], *behind)
            joint = joint.amax(-1 - len(behind))
        best[..., i, : cardinalities[i]] = joint
    return best
