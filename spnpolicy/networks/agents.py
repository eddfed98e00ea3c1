"""AgentNetwork: numbers for every agent from its observation or its history, with shared or with own weights."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factor_q.choices import ChoiceHead, Choices, Codes
from factor_q.layers import initialize_orthogonal, mlp
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Memory, seen
from spnpolicy.maths.masks import existing_actions
from spnpolicy.networks.encoders import Network, encoder_for


class AgentNetwork(nn.Module):
    """Numbers for every agent, action values or logits for example, in one pass for all agents.

    With shared weights, agents are told apart by a one-hot number appended to their observation. It is never built:
    multiplied by the first layer it selects one column, so each agent has a first-layer offset of its own. Outputs
    start near 0: larger values would be bootstrapped for thousands of steps before a sparse reward is seen behind them.

    Args:
        spec: sizes of the environment.
        network: kind, widths and features; with kind "entities" only an `agent_id` tells agents apart.
        recurrent: False leaves out the memory of kind "recurrent".
        shared: one set of weights for all agents; False gives each agent its own.
        sees_state: the network also sees the state of the environment, beside each agent's observation.
        outputs: numbers per agent; None for one per action, -inf where an agent has no such action.
        output_gain: scale of the last layer's first weights.
    """

    def __init__(
        self,
        spec: EnvSpec,
        network: Network,
        *,
        recurrent: bool = True,
        shared: bool = True,
        sees_state: bool = False,
        outputs: int | None = None,
        output_gain: float = 0.01,
    ):
        super().__init__()
        hidden, recurrent = network.hidden, recurrent and network.kind == "recurrent"
        self.is_recurrent = recurrent
        self._sees_state = sees_state
        self.encoder = encoder_for(network, spec, sees_state=sees_state)
        size = cast(int, self.encoder.out_features)
        agents = None if shared else spec.num_agents
        if shared:
            # Agents that are not told apart have one offset together.
            offsets = spec.num_agents if network.tells_agents_apart else 1
            first = nn.Linear(size + offsets, hidden[0])
            weight = initialize_orthogonal(first, math.sqrt(2)).weight.detach()
            # Own contiguous copies: the optimiser must not meet views of one tensor.
            self.observation_weight = nn.Parameter(torch.empty(hidden[0], size))
            self.agent_offset = nn.Parameter(torch.empty(offsets, hidden[0]))
            self.observation_weight.data.copy_(weight[:, :size])
            self.agent_offset.data.copy_(weight[:, size:].T)
        else:
            self.first = AgentLinear(spec.num_agents, size, hidden[0], math.sqrt(2))
        self._is_shared = shared
        self.memory_size = hidden[0] if recurrent else 0
        if recurrent:
            self.cell = GatedCell(hidden[0], agents)
        # No ReLU behind a cell: what it remembers is bounded already, and its sign means something.
        choices = getattr(self.encoder, "choices", None) if outputs is None and shared else None
        if choices is None:
            self.head: nn.Module = _layers((*hidden, outputs or max(spec.cardinalities)), agents, output_gain)
        else:
            self.head = _BehindLayers(hidden, choices, max(spec.cardinalities) - choices.count, output_gain)
        missing = ~existing_actions(spec.cardinalities)
        self.missing_actions: Tensor | None
        has_missing = outputs is None and bool(missing.any())
        self.register_buffer("missing_actions", missing if has_missing else None, persistent=False)

    def forward(
        self, observation: Float[Tensor, "*batch agents features"], state: Float[Tensor, "*batch state"] | None = None
    ) -> Float[Tensor, "*batch agents outputs"]:
        """Return the outputs of a network without memory, for any batch shape."""
        return self._outputs(self._embed(observation, state))

    def advance(
        self,
        observation: Float[Tensor, "*batch agents features"],
        hidden: Float[Tensor, "*batch agents memory"],
        state: Float[Tensor, "*batch state"] | None = None,
    ) -> tuple[Float[Tensor, "*batch agents outputs"], Float[Tensor, "*batch agents memory"]]:
        """Return the outputs of a recurrent network for one more step, and what it then remembers."""
        hidden = self.cell(self.cell.inputs(self._embed(observation, state).agents), hidden)
        return self._outputs(Codes(hidden)), hidden

    def look(self, step: Step, memory: Memory | None = None) -> Float[Tensor, "envs agents outputs"]:
        """Return the outputs for what the agents see, without gradient and on the CPU; a memory is taken on.

        Raises:
            ValueError: a recurrent network was given no memory.
        """
        device = next(self.parameters()).device
        observation = seen(step, "observation", device)
        state = seen(step, "state", device) if self._sees_state else None
        with torch.inference_mode():
            if not self.is_recurrent:
                return self(observation, state).cpu()
            if memory is None or memory.hidden is None:
                raise ValueError(
                    "a recurrent policy acts through spnpolicy.training.player.Player, which keeps its memory."
                )
            outputs, hidden = self.advance(observation, memory.hidden.to(device), state)
        memory.hidden = hidden.clone()
        return outputs.cpu()

    def now(self, batch: Batch) -> Float[Tensor, "*batch agents outputs"]:
        """Return the outputs at the observations of a batch."""
        if not self.is_recurrent:
            return self(batch.observation, batch.state)
        return self._outputs(Codes(self._unroll(batch)))

    def both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the outputs at the observations of a batch and, without gradient, at the next ones."""
        if not self.is_recurrent:
            outputs = self(batch.observation, batch.state)
            return outputs, self.following(batch) if batch.ended is None else self._shifted(outputs.detach(), batch)
        hidden = self._unroll(batch)
        with torch.no_grad():
            following, _ = self.advance(batch.next_observation, hidden, batch.next_state)
        return self._outputs(Codes(hidden)), following

    @torch.no_grad()
    def following(self, batch: Batch) -> Float[Tensor, "*batch agents outputs"]:
        """Return the outputs at the next observations of a batch, without gradient."""
        if self.is_recurrent:
            return self.both(batch)[1]
        return self(batch.next_observation, batch.next_state)

    @torch.no_grad()
    def _shifted(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the outputs at the next observations of a window, computing only those that are not its next rows."""
        assert batch.ended is not None, "windows say where episodes end"
        is_cut = batch.ended.clone()
        is_cut[-1] = True
        following = outputs.roll(-1, 0)
        following[is_cut] = self(batch.next_observation[is_cut], batch.next_state[is_cut])
        return following

    def _embed(self, observation: Tensor, state: Tensor | None) -> Codes:
        if self._sees_state and state is None:
            raise ValueError("this network sees the state: give it beside the observation.")
        shown = (observation, state) if self._sees_state else (observation,)
        is_choosing = isinstance(self.head, _BehindLayers)
        seen = cast(Any, self.encoder).encode(*shown) if is_choosing else Codes(self.encoder(*shown))
        if self._is_shared:
            agents = nn.functional.linear(seen.agents, self.observation_weight).add_(self.agent_offset).relu_()
        else:
            agents = self.first(seen.agents).relu()
        return seen._replace(agents=agents)

    def _outputs(self, embedded: Codes) -> Tensor:
        values = self.head(embedded if isinstance(self.head, _BehindLayers) else embedded.agents)
        if self.missing_actions is None:
            return values
        return values.masked_fill(self.missing_actions, -math.inf)

    def _unroll(self, batch: Batch) -> Float[Tensor, "time batch agents memory"]:
        """Return what is remembered after each step of a window; the end of an episode wipes it out.

        Rows of no use to any environment, as those that only warm up the memory, pass no gradient on.
        """
        if batch.ended is None or batch.memory is None:
            raise ValueError("a recurrent network learns from windows of steps, not from single transitions.")
        inputs = self.cell.inputs(self._embed(batch.observation, batch.state).agents)
        hidden, history = batch.memory, []
        if not hidden.shape[-1]:  # a network that did not act, such as a critic, begins without a memory
            hidden = hidden.new_zeros(*hidden.shape[:-1], self.memory_size)
        counts = [True] * len(inputs) if batch.valid is None else batch.valid.any(-1).tolist()
        for inputs_t, ended_t, counts_t in zip(inputs, batch.ended, counts, strict=True):
            hidden = self.cell(inputs_t, hidden)
            history.append(hidden)
            hidden = (hidden if counts_t else hidden.detach()).masked_fill(ended_t[:, None, None], 0.0)
        return torch.stack(history)


class _BehindLayers(nn.Module):
    """Hidden layers of agents, and behind them one output for everything that they choose among.

    Args:
        hidden: widths of the hidden layers, from the first one on, which is there already.
        choices: what agents choose among.
        extra: actions that choose nothing.
        output_gain: scale of the last weights at the start.
    """

    def __init__(self, hidden: Sequence[int], choices: Choices, extra: int, output_gain: float):
        super().__init__()
        self.layers = mlp(hidden, output_gain=math.sqrt(2), ends_in_relu=True) if len(hidden) > 1 else nn.Identity()
        self.head = ChoiceHead(hidden[-1], choices.features, hidden[-1], extra, output_gain)

    def forward(self, codes: Codes) -> Float[Tensor, "*batch agents outputs"]:
        """Return the outputs."""
        return self.head(codes._replace(agents=self.layers(codes.agents))).squeeze(-1)


class AgentLinear(nn.Module):
    """A linear layer with weights of its own for every agent: [*batch, agents, inputs] to [*batch, agents, outputs]."""

    def __init__(self, agents: int, inputs: int, outputs: int, gain: float):
        super().__init__()
        layers = [initialize_orthogonal(nn.Linear(inputs, outputs), gain) for _ in range(agents)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.zeros(agents, outputs))

    def forward(self, x: Float[Tensor, "*batch agents inputs"]) -> Float[Tensor, "*batch agents outputs"]:
        """Apply each agent's weights to its row."""
        rows = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
        product = torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight.transpose(1, 2))
        return product.transpose(0, 1).reshape(*x.shape[:-1], self.bias.shape[-1])


class GatedCell(nn.Module):
    """A gated recurrent unit (GRU) as wide as its input, whose input part is computed for many steps at once.

    r, z = sigmoid(W x + U h), c = tanh(W_c x + b + r * (U_c h + b')), h' = (1 - z) c + z h.

    Source: Cho et al. 2014, in the form of torch.nn.GRUCell.
    """

    def __init__(self, width: int, agents: int | None):
        super().__init__()
        self._input = linear(width, 3 * width, agents, 1.0)
        self._recurrent = linear(width, 3 * width, agents, 1.0)

    def inputs(self, x: Float[Tensor, "*batch agents width"]) -> Float[Tensor, "*batch agents gates"]:
        """Return the part of the gates that does not depend on the memory."""
        return self._input(x)

    def forward(
        self, inputs: Float[Tensor, "*batch agents gates"], hidden: Float[Tensor, "*batch agents width"]
    ) -> Float[Tensor, "*batch agents width"]:
        """Return the memory after one more step."""
        in_reset, in_update, in_new = inputs.chunk(3, -1)
        reset, update, new = self._recurrent(hidden).chunk(3, -1)
        candidate = torch.tanh(in_new + torch.sigmoid(in_reset + reset) * new)
        return candidate.lerp(hidden, torch.sigmoid(in_update + update))


def agent_network(spec: EnvSpec, settings: Any, **options: Any) -> AgentNetwork:
    """Build the agents' network that the settings of an algorithm ask for (`spnpolicy.parts.settings`).

    Args:
        spec: sizes of the environment.
        settings: with the fields of `AgentSettings`.
        options: further arguments of `AgentNetwork`; they win over the settings.
    """
    return AgentNetwork(spec, settings.network, **({"shared": settings.share_parameters} | options))


def linear(inputs: int, outputs: int, agents: int | None, gain: float) -> nn.Module:
    """Return a linear layer, the same for all agents (None) or with weights of its own for each of so many."""
    if agents is None:
        return initialize_orthogonal(nn.Linear(inputs, outputs), gain)
    return AgentLinear(agents, inputs, outputs, gain)


def _layers(sizes: Sequence[int], agents: int | None, output_gain: float) -> nn.Sequential:
    if agents is None:
        return mlp(sizes, output_gain=output_gain)
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        is_last = index == len(sizes) - 2
        layers.append(AgentLinear(agents, inputs, outputs, output_gain if is_last else math.sqrt(2)))
        if not is_last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
