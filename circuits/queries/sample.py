"""Top-down selection: exact samples and exact modes walk the same path with a different choice at each sum."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.layers import CompiledCircuit, ProductLayer, SumLayer
from circuits.engine.passes import max_up
from circuits.errors import NotTractableError
from circuits.numerics import choose, choose_from_table
from circuits.weights import WeightedCircuit

_CHUNK = 1 << 24
"""Numbers that one choice may gather at a time."""

Choice = Callable[[int, SumLayer, Tensor, Tensor], Tensor]
"""(position among the sum layers, layer, sums, columns) -> chosen edge of each, in [0, fan_in)."""


def sample(
    distribution: WeightedCircuit,
    sample_shape: torch.Size,
    *,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*shape variables"]:
    """Draw exact samples of all variables together.

    Args:
        distribution: batch shape (*batch).
        sample_shape: how many draws per batch row.
        generator: source of randomness; torch's global generator when None.

    Returns:
        Integers, shape (*sample_shape, *batch, variables). An impossible value is never drawn.
    Cost: one categorical draw per active sum, about O(variables * fan-in) per sample.
    """
    compiled = distribution.circuit.compiled
    with torch.no_grad():
        batch_size = distribution.batch_shape.numel()
        weights = distribution.weights.detach().reshape(compiled.num_parameters, batch_size)

        def draw(_: int, layer: SumLayer, sums: Tensor, columns: Tensor) -> Tensor:
            own = layer.fold(weights[layer.edges])
            rows = columns % batch_size
            if len(sums) > layer.size * batch_size:
                uniform = torch.rand(len(sums), dtype=torch.float64, device=weights.device, generator=generator)
                table = own.transpose(1, 2).reshape(-1, layer.fan_in)
                return choose_from_table(table, sums * batch_size + rows, uniform)
            uniform = torch.rand(len(sums), dtype=weights.dtype, device=weights.device, generator=generator)
            size = max(1, _CHUNK // layer.fan_in)
            parts = zip(sums.split(size), rows.split(size), uniform.split(size), strict=True)
            return torch.cat([choose(own[s, :, r], u) for s, r, u in parts])

        count = sample_shape.numel() * batch_size
        values = _descend(compiled, draw, count, weights.device)
    return values.reshape(*sample_shape, *distribution.batch_shape, len(compiled.cardinalities))


def mode(
    distribution: WeightedCircuit,
) -> tuple[Int[Tensor, "*batch variables"], Float[Tensor, "*batch"]]:
    """Return the most probable joint value and its log probability, exactly.

    Ties go to the first child of the sum node.

    Raises:
        NotTractableError: some sum is not deterministic, so the maximum over children is not the maximum
            of the sum. The message names the node.
    Requires: determinism.
    Cost: one upward pass.
    Source: Choi, Vergari, Van den Broeck 2020, Probabilistic Circuits, section on MAP.
    """
    overlap = distribution.circuit.overlap
    if overlap is not None:
        raise NotTractableError(
            f"the exact mode needs determinism, but {overlap.describe()}. "
            "Build the structure with structures.keep_set(...), or take the best of many samples by log_prob."
        )
    compiled = distribution.circuit.compiled
    with torch.no_grad():
        weights = distribution.log_weights.detach().reshape(compiled.num_parameters, distribution.batch_shape.numel())
        values, best = max_up(compiled, weights)

        def pick(position: int, _: SumLayer, sums: Tensor, columns: Tensor) -> Tensor:
            return best[position][sums, columns]

        chosen = _descend(compiled, pick, weights.shape[1], weights.device)
    batch = distribution.batch_shape
    return chosen.reshape(*batch, len(compiled.cardinalities)), values[compiled.root].reshape(batch)


def _descend(compiled: CompiledCircuit, choice: Choice, columns: int, device: torch.device) -> Tensor:
    """Walk from the root to one value per variable in each column; return values, shape (columns, variables).

    Only rows that are in use are visited: per layer one list of (row, column) pairs.
    """
    starts = [0] + [layer.start for layer in compiled.layers] + [compiled.num_rows]
    bounds = torch.as_tensor(starts[1:], device=device)
    waiting: list[list[tuple[Tensor, Tensor]]] = [[] for _ in starts[1:]]

    def send(rows: Tensor, at: Tensor, targets: tuple[int, ...]) -> None:
        if len(targets) == 1:
            waiting[targets[0]].append((rows - starts[targets[0]], at))
            return
        place = torch.bucketize(rows, bounds, right=True)
        for target in targets:
            here = place == target
            waiting[target].append((rows[here] - starts[target], at[here]))

    everything = torch.arange(columns, device=device)
    send(torch.full_like(everything, compiled.root), everything, _targets(compiled, starts)["root"])
    position = len(compiled.sum_layers)
    for level in range(len(compiled.layers), 0, -1):
        layer = compiled.layers[level - 1]
        is_sum = isinstance(layer, SumLayer)
        position -= is_sum
        if not waiting[level]:
            continue
        own, at = (torch.cat(parts) for parts in zip(*waiting[level], strict=True))
        waiting[level].clear()
        targets = _targets(compiled, starts)
        if isinstance(layer, ProductLayer):
            send(layer.left.index(device)[own], at, targets[level, "left"])
            send(layer.right.index(device)[own], at, targets[level, "right"])
        else:
            edge = own * layer.fan_in + choice(position, layer, own, at)
            send(layer.children.index(device)[edge], at, targets[level, "children"])
    return _read_values(compiled, waiting[0], columns, device)


def _targets(compiled: CompiledCircuit, starts: list[int]) -> dict[object, tuple[int, ...]]:
    """Return, per layer and child slot, the layers that its children live in (0 = the indicator rows)."""
    if "targets" not in compiled.cache:
        bounds = torch.as_tensor(starts[1:])

        def layers_of(positions: Tensor) -> tuple[int, ...]:
            return tuple(torch.bucketize(positions, bounds, right=True).unique().tolist())

        targets: dict[object, tuple[int, ...]] = {"root": layers_of(torch.tensor([compiled.root]))}
        for level, layer in enumerate(compiled.layers, start=1):
            slots = ("left", "right") if isinstance(layer, ProductLayer) else ("children",)
            for slot in slots:
                targets[level, slot] = layers_of(torch.as_tensor(getattr(layer, slot).positions))
        compiled.cache["targets"] = targets
    return compiled.cache["targets"]  # type: ignore[return-value]


def _read_values(
    compiled: CompiledCircuit, arrived: list[tuple[Tensor, Tensor]], columns: int, device: torch.device
) -> Tensor:
    rows, at = (torch.cat(parts) for parts in zip(*arrived, strict=True))
    ends = torch.as_tensor(compiled.offsets, device=device)
    variable = torch.bucketize(rows, ends[1:], right=True)
    values = torch.empty((columns, len(compiled.cardinalities)), dtype=torch.long, device=device)
    values[at, variable] = rows - ends[variable]
    return values
