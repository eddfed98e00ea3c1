"""What every learner does alike: target networks, guarded gradient steps, and its state in a checkpoint."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spnpolicy.base.distributed import average
from spnpolicy.parts.muon import Muon
from spnpolicy.parts.rectified_adam import RectifiedAdam
from spnpolicy.parts.settings import AdamSettings

Kind = TypeVar("Kind", bound=type[Any])
Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(network: Module) -> Module:
    """Return a copy that gradients never reach: a target network at its start."""
    return copy.deepcopy(network).requires_grad_(False)


def make_optimizer(parameters: Iterable[nn.Parameter], settings: AdamSettings) -> torch.optim.Adam:
    """Return Adam or a relative, in its fused form, which needs one call for all parameters on every device we use.

    Raises:
        ValueError: a parameter is not contiguous. Fused Adam walks through parameter and moments side by side in
            memory, and moments loaded from a checkpoint are contiguous: it would pair the wrong entries silently.
    """
    parameters = list(parameters)
    if not all(parameter.is_contiguous() for parameter in parameters):
        raise ValueError("every parameter must be contiguous: make it with nn.Parameter(tensor.contiguous()).")
    if settings.method == "muon":
        return Muon(parameters, settings.learning_rate)
    kind = RectifiedAdam if settings.method == "radam" else torch.optim.Adam
    return kind(parameters, lr=settings.learning_rate, fused=True)


def descend(*steps: tuple[Tensor, torch.optim.Optimizer], max_gradient_norm: float) -> list[float]:
    """Do one gradient step on each loss with its optimiser, together or not at all.

    All gradients are computed before the first parameter moves; in a run of several processes they are averaged over
    these. Each is shortened to `max_gradient_norm` if it is longer. If any loss or gradient is not finite, no parameter
    and no moment of any optimiser changes, and the caller sees it in the returned numbers.

    Args:
        steps: losses and the optimisers of their parameters; a loss must not depend on another's parameters.
        max_gradient_norm: longest gradient.

    Returns:
        The norm of each gradient before it was shortened, nan or infinite where it is so.
    """
    gradients: list[list[Tensor]] = []
    for loss, optimizer in steps:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients.append([parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None])
    losses = [loss.detach().clone() for loss, _ in steps]
    average([*chain(*gradients), *losses])
    norms = [nn.utils.get_total_norm(each) for each in gradients]
    lengths = [float(norm) for norm in norms]
    if all(map(math.isfinite, lengths)) and all(bool(loss.isfinite()) for loss in losses):
        for (_, optimizer), norm, length in zip(steps, norms, lengths, strict=True):
            if length >= max_gradient_norm:
                nn.utils.clip_grads_with_norm_(_parameters(optimizer), max_gradient_norm, norm)
            optimizer.step()
        return lengths
    return [length if bool(loss.isfinite()) else math.nan for length, loss in zip(lengths, losses, strict=True)]


def step_on(learner: Any, **losses: Tensor) -> dict[str, float]:
    """Descend on the losses of a learner's parts, all or nothing.

    Args:
        learner: with `config.max_gradient_norm` and the optimiser `PART_optimizer` of each part.
        losses: by part, "actor" or "critic".

    Returns:
        "PART_loss" and "PART_gradient_norm" of every part; not all are finite if nothing was changed.
    """
    steps = [(loss, getattr(learner, f"{part}_optimizer")) for part, loss in losses.items()]
    norms = descend(*steps, max_gradient_norm=learner.config.max_gradient_norm)
    numbers = {f"{part}_loss": float(loss.detach()) for part, loss in losses.items()}
    return numbers | {f"{part}_gradient_norm": norm for part, norm in zip(losses, norms, strict=True)}


def improve(learner: Any, **losses: Tensor) -> dict[str, float]:
    """Do `step_on`, and if it went well, count the update and let targets follow."""
    numbers = step_on(learner, **losses)
    if all(map(math.isfinite, numbers.values())):
        count_update(learner)
    return numbers


def count_update(learner: Any) -> None:
    """Add one to `num_updates`, and let `target_actor` and `target_critic` follow as `config.target` says."""
    learner.num_updates += 1
    for part in ("actor", "critic"):
        if (target := getattr(learner, f"target_{part}", None)) is not None:
            learner.config.target.apply(target, getattr(learner, part), learner.num_updates)


def set_step_sizes(learner: Any, progress: float) -> None:
    """Give every optimiser of a learner, and of the learners within it, the step size that its settings now ask for.

    It depends on the progress only, so a run that is resumed goes on as it would have.

    Args:
        learner: with the settings `config.PART` of the optimiser `PART_optimizer` of each part, or with a `learner` or
            `learners` that have. What has no such settings stays as it is.
        progress: share of training done, in [0, 1].
    """
    for part in ("actor", "critic"):
        settings = getattr(getattr(learner, "config", None), part, None)
        if isinstance(settings, AdamSettings) and hasattr(learner, f"{part}_optimizer"):
            for group in getattr(learner, f"{part}_optimizer").param_groups:
                group["lr"] = settings.step_size_at(progress)
    for inner in (*getattr(learner, "learners", ()), getattr(learner, "learner", None)):
        if inner is not None:
            set_step_sizes(inner, progress)


def gradient_steps(state: Mapping[str, Any]) -> int | None:
    """Return how many steps what a learner plays by has made: its actor, or its critic where no actor learns.

    Adam counts them itself and keeps the number in checkpoints; steps that were undone or never made are not in it. Of
    learners within a learner the one with the most steps counts.

    Args:
        state: `state_dict` of the learner, with the Adams `actor_optimizer` or `critic_optimizer`; None without them.
    """
    parts = [state[part] for part in ("actor_optimizer", "critic_optimizer") if _is_adam(state.get(part))]
    made = (max((int(moments["step"]) for moments in part["state"].values()), default=0) for part in parts)
    if parts:
        return next((steps for steps in made if steps), 0)
    inner = (gradient_steps(value) for value in state.values() if isinstance(value, Mapping))
    return max((steps for steps in inner if steps is not None), default=None)


def _is_adam(saved: Any) -> bool:
    return isinstance(saved, Mapping) and all("betas" in group for group in saved.get("param_groups", [{}]))


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def saves(*parts: str) -> Callable[[Kind], Kind]:
    """Give a class `state_dict`, `load_state_dict` and `to`, from the names of its parts.

    Args:
        parts: attributes that change in training: networks, optimisers and whatever else has a `state_dict`, and plain
            numbers. What has a method `to` among them moves with the whole.

    Example:
        @saves("critic", "target_critic", "critic_optimizer", "num_updates")
        class IQL: ...
    """

    def state_dict(self: Any) -> dict[str, Any]:
        """Return what continuing needs."""
        return {name: _state_of(getattr(self, name)) for name in parts}

    def load_state_dict(self: Any, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for name in parts:
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])

    def to(self: Any, device: torch.device) -> None:
        """Move all networks to a device; actions are still drawn on the CPU."""
        for name in parts:
            if hasattr(part := getattr(self, name), "to"):
                part.to(device)

    def decorate(kind: Kind) -> Kind:
        for method in (state_dict, load_state_dict, to):
            if method.__name__ not in vars(kind):
                setattr(kind, method.__name__, method)
        return kind

    return decorate


def _state_of(part: Any) -> Any:
    return part.state_dict() if hasattr(part, "state_dict") else part
