"""Minibatches: several gradient steps on one rollout, all of which are undone if one of them goes wrong."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spnpolicy.data.protocol import Batch, Window
from spnpolicy.networks.agents import AgentNetwork
from spnpolicy.parts.settings import DataSettings

Rows = tuple[Batch, list[Tensor]]
"""Rows of a rollout, and of the columns that belong to it."""


def regress(
    learner: Any,
    batch: Batch,
    target_t: Float[Tensor, "*rows"],
    step: Callable[..., dict[str, float]],
    outputs: Tensor | None = None,
) -> dict[str, float]:
    """Do the gradient steps that `passes` and `minibatch` ask for, towards targets that stay as they are.

    Args:
        learner: with a config of `DataSettings`, `needs` and the stream `order_generator`. For recurrent networks parts
            are whole windows of environments.
        batch: what is learned from.
        target_t: what its rows learn, worked out before the first step.
        step: does one gradient step on rows and their targets, and returns its numbers.
        outputs: what `foresee` found; the step is given it as well where it is the only one.
    """
    if _is_one_step(learner.config, batch):
        return step(batch, target_t) if outputs is None else step(batch, target_t, outputs)
    return learn_in_parts(
        learner,
        batch,
        [target_t],
        step,
        passes=learner.config.passes,
        count=_parts(learner.config, batch),
        generator=learner.order_generator,
        whole_windows=learner.needs.memory_size > 0,
    )


def foresee(config: DataSettings, network: AgentNetwork, batch: Batch) -> tuple[Tensor | None, Tensor]:
    """Return a network's outputs for a batch, and without gradient those for what followed.

    Both come from one pass where one gradient step is done on the batch; of several steps each needs a pass of its own,
    and the first is None.
    """
    if _is_one_step(config, batch):
        return network.both(batch)
    return None, network.following(batch)


def _is_one_step(config: DataSettings, batch: Batch) -> bool:
    return config.passes == 1 and _parts(config, batch) == 1


def _parts(config: DataSettings, batch: Batch) -> int:
    """Return in how many parts a pass goes through a batch."""
    return 1 if config.minibatch is None else max(1, round(batch.terminated.numel() / config.minibatch))


def learn_in_parts(
    learner: Any,
    batch: Batch,
    columns: Sequence[Float[Tensor, "*batch"]],
    step: Callable[..., dict[str, float]],
    *,
    passes: int,
    count: int,
    generator: torch.Generator,
    whole_windows: bool = False,
) -> dict[str, float]:
    """Go through a rollout several times; if anything is not finite on the way, all of it is undone.

    Args:
        learner: what learns; its state is put back after a step that went wrong.
        batch: the rollout, or single transitions, which are then one part.
        columns: what belongs to its rows, such as targets, worked out once for all steps.
        step: does one gradient step on `(rows, *columns)` and returns its numbers.
        passes: times that every row is used.
        count: parts of a pass.
        generator: source of their order, on the CPU.
        whole_windows: see `minibatches`.

    Returns:
        The means of the numbers over all steps.
    """
    if passes == 1 and count == 1:
        return step(batch, *columns)
    before = copy.deepcopy(learner.state_dict())
    steps: list[dict[str, float]] = []
    parts = minibatches(batch, columns, passes=passes, count=count, generator=generator, whole_windows=whole_windows)
    for rows, values in parts:
        steps.append(step(rows, *values))
        if not all(map(math.isfinite, steps[-1].values())):
            learner.load_state_dict(before)
            break
    return {name: sum(each[name] for each in steps) / len(steps) for name in steps[0]}


def minibatches(
    batch: Batch,
    columns: Sequence[Tensor],
    *,
    passes: int,
    count: int,
    generator: torch.Generator,
    whole_windows: bool = False,
) -> Iterator[Rows]:
    """Go through a rollout several times, each time in so many parts of nearly equal size, in a fresh random order.

    Args:
        batch: the rollout, shape (time, batch).
        columns: tensors of the same leading shape, divided as the rollout is.
        passes: in each, every row is in exactly one part.
        count: parts, fewer if there are fewer rows; with one part nothing is drawn and the order stays.
        generator: source of the order, on the CPU.
        whole_windows: a row is the whole window of one environment, as recurrent networks need it; otherwise it is a
            single step, and the parts have the leading shape (batch,).
    """
    memory = batch.memory
    if isinstance(batch, Window) and not whole_windows:
        batch, columns = _map(Batch, batch, _flat), [_flat(column) for column in columns]
    axis = 1 if isinstance(batch, Window) else 0
    total = batch.terminated.shape[axis]
    for _ in range(passes):
        if min(count, total) == 1:
            yield batch, list(columns)
            continue
        order = torch.randperm(total, generator=generator).to(batch.terminated.device)
        for chosen in order.tensor_split(min(count, total)):

            def rows(tensor: Tensor, chosen: Tensor = chosen) -> Tensor:
                return tensor.index_select(axis, chosen)

            part = _map(type(batch), batch, rows)
            if memory is not None and whole_windows:
                part = part._replace(memory=memory.index_select(0, chosen))
            yield part, [rows(column) for column in columns]


def some_rows(batch: Batch, most: int) -> Batch:
    """Return about so many single rows of a batch at most, from all over it."""
    rows = _map(Batch, batch, _flat) if isinstance(batch, Window) else batch
    stride = -(-len(rows.terminated) // most)
    return _map(Batch, rows, lambda tensor: tensor[::stride])


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(0, 1)


def _map(kind: type[Batch], batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Apply a function to everything with the leading shape (time, batch); the memory, which has another, is left out.

    Only whole windows have a use for a memory: the caller puts it back.
    """
    return kind(**{name: function(x) for name, x in batch._asdict().items() if x is not None and name != "memory"})
