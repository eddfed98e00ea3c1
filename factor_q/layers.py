"""Layers of plain networks: a perceptron, and how its weights start."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Rows(nn.Sequential):
    """Layers that see a batch of any shape as rows of one matrix.

    A linear layer given more axes returns a view, and changing a view in place costs three copies when gradients flow.
    """

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layers to every row."""
        rows = super().forward(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], rows.shape[-1])


def mlp(sizes: Sequence[int], *, output_gain: float | None = 1.0, ends_in_relu: bool = False) -> Rows:
    """Build linear layers with a ReLU between any two of them.

    Weights start orthogonal with gain sqrt(2), the last ones with `output_gain`; biases start at zero.

    Args:
        sizes: width of the input, of every hidden layer and of the output; at least two numbers.
        output_gain: scale of the last layer's first weights; None leaves all layers as torch starts them.
        ends_in_relu: put a ReLU behind the last layer too, as for hidden layers that others build on.

    Returns:
        A module from [*batch, sizes[0]] to [*batch, sizes[-1]].
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        is_last = index == len(sizes) - 2
        layer = nn.Linear(inputs, outputs)
        if output_gain is not None:
            initialize_orthogonal(layer, output_gain if is_last else math.sqrt(2))
        layers.append(layer)
        if not is_last or ends_in_relu:
            # In place: no linear layer needs its output again, and a second copy costs a pass over memory.
            layers.append(nn.ReLU(inplace=True))
    return Rows(*layers)


def initialize_orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Give a linear layer orthogonal weights of this gain and zero biases, and return it."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
