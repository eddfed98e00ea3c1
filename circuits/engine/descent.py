"""The walk from the root down to one value per variable; exact samples and exact modes choose differently at sums."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit, ProductLayer, SumLayer

Choice = Callable[[int, SumLayer, Tensor, Tensor], Tensor]
"""(position among the sum layers, layer, sums, columns) -> chosen edge of each, in [0, fan_in)."""


def descend(compiled: CompiledCircuit, choice: Choice, columns: int, device: torch.device) -> Tensor:
    """Walk from the root to one value per variable in each column; return values, shape (columns, variables).

    Only rows that are in use are visited: per layer one list of (row, column) pairs.
    """
    starts = [0] + [layer.start for layer in compiled.layers] + [compiled.num_rows]
    bounds = torch.as_tensor(starts[1:], device=device)
    waiting: list[list[tuple[Tensor, Tensor]]] = [[] for _ in starts[1:]]

    # Most slots lead to a single layer, known beforehand; only for the others each row's layer has to be searched for.
    def send(rows: Tensor, at: Tensor, targets: tuple[int, ...]) -> None:
        if len(targets) == 1:
            waiting[targets[0]].append((rows - starts[targets[0]], at))
            return
        place = torch.bucketize(rows, bounds, right=True)
        for target in targets:
            here = place == target
            waiting[target].append((rows[here] - starts[target], at[here]))

    targets = _targets(compiled, starts)
    everything = torch.arange(columns, device=device)
    send(torch.full_like(everything, compiled.root), everything, targets["root"])
    position = len(compiled.sum_layers)
    for level in range(len(compiled.layers), 0, -1):
        layer = compiled.layers[level - 1]
        is_sum = isinstance(layer, SumLayer)
        position -= is_sum
        if not waiting[level]:
            continue
        reached, at = (torch.cat(parts) for parts in zip(*waiting[level], strict=True))
        waiting[level].clear()
        if isinstance(layer, ProductLayer):
            send(layer.left.index(device)[reached], at, targets[level, "left"])
            send(layer.right.index(device)[reached], at, targets[level, "right"])
        else:
            edge = reached * layer.fan_in + choice(position, layer, reached, at)
            send(layer.children.index(device)[edge], at, targets[level, "children"])
    return _read_values(compiled, waiting[0], columns, device)


def _targets(compiled: CompiledCircuit, starts: list[int]) -> dict[object, tuple[int, ...]]:
    """Return, per layer and child slot, the layers that its children live in (0 = the indicator rows)."""
    if "targets" not in compiled.cache:
        slots: dict[object, np.ndarray] = {"root": np.array([compiled.root])}
        for level, layer in enumerate(compiled.layers, start=1):
            for name in ("left", "right") if isinstance(layer, ProductLayer) else ("children",):
                slots[level, name] = getattr(layer, name).positions
        compiled.cache["targets"] = {
            slot: tuple(np.unique(np.searchsorted(starts[1:], positions, side="right")).tolist())
            for slot, positions in slots.items()
        }
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
