"""The process that runs one engine: it reads requests and writes replies, one JSON object a line."""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from benchmarks.circuit_speed.adapter import Adapter
from benchmarks.circuit_speed.task import Task

MEMORY = "CIRCUIT_SPEED_MEMORY"
"""Environment variable: GiB that a worker may allocate."""


def serve(adapter: Adapter) -> None:
    """Answer requests until the input ends. What engines print goes to the error stream, not among the replies."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        torch.set_num_threads(1)
        torch.manual_seed(0)
        limit = int(float(os.environ.get(MEMORY, "0")) * 2**30)
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        worker = Worker(adapter)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                reply = getattr(worker, request.pop("do"))(**request)
            except Exception as error:
                reply = {"error": reason(error)}
            print(json.dumps(reply), file=replies, flush=True)


def reason(error: Exception) -> str:
    """Return the first line of an error, short enough for a table's footnote."""
    text = str(error).strip()
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return f"out of memory, limit {os.environ.get(MEMORY, 'none')} GiB"
    line = text.splitlines()[0] if text else ""
    if isinstance(error, NotImplementedError) and line:
        return line[:160]
    return (f"{type(error).__name__}: {line}" if line else type(error).__name__)[:160]


class Worker:
    """Holds one model and one piece of work at a time."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.task: Task | None = None
        self.model: Any = None
        self.call: Callable[[], object] = lambda: None

    def versions(self) -> dict[str, Any]:
        """Return the versions of torch and of the engine."""
        found = {}
        for name in ("torch", *self.adapter.packages):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "not installed as a package"
        return {"versions": found}

    def bandwidth(self) -> dict[str, Any]:
        """Return GB/s of a large copy: bytes read and written; the best of several."""
        source = torch.ones(1 << 25)
        target = torch.empty_like(source).copy_(source)
        cpu, _ = burst(lambda: target.copy_(source), 0.15)
        return {"bandwidth": 2 * source.numel() * source.element_size() / min(cpu) / 1e9}

    def open(self, task: dict[str, Any]) -> dict[str, Any]:
        """Build a model and check that it is the distribution that it should be."""
        self.call, self.model = (lambda: None), None
        self.task = Task.read(task)
        self.model = self.adapter.build(self.task)
        caveat = check(self.adapter, self.model, self.task)
        return {
            "caveat": caveat,
            "parameters": sum(weight.numel() for weight in self.adapter.parameters(self.model).values()),
            "edges": self.adapter.num_edges(self.model, self.task),
        }

    def prepare(self, work: str, batch: int, seconds: float) -> dict[str, Any]:
        """Make one piece of work ready and run it once to warm up; return how many rows of the batch it has."""
        assert self.task is not None
        self.call = lambda: None
        rows = batch
        if work.startswith("own") and self.adapter.loops:
            few = min(batch, 4)
            trial = prepare(self.adapter, self.model, self.task, work, few)
            trial()
            _, wall = burst(trial, 0.0)
            rows = max(few, min(batch, int(seconds * few / wall[0])))
        self.call = prepare(self.adapter, self.model, self.task, work, rows)
        result = self.call()
        if work == "sample":
            check_samples(result, batch, self.task)
        return {"rows": rows}

    def time(self, seconds: float) -> dict[str, Any]:
        """Run the prepared work for some seconds, at least once."""
        cpu, wall = burst(self.call, seconds)
        return {"cpu": cpu, "wall": wall}


def burst(call: Callable[[], object], seconds: float) -> tuple[list[float], list[float]]:
    """Return processor and wall seconds of each of many calls."""
    cpu: list[float] = []
    wall: list[float] = []
    end = time.perf_counter() + seconds
    while True:
        before = time.perf_counter(), time.process_time()
        call()
        after = time.perf_counter(), time.process_time()
        wall.append(after[0] - before[0])
        cpu.append(after[1] - before[1])
        if after[0] >= end:
            return cpu, wall


def prepare(adapter: Adapter, model: Any, task: Task, work: str, batch: int) -> Callable[[], object]:
    """Return one call of a piece of work; its inputs are made here, outside the clock."""
    values = torch.randint(task.categories, (batch, task.size))
    weights = adapter.parameters(model)
    if work.startswith("own"):
        weights = own_weights(weights, batch, requires_grad=work == "own_gradient")

    def loss() -> Tensor:
        if work == "own_gradient":
            return adapter.own_log_prob(model, weights, values).mean()
        return adapter.log_prob(model, values).mean()

    def gradient() -> None:
        for weight in weights.values():
            weight.grad = None
        loss().backward()

    if work in ("gradient", "own_gradient"):
        return gradient
    if work == "build":
        return lambda: adapter.build(task)
    hidden = (torch.arange(task.size) % 2 == 1).expand(batch, -1)
    evidence = adapter.evidence(values, hidden)
    calls: dict[str, Callable[[], object]] = {
        "log_prob": lambda: adapter.log_prob(model, values),
        "marginal": lambda: adapter.log_evidence(model, evidence),
        "sample": lambda: adapter.sample(model, batch),
        "own_log_prob": lambda: adapter.own_log_prob(model, weights, values),
    }
    return torch.no_grad()(calls[work])


def own_weights(weights: dict[str, Tensor], batch: int, *, requires_grad: bool) -> dict[str, Tensor]:
    """Return weights of every state's own: the shared ones, sharper in some states than in others."""

    def spread(weight: Tensor) -> Tensor:
        scales = 1.0 + 0.1 * torch.randn(batch, *(1,) * weight.dim())
        return (weight.detach() * scales).requires_grad_(requires_grad)

    return {name: spread(weight) for name, weight in weights.items()}


def check_samples(samples: Any, count: int, task: Task) -> None:
    """Raise unless the samples have the right shape and range."""
    if samples.shape != (count, task.size) or not 0 <= samples.min() <= samples.max() < task.categories:
        raise ValueError(f"samples have shape {tuple(samples.shape)} and range {samples.min()} to {samples.max()}")


def check(adapter: Adapter, model: Any, task: Task) -> str:
    """Raise unless the model is a normalised distribution over the task's variables, with a gradient.

    All variables summed out must give one; one variable summed out must give the sum over its values, for several
    variables; weights per state that are all alike must give the same as shared weights. Every second variable is
    summed out meanwhile, because some engines are wrong about very small probabilities: that is returned as a caveat.
    """
    values = torch.randint(task.categories, (1, task.size))
    everything = torch.ones(1, task.size, dtype=torch.bool)
    half = everything & (torch.arange(task.size) % 2 == 1)
    caveat = ""
    with torch.no_grad():
        expect("log of the total", adapter.log_evidence(model, adapter.evidence(values, everything)).item(), 0.0)
        for variable in range(0, task.size, 2 * math.ceil(task.size / 8)):
            expect(
                f"log marginal without variable {variable}", *marginals(adapter, model, task, values, half, variable)
            )
        try:
            expect("log marginal without variable 0 alone", *marginals(adapter, model, task, values, ~everything, 0))
        except ValueError as error:
            caveat = f"wrong about small probabilities: {error}"
        weights = adapter.parameters(model)
        alike = {name: torch.stack([weight] * 2) for name, weight in weights.items()}
        own = adapter.own_log_prob(model, alike, values.repeat(2, 1))
        expect("log probability with weights per state", own[1].item(), adapter.log_prob(model, values).item())
    adapter.log_prob(model, values).sum().backward()
    gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
    if not gradients or not all(gradient.isfinite().all() for gradient in gradients):
        raise ValueError("the gradient is missing or not finite")
    return caveat


def expect(what: str, found: float, wanted: float) -> None:
    """Raise unless two numbers agree as far as single precision allows."""
    if not abs(found - wanted) <= 1e-4 + 2e-5 * abs(wanted):
        raise ValueError(f"{what} is {found:.6g}, but it should be {wanted:.6g}")


def marginals(
    adapter: Adapter, model: Any, task: Task, values: Tensor, hidden: Tensor, variable: int
) -> tuple[float, float]:
    """Return the log probability with one more variable summed out: as the engine says, and by adding up."""
    completions = values.repeat(task.categories, 1)
    completions[:, variable] = torch.arange(task.categories)
    if hidden.any():
        parts = adapter.log_evidence(model, adapter.evidence(completions, hidden.expand(task.categories, -1)))
    else:
        parts = adapter.log_prob(model, completions)
    hidden = hidden.clone()
    hidden[0, variable] = True
    return adapter.log_evidence(model, adapter.evidence(values, hidden)).item(), torch.logsumexp(parts, 0).item()
