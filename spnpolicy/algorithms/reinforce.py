"""REINFORCE: every agent makes actions likelier by the return that followed them; nothing else is learned."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spnpolicy.base.distributed import any_of
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Count
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.returns import lambda_target
from spnpolicy.networks.agents import agent_network
from spnpolicy.parts.actor_critic import action_log_probs, actor_loss
from spnpolicy.parts.exploration import act_by_policy
from spnpolicy.parts.learner import improve, make_optimizer, saves
from spnpolicy.parts.settings import AdamSettings, AgentSettings, RolloutSettings, data_needs, step_size
from spnpolicy.parts.targets import normalized, window_of


@dataclass(frozen=True)
class Config(AgentSettings, RolloutSettings):
    """Settings of REINFORCE."""

    actor: AdamSettings = field(default_factory=step_size(3e-4))
    """How policies descend."""
    rollout: Count = 200
    """Steps of every environment in one update. Steps of an episode that goes on after them are left out, so this
    should be several times the length of an episode, or a multiple of it where all have the same length. With 50,
    nothing was learned from coverage's episodes of 200 but from those that ended early."""
    truncation: Literal["end", "exclude"] = "end"
    """What a time limit is: "end" counts the rewards up to it, as if nothing came after; "exclude" does not learn from
    episodes that it cut off, which leaves nothing where every episode ends so."""
    mean_baseline: bool = True
    """Compare each return with the agent's mean in the rollout: less variance, for a bias that vanishes with more
    episodes in a rollout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize_advantage and not self.mean_baseline:
            raise ConfigError(
                "mean_baseline is False, but normalize_advantage is True and takes the mean away as well: set it to "
                "false too."
            )


@saves("actor", "actor_optimizer", "num_updates")
class Reinforce:
    """Monte Carlo policy gradient of independent agents: the loss is -mean(G log pi_i(u_i | o_i) + weight H(pi_i)).

    G is the agent's own discounted reward from the step to the end of its episode, with nothing estimated in it, which
    is why only steps whose episode ends within the rollout can be used. Long episodes are left out more often than
    short ones; a longer rollout makes the difference small. There is no factor discount^t: late steps count in full.

    Where no step can be used, nothing is learned, and "complete" says 0.

    Source: Williams 1992.
    """

    act = act_by_policy

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("reinforce"):
            self.actor = agent_network(spec, config)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        self.num_updates = 0
        self.needs = data_needs(config, self.actor.memory_size)
        self._generator = streams.torch("exploration")

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on the steps of a rollout whose episodes ended in it."""
        time_limit_ends = self.config.truncation == "end"
        return_t, complete = episode_returns(batch, self.config.discount, time_limit_ends=time_limit_ends)
        share = float(complete.float().mean())
        # Together with the other processes of a run, because the gradients are averaged over all of them.
        if not any_of(share > 0.0):
            return dict.fromkeys(("actor_loss", "actor_gradient_norm", "return", "entropy"), 0.0) | {"complete": share}
        mean_return = return_t.sum((0, 1)) / complete.sum().clamp_min(1)
        compared = return_t - mean_return if self.config.mean_baseline else return_t
        compared = normalized(self.config, compared, complete)
        log_probs = action_log_probs(self.actor, batch)
        loss, entropy = actor_loss(log_probs, batch.actions, compared, self.config.entropy.at(progress), complete)
        numbers = improve(self, actor=loss)
        return numbers | {"return": mean_return.mean().item(), "entropy": entropy.item(), "complete": share}


def episode_returns(
    batch: Batch, discount: float, *, time_limit_ends: bool
) -> tuple[Float[Tensor, "time batch agents"], Bool[Tensor, "time batch"]]:
    """Return every agent's discounted reward from each step to the end of its episode, and where that end was seen.

    Returns:
        The returns, 0 where they are not known; and whether they are known: the episode went on to its end within the
        window, no environment failed on the way, and the end was no time limit, unless `time_limit_ends`.

    Raises:
        ValueError: the batch holds single transitions.
    """
    window = window_of(batch)
    assert window.ended is not None, "a window has all fields"
    assert window.valid is not None, "a window has all fields"
    is_end = window.ended & window.valid & (window.terminated | time_limit_ends)
    complete, seen = torch.empty_like(is_end), torch.zeros_like(is_end[0])
    for t in reversed(range(len(is_end))):
        seen = torch.where(window.ended[t], is_end[t], seen)
        complete[t] = seen
    ended, known = (flag.unsqueeze(-1).expand_as(batch.reward) for flag in (window.ended, complete))
    return_t = lambda_target(batch.reward, discount, ended, ended, torch.zeros_like(batch.reward))
    return return_t.where(known, 0.0), complete
