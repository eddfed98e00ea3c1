"""Joint action values: mixed from the agents' utilities, or free in their form."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from factor_q.layers import initialize_orthogonal, mlp
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import chosen_value
from spnpolicy.networks.agents import agent_network
from spnpolicy.networks.encoders import state_encoder_for

WeightTransform = Literal["absolute", "softplus"]

WEIGHT_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"absolute": torch.abs, "softplus": functional.softplus}
"""What makes the weights of a monotonic mixer positive: "absolute" can reach 0, "softplus" cannot."""

# Small, because what a value network begins with is bootstrapped until rewards are seen.
_OUTPUT_GAIN = 0.01


class QMixer(nn.Module):
    """A mixing network that never falls when a utility rises; its weights are functions of the state.

    Q_tot = w2(s) . ELU(W1(s) q + b1(s)) + v(s), where W1 and w2 are made positive and the offsets are free. The best
    joint action is then made of the agents' best actions. With "absolute" a weight may be 0: other joint actions can
    be equally good. Q_tot is convex in the utilities, as ELU is: monotonic values that level off are only approximated.
    The weights start with random offsets, so that they can learn where the state is always 0.

    Args:
        num_agents: number of utilities.
        state_size: length of the state vector.
        embedding: hidden units of the mixing network.
        hidden: hidden units of the networks that give W1 and w2; that of v has as many as the mixing network.
        weights: how W1 and w2 are made positive.
        encoder: what is seen of the state, with `out_features`; None for the state as it is.

    Source: Rashid et al. 2018.
    """

    def __init__(
        self,
        num_agents: int,
        state_size: int,
        *,
        embedding: int = 32,
        hidden: int = 64,
        weights: WeightTransform = "absolute",
        encoder: nn.Module | None = None,
    ):
        super().__init__()
        self.encoder = nn.Identity() if encoder is None else encoder
        self._positive = WEIGHT_TRANSFORMS[weights]
        self._shape = (num_agents, embedding)
        # All that looks at the state does so in one product: four small ones take longer.
        self._parts = (hidden, hidden, embedding, embedding)
        seen = state_size if encoder is None else cast(int, encoder.out_features)
        self.reader = nn.Linear(seen, sum(self._parts))
        self.first_weight = nn.Linear(hidden, num_agents * embedding)
        self.last_weight = nn.Linear(hidden, embedding)
        self.last_offset = initialize_orthogonal(nn.Linear(embedding, 1), _OUTPUT_GAIN)

    def forward(
        self, utilities: Float[Tensor, "*batch agents"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch"]:
        """Return Q_tot of these utilities in these states."""
        first, last, offset, shift = self.reader(self.encoder(state)).split(self._parts, -1)
        first_weight = self._positive(self.first_weight(first.relu())).unflatten(-1, self._shape)
        # Not a matrix product: with a row of few agents per state it is slower than multiplying and adding.
        mixed = (utilities.unsqueeze(-1) * first_weight).sum(-2)
        units = functional.elu(mixed + shift)
        last_weight = self._positive(self.last_weight(last.relu()))
        return (last_weight * units).sum(-1) + self.last_offset(offset.relu()).squeeze(-1)


class JointCritic(nn.Module):
    """The joint value Q_jt(s, o, u), free in its form.

    Every agent's observation gives a code for each of its actions; the codes of the actions taken are added up. So
    what would be if one agent did something else costs one more pass of the last layers, not a network of its own.

    Args:
        spec: sizes of the environment.
        settings: with the fields of `spnpolicy.parts.settings.AgentSettings`.
        embedding: length of a code, and hidden units of the layers behind the sum.

    Source: Son et al. 2019; the sum of codes is the form of its reference implementation.
    """

    def __init__(self, spec: EnvSpec, settings: Any, embedding: int):
        super().__init__()
        self._width = embedding
        self.encoder = agent_network(spec, settings, outputs=max(spec.cardinalities) * embedding, output_gain=1.0)
        self.state = state_encoder_for(settings.network, spec)
        inputs = embedding + cast(int, self.state.out_features)
        self.joint = mlp((inputs, embedding, embedding, 1), output_gain=_OUTPUT_GAIN)

    def codes(self, batch: Batch) -> Float[Tensor, "*batch agents actions embedding"]:
        """Return the codes of all actions at the observations of a batch."""
        return self._by_action(self.encoder.now(_without_memory(batch)))

    def following_codes(self, batch: Batch) -> Float[Tensor, "*batch agents actions embedding"]:
        """Return the codes of all actions at the next observations of a batch, without gradient."""
        return self._by_action(self.encoder.following(_without_memory(batch)))

    def forward(
        self,
        codes: Float[Tensor, "*batch agents actions embedding"],
        actions: Int[Tensor, "*batch agents"],
        state: Float[Tensor, "*batch state"],
    ) -> Float[Tensor, "*batch"]:
        """Return Q_jt of joint actions."""
        return self._value(_code_of(codes, actions).sum(-2), state)

    def deviations(
        self,
        codes: Float[Tensor, "*batch agents actions embedding"],
        actions: Int[Tensor, "*batch agents"],
        state: Float[Tensor, "*batch state"],
    ) -> Float[Tensor, "*batch agents actions"]:
        """Return Q_jt of what a joint action becomes when one agent does something else, for each agent and action."""
        chosen = _code_of(codes, actions)
        others = chosen.sum(-2, keepdim=True) - chosen
        return self._value(others.unsqueeze(-2) + codes, state)

    def _value(self, code: Tensor, state: Tensor) -> Tensor:
        seen = self.state(state)
        # The state is the same for all codes of a row, be it one or one per agent and action.
        seen = seen.reshape(*seen.shape[:-1], *(1,) * (code.dim() - seen.dim()), -1).expand(*code.shape[:-1], -1)
        return self.joint(torch.cat([code, seen], -1)).squeeze(-1)

    def _by_action(self, outputs: Tensor) -> Tensor:
        return outputs.unflatten(-1, (-1, self._width))


def deviation_sums(
    utilities: Float[Tensor, "*batch agents actions"], actions: Int[Tensor, "*batch agents"]
) -> Float[Tensor, "*batch agents actions"]:
    """Return the sum of utilities of what a joint action becomes when one agent does something else."""
    chosen = chosen_value(utilities, actions)
    return utilities + (chosen.sum(-1, keepdim=True) - chosen).unsqueeze(-1)


def _code_of(codes: Tensor, actions: Int[Tensor, "*batch agents"]) -> Float[Tensor, "*batch agents embedding"]:
    index = actions[..., None, None].expand(*codes.shape[:-2], 1, codes.shape[-1])
    return codes.gather(-2, index).squeeze(-2)


def _without_memory(batch: Batch) -> Batch:
    # The memory of a batch is that of the network that acted, which is another one.
    return batch if batch.memory is None else batch._replace(memory=batch.memory[..., :0])
