"""Values as free energies of a restricted Boltzmann machine, from which joint actions are drawn by Gibbs sampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from spnpolicy.base.decoding import require
from spnpolicy.base.ranges import Count, Repeats
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Window, seen
from spnpolicy.maths.losses import mean_of_valid, squared_td_loss
from spnpolicy.maths.masks import existing_actions, require_some_action
from spnpolicy.networks.encoders import Kind, Network
from spnpolicy.parts.joint_actions import joint_mask, split_index
from spnpolicy.parts.learner import improve, make_optimizer, saves
from spnpolicy.parts.minibatches import regress
from spnpolicy.parts.settings import AdamSettings, DataSettings, LinearSchedule, data_needs, step_size
from spnpolicy.parts.targets import value_target

Units = Float[Tensor, "batch units"]
Actions = Int[Tensor, "batch agents"]
Masks = Bool[Tensor, "batch agents actions"]

FIRST_WEIGHT = 0.01
"""Standard deviation of the first weights: hidden units begin almost alike, and only almost."""
MOST_LISTED = 4096
"""Up to so many joint actions, greedy play tries all of them; about where the search begins to be cheaper."""
GREEDY_SEED = 0
"""Seed of the search of greedy play, the same in every call."""
COLDEST = 1e-3
"""The search of greedy play ends at this share of the lowest temperature, where it only climbs."""


@dataclass(frozen=True)
class Config(DataSettings):
    """Settings of learning with free energies."""

    critic: AdamSettings = field(default_factory=step_size(2e-3))
    """How action values descend. Q is almost linear in the weights: all of them together may move it by many times the
    step size."""
    network: Network = field(default_factory=lambda: Network(hidden=(32,)))
    """Features of the state, and the hidden units in the one layer that a Boltzmann machine has."""
    rollout: Count | None = 5
    """Learn from the newest so many steps of every environment, each used in one update only; none: from replay, with
    next actions drawn from the policy of today."""
    sweeps: Repeats = 100
    """Times that every agent's action is drawn anew before a joint action is used."""
    sampler: Literal["gibbs", "tempered_block"] = "gibbs"
    """"gibbs" draws from exp(Q / T); "tempered_block" is faster and draws from another policy unless T is 1."""
    temperature: LinearSchedule = field(default_factory=lambda: LinearSchedule(10.0, 0.1))
    """T of the exploring policy exp(Q / T), in units of reward."""

    network_kinds: ClassVar[tuple[Kind, ...]] = ("mlp",)

    def __post_init__(self) -> None:
        super().__post_init__()
        hidden = self.network.hidden
        require(len(hidden) == 1, "network.hidden", hidden, "one number of hidden units")
        for end in ("start", "end"):
            temperature = getattr(self.temperature, end)
            require(temperature > 0.0, f"temperature.{end}", temperature, "above 0")


class FreeEnergy(nn.Module):
    """Q(s, a) = -F(s, a) of a Boltzmann machine with binary hidden units and one group of softmax units per agent.

    Q = b_s . s + sum_i b_i[a_i] + sum_k log(1 + exp(x_k)) with x = c + W s + sum_i U_i[a_i]. Inputs s may be any real
    numbers. The derivative by an entry of U_i[a_i], W or c is the mean of a hidden unit, sigmoid(x_k), times its input.

    Args:
        cardinalities: number of actions of each agent.
        inputs: number of state features.
        units: number of hidden units.
    """

    def __init__(self, cardinalities: Sequence[int], inputs: int, units: int):
        super().__init__()
        agents, actions = len(cardinalities), max(cardinalities)
        self.hidden_bias = nn.Parameter(torch.zeros(units))
        self.state_weight = nn.Parameter(FIRST_WEIGHT * torch.randn(inputs, units))
        self.state_bias = nn.Parameter(torch.zeros(inputs))
        self.action_weight = nn.Parameter(FIRST_WEIGHT * torch.randn(agents, actions, units))
        # Every idle hidden unit adds log 2: taken off here, so that Q starts near 0 and nothing large is bootstrapped.
        self.action_bias = nn.Parameter(torch.full((agents, actions), -units * math.log(2.0) / agents))

    def forward(
        self, state: Float[Tensor, "*#batch inputs"], actions: Int[Tensor, "*#batch agents"]
    ) -> Float[Tensor, "*#batch"]:
        """Return Q of joint actions; shapes broadcast."""
        hidden = softplus(self.state_inputs(state) + self.action_inputs(actions)).sum(-1)
        agents = torch.arange(actions.shape[-1], device=actions.device)
        return hidden + state @ self.state_bias + self.action_bias[agents, actions].sum(-1)

    def state_inputs(self, state: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
        """Return what the state gives to the hidden units, and their own bias."""
        return state @ self.state_weight + self.hidden_bias

    def action_inputs(self, actions: Int[Tensor, "*batch agents"]) -> Float[Tensor, "*batch units"]:
        """Return what a joint action gives to the hidden units."""
        agents = torch.arange(actions.shape[-1], device=actions.device)
        return self.action_weight[agents, actions].sum(-2)


@saves("critic", "critic_optimizer", "num_updates")
class RBM:
    """SARSA with free energies as joint action values, and a Boltzmann policy exp(Q / T) drawn by Gibbs sampling.

    The target is y = r + discount * Q(s', a') with the mean reward of the agents and the a' that the policy chose. The
    policy is constant within a rollout, so the action of the next row is that choice; where the next row is missing or
    belongs to another episode, a' is drawn for the target alone. The gradient of (y - Q)^2 is that of the source; Adam
    scales it. Greedy play takes the best of all joint actions if they are few, else the best one met by an annealed
    search that draws the same numbers in every call.

    Source: Sallans and Hinton 2000; single-site sampling is ours, because the block sampler is exact at T = 1 only.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        self.needs = data_needs(config)
        self._cardinalities = spec.cardinalities
        with streams.initialization("rbm"):
            inputs = config.network.features.size(spec.state_size)
            self.critic = FreeEnergy(spec.cardinalities, inputs, config.network.hidden[0])
        self._features = config.network.features
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self._generator, self.order_generator = streams.torch("exploration"), streams.torch("minibatches")

    @torch.no_grad()
    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Draw joint actions from the Boltzmann policy, or look for the best ones."""
        require_some_action(step.available_actions)
        state = self._features(seen(step, "state", self.critic.hidden_bias.device))
        available = torch.tensor(step.available_actions, device=state.device)
        if explore:
            return self._draw(state, available, progress).cpu().numpy()
        if math.prod(self._cardinalities) <= MOST_LISTED:
            return best_of_all(self.critic, state, available, self._cardinalities).cpu().numpy()
        warmest, coldest = self.config.temperature.start, COLDEST * self.config.temperature.end
        temperatures = np.geomspace(warmest, coldest, self.config.sweeps).tolist()
        return best_met(self.critic, state, self._allowed(available), temperatures).cpu().numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Draw the actions a' that are missing, then do one gradient step or several on the mean of (y - Q)^2."""
        numbers = regress(self, batch, self._targets(batch, progress), self._step)
        return numbers | {"temperature": self.config.temperature.at(progress)}

    def _step(self, rows: Batch, target_t: Tensor) -> dict[str, float]:
        value_t = self.critic(self._features(rows.state), rows.actions)
        numbers = improve(self, critic=squared_td_loss(value_t, target_t, rows.valid))
        return numbers | {"value": mean_of_valid(value_t.detach(), rows.valid).item()}

    @torch.no_grad()
    def _targets(self, batch: Batch, progress: float) -> Float[Tensor, "*batch"]:
        state_tp1 = self._features(batch.next_state)
        actions_tp1 = batch.actions.roll(-1, 0)
        is_missing = ~batch.terminated
        if isinstance(batch, Window):
            is_missing &= batch.cut
        if is_missing.any():
            available = batch.next_available_actions[is_missing]
            actions_tp1[is_missing] = self._draw(state_tp1[is_missing], available, progress)
        return value_target(self.config, batch, self.critic(state_tp1, actions_tp1))

    def _draw(self, state: Tensor, available: Tensor, progress: float) -> Actions:
        sweep, allowed = SAMPLERS[self.config.sampler], self._allowed(available)
        inputs = self.critic.state_inputs(state)
        actions = uniform_actions(allowed, self._generator)
        for _ in range(self.config.sweeps):
            actions = sweep(
                self.critic, inputs, actions, allowed, self.config.temperature.at(progress), self._generator
            )
        return actions

    def _allowed(self, available: Masks) -> Masks:
        return available & existing_actions(self._cardinalities).to(available.device)


def gibbs_sweep(
    network: FreeEnergy,
    inputs: Units,
    actions: Actions,
    allowed: Masks,
    temperature: float,
    generator: torch.Generator,
) -> Actions:
    """Draw each agent's action in turn given the others': one step of a chain that goes to exp(Q / T), for every T.

    Args:
        network: gives Q.
        inputs: what the states give to the hidden units (`FreeEnergy.state_inputs`).
        actions: where the chains are.
        allowed: which actions exist and are available, at least one per agent.
        temperature: T, above 0.
        generator: source of the randomness, on the CPU.

    Cost: O(batch * units * sum_i k_i).
    """
    # Drawn for the whole sweep at once, because the time goes into calls on small tensors, several per agent.
    preference = temperature * _gumbel(allowed, generator, inputs) + network.action_bias
    preference = preference.masked_fill(~allowed, -math.inf)
    total = inputs + network.action_inputs(actions)
    drawn: list[Tensor] = []
    for agent, weight in enumerate(network.action_weight):
        others = total - weight[actions[:, agent]]
        value = softplus(others.unsqueeze(1) + weight).sum(-1)
        drawn.append((value + preference[:, agent]).argmax(-1))
        total = others + weight[drawn[-1]]
    return torch.stack(drawn, -1)


def tempered_block_sweep(
    network: FreeEnergy,
    inputs: Units,
    actions: Actions,
    allowed: Masks,
    temperature: float,
    generator: torch.Generator,
) -> Actions:
    """Draw all hidden units given the actions, then all actions given these, with the joint energy divided by T.

    At T = 1 the chain goes to exp(Q). At any other T it goes to sum_h exp(-E(s, a, h) / T), which is not exp(Q / T):
    the hidden units' entropy, a part of Q, is not divided. Arguments as for `gibbs_sweep`.
    """
    total = inputs + network.action_inputs(actions)
    uniform = torch.rand(total.shape, generator=generator, dtype=total.dtype).to(total.device)
    hidden = (uniform < (total / temperature).sigmoid()).to(total.dtype)
    logits = torch.einsum("bk,iak->bia", hidden, network.action_weight) + network.action_bias
    noise = temperature * _gumbel(allowed, generator, total)
    return (logits + noise).masked_fill(~allowed, -math.inf).argmax(-1)


SAMPLERS = {"gibbs": gibbs_sweep, "tempered_block": tempered_block_sweep}
"""One sweep of each sampler, by the names of the setting."""


def uniform_actions(allowed: Masks, generator: torch.Generator) -> Actions:
    """Draw every agent's action uniformly from those it may take."""
    scores = torch.rand(allowed.shape, generator=generator).to(allowed.device)
    return scores.masked_fill(~allowed, -1.0).argmax(-1)


def best_of_all(
    network: FreeEnergy, state: Float[Tensor, "batch inputs"], available: Masks, cardinalities: Sequence[int]
) -> Actions:
    """Return the best available joint action of every state, by trying all."""
    every = torch.arange(math.prod(cardinalities), device=state.device)
    value = network(state.unsqueeze(1), split_index(every, cardinalities))
    best = value.masked_fill(~joint_mask(available, cardinalities), -math.inf).argmax(-1)
    return split_index(best, cardinalities)


def best_met(
    network: FreeEnergy, state: Float[Tensor, "batch inputs"], allowed: Masks, temperatures: Sequence[float]
) -> Actions:
    """Return the best joint action that one Gibbs chain per state meets, with one sweep at each temperature."""
    generator = torch.Generator().manual_seed(GREEDY_SEED)
    inputs, actions = network.state_inputs(state), uniform_actions(allowed, generator)
    best, best_value = actions, network(state, actions)
    for temperature in temperatures:
        actions = gibbs_sweep(network, inputs, actions, allowed, temperature, generator)
        value = network(state, actions)
        is_better = value > best_value
        best = actions.where(is_better.unsqueeze(-1), best)
        best_value = value.where(is_better, best_value)
    return best


def _gumbel(allowed: Tensor, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return noise for every action: the largest of log weights plus it is a draw in proportion to the weights."""
    exponential = torch.empty(allowed.shape, dtype=like.dtype).exponential_(generator=generator)
    return -exponential.log().to(like.device)
