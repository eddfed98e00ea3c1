"""Expectation maximisation: for any circuit, also when values are missing."""

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.passes import flows
from circuits.errors import StructureError
from circuits.learning.counts import expected_counts, log_likelihoods, weights_from_counts
from circuits.learning.fit import Fit, FitOptions, Task, run


def expectation_maximization(
    circuit: Circuit,
    data: Tensor,
    *,
    weights: Tensor | None = None,
    validation: Tensor | None = None,
    options: FitOptions | None = None,
    generator: torch.Generator | None = None,
) -> Fit:
    """Fit the weights of any circuit to data, also with missing values.

    Each update sets every weight to its share of the expected counts given the data,
    w_e = (E[count_e] + smoothing / fan-in) / (E[count_sum] + smoothing).
    With one batch and a full step the log-likelihood never decreases (with smoothing: log-likelihood plus log prior).
    Batches move running counts by `step_size`: faster with many rows, but not monotone.

    Args:
        circuit: any circuit.
        data: integers, shape (rows, variables); -1 where a value is missing (at random).
        weights: how often each row counts, shape (rows,), at least 0; one each when None.
        validation: rows that are not learned from, shape (rows, variables); the best epoch on them is returned.
        options: see `FitOptions`.
        generator: source of the initial weights and of the order of batches; torch's global one when None.

    Returns:
        A `Fit`: logits in float64 and the mean log-likelihood of every epoch.

    Raises:
        EvidenceError: malformed data or weights.
        ImpossibleEvidenceError: rows have probability zero; the message names them.
        StructureError: initial logits of the wrong shape, or a step size above 1.
    Cost: one upward and one downward pass an epoch, O(edges) per row.
    Source: Dempster, Laird and Rubin 1977; Peharz et al. 2016 (EM for SPNs); Cappe and Moulines 2009 (batches).
    """
    options = options or FitOptions()
    step = options.step_size or (1.0 if options.batch_size is None else 0.1)
    if step > 1:
        raise StructureError(f"step_size is {step}; a step of EM is a share, at most 1.")
    task = Task.of(circuit, data, weights, validation, options)
    compiled, total = circuit.compiled, float(task.weights.sum())
    start = task.start(generator)
    used = flows(compiled, start.exp().unsqueeze(1)).squeeze(1)
    running = start.exp() * compiled.edge_sum.take(used)  # share of rows that use each edge

    def advance(log_weights: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal running
        batches = task.batches(generator)
        scores = None if len(batches) == 1 else log_likelihoods(compiled, log_weights, task.data)
        for rows in batches:
            share = task.weights[rows].sum()
            if not share > 0:
                continue  # nothing to learn from
            counts, per_row = expected_counts(compiled, log_weights, task.data[rows], task.weights[rows])
            running = (1 - step) * running + step * counts / share
            log_weights = weights_from_counts(compiled, running * total, options.smoothing)
            scores = per_row if scores is None else scores
        assert scores is not None
        return log_weights, scores

    return run(task, start, advance)
