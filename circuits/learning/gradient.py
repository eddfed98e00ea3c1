"""Gradient ascent on the log-likelihood, for any circuit."""

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.passes import normalize
from circuits.learning.counts import expected_counts, log_likelihoods
from circuits.learning.fit import Fit, FitOptions, Task, run


def fit_gradient(
    circuit: Circuit,
    data: Tensor,
    *,
    weights: Tensor | None = None,
    validation: Tensor | None = None,
    options: FitOptions | None = None,
    generator: torch.Generator | None = None,
) -> Fit:
    """Fit the weights of any circuit by Adam on its logits, also with missing values.

    `expectation_maximization` needs fewer passes as a rule; this is the yardstick, and follows small batches smoothly.

    Arguments, result and errors are those of `expectation_maximization`, with the same prior; `step_size` is Adam's.

    Cost: one upward and one downward pass per update, and one upward pass an epoch, O(edges) per row.
    """
    options = options or FitOptions()
    task = Task.of(circuit, data, weights, validation, options)
    compiled, total = circuit.compiled, float(task.weights.sum())
    start = task.start(generator)
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=options.step_size or 0.05)
    prior = torch.zeros_like(start)
    for layer in compiled.sum_layers:
        prior[layer.edges] = options.smoothing / (layer.fan_in * total)

    def advance(log_weights: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            scores = log_likelihoods(compiled, log_weights, task.data)
        for rows in task.batches(generator):
            with torch.enable_grad():
                current = normalize(compiled, logits)[0]
            # The gradient to the log weights is the expected counts: no graph over the rows is kept.
            counts, _ = expected_counts(compiled, current.detach(), task.data[rows], task.weights[rows])
            counts /= task.weights[rows].sum().clamp_min(torch.finfo(counts.dtype).tiny)
            optimizer.zero_grad()
            current.backward(-(counts + prior))
            optimizer.step()
        return normalize(compiled, logits.detach())[0], scores

    return run(task, start, advance)
