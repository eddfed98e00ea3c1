"""Counterfactuals: what an action is worth beside the agent's average, or beside the best that others could do."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from circuits import CircuitDistribution, numerics
from factor_q import Factors
from factor_q.queries.condition import add_log_weights
from spnpolicy.maths.categorical import expected
from spnpolicy.maths.losses import chosen_value
from spnpolicy.maths.masks import existing_actions, usable


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


def multilinear_value(q: Factors, rows: Float[Tensor, "*batch agents actions"]) -> Float[Tensor, "*batch"]:
    """Return the multilinear extension of q: the sum of its tables, each axis averaged with its agent's row.

    One-hot rows give q itself; probabilities give its mean over independent actions.

    Args:
        q: batch shape broadcasts with that of the rows.
        rows: weights of every agent's actions; those beyond an agent's own are not read.

    Cost: one pass over the entries of all tables.
    """
    total = q.flat.new_zeros(torch.broadcast_shapes(q.batch_shape, rows.shape[:-2]))
    for scope, table in q:
        for place, agent in reversed(list(enumerate(scope))):
            row = rows[..., agent, : q.cardinalities[agent]]
            table = numerics.weighted(row.reshape(*row.shape[:-1], *(1,) * place, -1), table).sum(-1)
        total = total + table
    return total


def multilinear_baseline(
    q: Factors, prob: Float[Tensor, "*batch agents actions"], actions: Int[Tensor, "*batch agents"]
) -> Float[Tensor, "*batch agents"]:
    """Return sum_x p_i(x) Q(x, u_-i) for every agent: one evaluation each, with its one-hot action replaced by p_i.

    With p_i the agent's policy it is the counterfactual baseline of independent agents. A joint policy's conditionals
    pi(u_i | u_-i) may be given as well, but such a baseline BIASES the gradient of a correlated policy, because the
    actions of later agents depend on u_i; `sequential_advantages` does not.

    Args:
        q: joint action values.
        prob: probabilities of every agent's actions.
        actions: what was done, u.
    """
    agents, most = prob.shape[-2:]
    own = torch.eye(agents, dtype=torch.bool, device=prob.device).unsqueeze(-1)
    taken = functional.one_hot(actions, most).to(prob.dtype)
    rows = torch.where(own, prob.unsqueeze(-3), taken.unsqueeze(-3))
    return multilinear_value(Factors.from_flat(q.graph, q.flat.unsqueeze(-2)), rows)


def sequential_advantages(
    pi: CircuitDistribution, q: Factors, actions: Int[Tensor, "*batch agents"]
) -> Float[Tensor, "*batch agents"]:
    """Return A_i = E[Q | u_1 .. u_i] - E[Q | u_1 .. u_(i-1)] for every agent, exact under a joint policy.

    They sum to Q(u) - E[Q], and sum_i A_i * grad log pi(u_i | u_1 .. u_(i-1)) is an unbiased estimate of grad E[Q] for
    any correlated policy.

    Args:
        pi: a joint policy, possible at the actions; its batch shape broadcasts with that of the actions.
        q: joint action values.
        actions: u.

    Raises:
        ImpossibleEvidenceError: the policy never takes these actions.
    Cost: one conditioning and one expectation per agent.
    """
    allowed = existing_actions(q.cardinalities).to(actions.device).expand(*actions.shape, -1)
    taken = functional.one_hot(actions, allowed.shape[-1]).bool()
    known = torch.arange(actions.shape[-1], device=actions.device).unsqueeze(-1)
    means = [pi.expectation(q).expand(actions.shape[:-1])]
    means += [pi.condition(taken.where(known <= i, allowed)).expectation(q) for i in range(actions.shape[-1] - 1)]
    means.append(q(actions))
    return torch.stack(means, -1).diff(dim=-1)


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
