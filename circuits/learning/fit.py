"""What the iterative learners share: options, result, and the loop with early stopping."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.passes import normalize
from circuits.errors import StructureError
from circuits.learning.counts import check_rows_possible, log_likelihoods
from circuits.learning.data import check_data, check_smoothing, check_weights

_WAY_OUT = "Add smoothing, start from other logits, or drop these rows if the structure forbids them."


@dataclass(frozen=True)
class FitOptions:
    """How an iterative learner runs."""

    epochs: int = 200
    """Most passes over the data."""
    batch_size: int | None = None
    """Rows of one update; all when None."""
    step_size: float | None = None
    """EM: how far the statistics move towards a batch's, in (0, 1]; default 1, and 0.1 with batches.
    Gradient: step size of Adam; default 0.05."""
    smoothing: float = 0.0
    """Rows added to each sum, spread evenly over its children: a Dirichlet prior."""
    tolerance: float = 1e-8
    """Stop when the mean log-likelihood changes by less, in nats per row."""
    patience: int = 10
    """With validation data: stop after this many epochs without a better score."""
    initial: Tensor | None = None
    """Logits to start from, shape (parameters,); drawn at random when None."""
    progress: Callable[[int, float, float | None], None] | None = None
    """Called after each epoch with its number, the mean log-likelihood, and that of the validation data or None."""

    def __post_init__(self) -> None:
        check_smoothing(self.smoothing)
        if self.epochs < 0 or self.patience < 1 or not self.tolerance >= 0:
            raise StructureError(
                f"FitOptions got epochs {self.epochs}, patience {self.patience}, tolerance {self.tolerance}; "
                "epochs and tolerance are at least 0, patience at least 1."
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise StructureError(f"batch_size is {self.batch_size}; it must be at least 1, or None for all rows.")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise StructureError(f"step_size is {self.step_size}; it must be positive.")


@dataclass(frozen=True)
class Fit:
    """The outcome of an iterative learner."""

    logits: Tensor
    """Normalised log weights of the best epoch, float64, shape (parameters,)."""
    log_likelihoods: tuple[float, ...]
    """Mean over rows in nats, after 0, 1, ... epochs."""
    validation_log_likelihoods: tuple[float, ...]
    """The same for the validation data; empty without."""
    best_epoch: int
    """The epoch whose logits are returned: best on the validation data, the last one without."""
    converged: bool
    """Whether the tolerance was reached before the last epoch."""


Advance = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Log weights -> the next log weights, and the log-likelihood of each row under the old ones."""


@dataclass(frozen=True)
class Task:
    """Checked inputs of one run."""

    circuit: Circuit
    data: Tensor
    weights: Tensor
    validation: Tensor | None
    options: FitOptions

    @classmethod
    def of(
        cls, circuit: Circuit, data: Tensor, weights: Tensor | None, validation: Tensor | None, options: FitOptions
    ) -> "Task":
        """Check what a user passed; see `check_data` for the messages."""
        values = check_data(data, circuit.cardinalities)
        if validation is not None:
            validation = check_data(validation, circuit.cardinalities, name="validation")
        return cls(circuit, values, check_weights(weights, values), validation, options)

    def batches(self, generator: torch.Generator | None) -> list[Tensor]:
        """Return the rows of each update of one epoch, shuffled when there are several."""
        size, rows = self.options.batch_size, len(self.data)
        if size is None or size >= rows:
            return [torch.arange(rows, device=self.data.device)]
        return list(torch.randperm(rows, generator=generator).to(self.data.device).split(size))

    def start(self, generator: torch.Generator | None) -> Tensor:
        """Return initial log weights: the given ones, or drawn uniformly from each sum's simplex."""
        count = self.circuit.num_parameters
        if self.options.initial is None:
            draws = torch.empty(count, dtype=torch.float64).exponential_(generator=generator)
            logits = draws.clamp_min(torch.finfo(torch.float64).tiny).log()
        else:
            logits = self.options.initial.detach().to(torch.float64)
            if logits.shape != (count,):
                raise StructureError(f"initial logits have shape {tuple(logits.shape)}; the circuit needs ({count},).")
        return normalize(self.circuit.compiled, logits.to(self.data.device))[0]


def run(task: Task, log_weights: Tensor, advance: Advance) -> Fit:
    """Repeat `advance` until the data, the validation data or the number of epochs says stop."""
    options, compiled = task.options, task.circuit.compiled
    scores: list[float] = []
    held_out: list[float] = []
    best, best_epoch, converged = log_weights, 0, False
    for epoch in range(options.epochs + 1):
        # An update passes over the data under the old weights anyway, so their score comes for free; the last epoch is
        # run for the score only, and what follows it is dropped.
        following, per_row = advance(log_weights)
        check_rows_possible(per_row, task.weights, _WAY_OUT)
        counted = torch.where(task.weights > 0, per_row, 0.0)
        scores.append(float(counted @ task.weights / task.weights.sum()))
        if task.validation is not None:
            with torch.no_grad():
                rows = log_likelihoods(compiled, log_weights, task.validation)
            # Only at the start: a row that later weights rule out is a bad score, not a mistake of the caller.
            if epoch == 0:
                check_rows_possible(rows, torch.ones_like(rows), _WAY_OUT, name="validation")
            held_out.append(float(rows.mean()))
        if not held_out or held_out[-1] >= max(held_out):
            best, best_epoch = log_weights, epoch
        if options.progress is not None:
            options.progress(epoch, scores[-1], held_out[-1] if held_out else None)
        converged = epoch > 0 and abs(scores[-1] - scores[-2]) < options.tolerance
        if converged or epoch - best_epoch >= options.patience:
            break
        log_weights = following
    return Fit(best.detach(), tuple(scores), tuple(held_out), best_epoch, converged)
