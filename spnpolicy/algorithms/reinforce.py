"""REINFORCE: every agent makes actions likelier by the return that followed them; nothing else is learned."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spnpolicy.base.distributed import any_of
from spnpolicy.base.seeding import Streams
from spnpolicy.data import protocol
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.maths.returns import lambda_target
from spnpolicy.networks.agents import agent_network
from spnpolicy.parts import actor_critic, exploration
from spnpolicy.parts.optimization import descend, make_optimizer
from spnpolicy.parts.saving import saves
from spnpolicy.parts.settings import LinearSchedule, PolicySettings

_RATE = 0.001


@dataclass(frozen=True)
class Config(PolicySettings):
    """Settings of REINFORCE."""

    learning_rate: float = 3e-4
    """Step size of Adam."""
    rollout: int = 50
    """Steps of every environment in one update. Steps of an episode that goes on after them are left out, so this
    should be several times the length of an episode, or a multiple of it where all have the same length."""
    entropy: LinearSchedule = field(default_factory=lambda: LinearSchedule(start=_RATE, end=_RATE))
    """Weight of the policies' entropy, in units of reward per nat."""
    truncation: Literal["end", "exclude"] = "end"
    """What a time limit is: "end" counts the rewards up to it, as if nothing came after; "exclude" does not learn from
    episodes that it cut off, which leaves nothing where every episode ends so."""
    mean_baseline: bool = True
    """Compare each return with the agent's mean in the rollout: less variance, for a bias that vanishes with more
    episodes in a rollout."""


@saves("policy", "optimizer", "num_updates")
class Reinforce:
    """Monte Carlo policy gradient of independent agents: the loss is -mean(G log pi_i(u_i | o_i) + weight H(pi_i)).

    G is the agent's own discounted reward from the step to the end of its episode, with nothing estimated in it, which
    is why only steps whose episode ends within the rollout can be used. Long episodes are left out more often than
    short ones; a longer rollout makes the difference small. There is no factor discount^t: late steps count in full.

    Where no step can be used, nothing is learned, and "complete" says 0.

    Source: Williams 1992.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("reinforce"):
            self.policy = agent_network(spec, config)
        self.optimizer = make_optimizer(self.policy.parameters(), config.learning_rate)
        self.num_updates = 0
        self.needs = actor_critic.rollout_needs(config, self.policy)
        self._draws = streams.torch("exploration")

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: protocol.Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Draw from the policies, or take their most probable actions."""
        return exploration.act_by_policy(self.policy, step, generator=self._draws if explore else None, memory=memory)

    def update(self, batch: protocol.Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on the steps of a rollout whose episodes ended in it."""
        time_limit_ends = self.config.truncation == "end"
        return_t, complete = episode_returns(batch, self.config.discount, time_limit_ends=time_limit_ends)
        share = float(complete.float().mean())
        # Together with the other processes of a run, because the gradients are averaged over all of them.
        if not any_of(share > 0.0):
            return dict.fromkeys(("loss", "return", "entropy", "gradient_norm"), 0.0) | {"complete": share}
        mean_return = return_t.sum((0, 1)) / complete.sum().clamp_min(1)
        compared = return_t - mean_return if self.config.mean_baseline else return_t
        log_probs = actor_critic.action_log_probs(self.policy, batch)
        weight = self.config.entropy.at(progress)
        loss, entropy = actor_critic.actor_loss(log_probs, batch.actions, compared, weight, complete)
        gradient_norm = descend((loss, self.optimizer), max_gradient_norm=self.config.max_gradient_norm)[0]
        self.num_updates += int(gradient_norm < float("inf"))
        numbers = {"loss": loss, "return": mean_return.mean(), "entropy": entropy}
        named = {name: float(number.detach()) for name, number in numbers.items()}
        return named | {"gradient_norm": gradient_norm, "complete": share}


def episode_returns(
    batch: protocol.Batch, discount: float, *, time_limit_ends: bool
) -> tuple[Float[Tensor, "time batch agents"], Bool[Tensor, "time batch"]]:
    """Return every agent's discounted reward from each step to the end of its episode, and where that end was seen.

    Returns:
        The returns, 0 where they are not known; and whether they are known: the episode went on to its end within the
        window, no environment failed on the way, and the end was no time limit, unless `time_limit_ends`.

    Raises:
        ValueError: the batch holds single transitions.
    """
    if batch.ended is None or batch.valid is None:
        raise ValueError("returns are those of windows of steps, not of single transitions.")
    is_end = batch.ended & batch.valid & (batch.terminated | time_limit_ends)
    complete, seen = torch.empty_like(is_end), torch.zeros_like(is_end[0])
    for t in reversed(range(len(is_end))):
        seen = torch.where(batch.ended[t], is_end[t], seen)
        complete[t] = seen
    ended, known = (flag.unsqueeze(-1).expand_as(batch.reward) for flag in (batch.ended, complete))
    return_t = lambda_target(batch.reward, discount, ended, ended, torch.zeros_like(batch.reward))
    return return_t.where(known, 0.0), complete
