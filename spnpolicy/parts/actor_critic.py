"""Actors of independent agents: log probabilities and the loss of a policy gradient."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from spnpolicy.data.protocol import Batch
from spnpolicy.maths import categorical
from spnpolicy.maths.losses import chosen_value, mean_of_valid, policy_gradient_loss
from spnpolicy.networks.agents import AgentNetwork


def action_log_probs(actor: AgentNetwork, batch: Batch) -> Float[Tensor, "*batch agents actions"]:
    """Return log probabilities of all actions at the observations of a batch, -inf for those not available."""
    return categorical.masked_log_probs(actor.now(batch), batch.available_actions)


def actor_loss(
    log_probs: Float[Tensor, "*batch agents actions"],
    action_t: Int[Tensor, "*batch agents"],
    advantage_t: Float[Tensor, "*batch agents"],
    entropy_weight: float,
    valid: Bool[Tensor, "..."] | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return -mean(A log pi(u) + entropy_weight H(pi)), to be minimised, and the mean entropy in nats.

    Args:
        log_probs: of every agent's actions.
        action_t: actions taken.
        advantage_t: how much better they were than expected; no gradient flows into it.
        entropy_weight: worth of a nat, in units of the advantage.
        valid: which rows count; None for all.
    """
    entropy = mean_of_valid(categorical.entropy(log_probs), valid)
    loss = policy_gradient_loss(chosen_value(log_probs, action_t), advantage_t, valid)
    return loss - entropy_weight * entropy, entropy.detach()
