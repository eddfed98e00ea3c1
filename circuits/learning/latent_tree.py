"""Latent trees from data: the Chow-Liu tree's shape, hidden copies of its variables, weights by EM."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.errors import StructureError
from circuits.learning.chow_liu import chow_liu, pair_counts
from circuits.learning.counts import shares_of
from circuits.learning.data import complete_rows
from circuits.learning.expectation_maximization import expectation_maximization
from circuits.learning.fit import Fit, FitOptions
from circuits.structures.latent_tree import LatentTree, latent_tree_nodes
from circuits.variables import check_cardinalities, value_offsets

_BLUR = 0.6
"""Share of the initial probabilities that is noise, so that states of equal meaning drift apart.

Mean log-likelihood with 8 states on rows of a cutset network, two seeds: with 0.1, -7.97 after 10 epochs and -7.52
after 40; with 0.6, -7.80 and -7.29; with 1, nothing but noise, -7.96 and -7.27.
"""


def learn_latent_tree(
    data: Tensor,
    cardinalities: Sequence[int],
    *,
    states: int = 16,
    weights: Tensor | None = None,
    validation: Tensor | None = None,
    options: FitOptions | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Circuit, Fit]:
    """Fit a hidden Chow-Liu tree: `structures.latent_tree` over the parents of `chow_liu`, with weights by EM.

    EM starts near the Chow-Liu tree itself: each hidden state stands for one value of its variable (or for several,
    when there are more values than states) and transitions are the frequencies of neighbouring values, blurred by
    noise that lets states of one value drift apart.

    Args:
        data: integers, shape (rows, variables).
        cardinalities: number of values of each variable.
        states: values of each hidden copy, at least 1.
        weights: how often each row counts, shape (rows,), at least 0; one each when None.
        validation: rows that are not learned from, shape (rows, variables); the best epoch on them is returned.
        options: of EM; 100 epochs with smoothing 0.1 when None. `initial` replaces the start described above.
        generator: source of the noise and of the order of batches; torch's global one when None.

    Returns:
        The circuit, which is not deterministic unless states is 1, and the `Fit` of `expectation_maximization`.

    Raises:
        EvidenceError: malformed data or weights, or missing values; for those build `structures.latent_tree(...)` and
            call `expectation_maximization`, which takes them.
        StructureError: states below 1, or initial logits of the wrong shape.
    Cost: that of `chow_liu`, and O(variables * states^2) per row and epoch.
    Source: Liu and Van den Broeck 2021, Tractable Regularization of Probabilistic Circuits, section 5.

    Example:
        >>> import torch, circuits
        >>> rows = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]] * 5)  # the third is the parity
        >>> circuit, fit = circuits.learning.learn_latent_tree(rows, [2, 2, 2], states=4)
        >>> circuit.num_parameters
        60
    """
    if states < 1:
        raise StructureError(f"learn_latent_tree states is {states}; it must be at least 1.")
    cards = check_cardinalities(cardinalities)
    way_out = "Drop or fill those rows, or use structures.latent_tree(...) with learning.expectation_maximization(...)."
    values, row_weights = complete_rows(data, cards, "learn_latent_tree", way_out, weights=weights)
    counts = pair_counts(values, cards, row_weights)
    options = options or FitOptions(epochs=100, smoothing=0.1)
    latent = latent_tree_nodes(cards, chow_liu(values, cards, weights=weights, smoothing=0.0), states)
    if options.initial is None:
        options = replace(options, initial=_near_the_tree(latent, counts, states, generator))
    fit = expectation_maximization(
        latent.circuit, data, weights=weights, validation=validation, options=options, generator=generator
    )
    return latent.circuit, fit


def _near_the_tree(
    latent: LatentTree, counts: Tensor, states: int, generator: torch.Generator | None
) -> Float[Tensor, "parameters"]:
    """Return log weights under which hidden copies repeat their variables, with noise."""
    cards = latent.circuit.cardinalities
    offsets = value_offsets(cards)
    logits = torch.zeros(latent.circuit.num_parameters, dtype=torch.float64)
    # Which values each state stands for, (states, k): in turns, whichever is fewer.
    meaning = [((torch.arange(states).unsqueeze(1) - torch.arange(k)) % min(k, states) == 0).double() for k in cards]

    def put(nodes: Sequence[int], table: Tensor) -> None:
        noise = torch.empty(table.shape, dtype=torch.float64).exponential_(generator=generator)
        noise /= noise.sum(1, keepdim=True)
        rows = (1 - _BLUR) * table + _BLUR * noise
        # EM multiplies weights, so one that starts at zero stays there: the smallest number instead.
        for node, row in zip(nodes, rows.clamp_min(torch.finfo(torch.float64).tiny).log(), strict=True):
            where = latent.circuit.parameters_of(node)
            if where.stop > where.start:
                logits[where] = row

    for variable, k in enumerate(cards):
        here = slice(offsets[variable], offsets[variable] + k)
        frequency = counts.diagonal()[here].cpu()
        put(latent.emissions[variable], shares_of(meaning[variable] * frequency))
        if states == 1:
            continue
        parent = latent.parents[variable]
        if parent < 0:
            pairs = frequency.unsqueeze(0)
        else:
            before = slice(offsets[parent], offsets[parent] + cards[parent])
            pairs = meaning[parent] @ counts[before, here].cpu()
        # States of one value share its frequency.
        spread = meaning[variable].T / meaning[variable].sum(0).unsqueeze(1)
        put(latent.transitions[variable], shares_of(pairs @ spread))
    return logits
