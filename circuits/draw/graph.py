"""Draw a circuit: its nodes in layers, their weights, and how probable it is that each is used."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuits.circuit import Circuit
from circuits.distribution import CircuitDistribution, check_single
from circuits.draw.boxes import flows_and_weights, node_boxes, region_boxes
from circuits.draw.layout import layered_layout
from circuits.draw.paint import paint
from circuits.draw.style import Labels, save_figure
from circuits.errors import StructureError
from circuits.evidence import EvidenceLike

if TYPE_CHECKING:
    import matplotlib.figure

_MAX_NODES = 200
_MAX_REGIONS = 120


def draw(
    circuit: Circuit | CircuitDistribution,
    *,
    evidence: EvidenceLike | None = None,
    path: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    value_names: Sequence[str] | Sequence[Sequence[str]] | None = None,
) -> "matplotlib.figure.Figure":
    """Draw a circuit, with weights and the probability that each part is used when it has numbers.

    Sums are circles with +, products circles with \N{MULTIPLICATION SIGN}, inputs boxes with a variable and its
    values; the scopes of each layer stand on the left. Lines are as thick as their weight, and lines and nodes as
    dark as the probability that they are used, given the evidence. A circuit of more than 200 nodes is drawn as its
    regions instead: a box per scope, with its numbers of units (what other regions see) and edges, and a cell per
    unit as dark as its use.

    Args:
        circuit: structure only, or a distribution without batch dimensions.
        evidence: what to condition on first; see `Evidence.of`.
        path: where to write the picture, if anywhere; ends in .png, .svg or .pdf.
        names: of the variables; x0, x1, ... when None.
        value_names: one list for all variables, or one per variable; 0, 1, ... when None.

    Returns:
        A matplotlib figure, equal for equal arguments.

    Raises:
        StructureError: a distribution with batch rows, evidence for a circuit without numbers, or wrong names.
        EvidenceError: malformed evidence.
        ImpossibleEvidenceError: the evidence has probability zero.

    Example:
        >>> import torch, circuits
        >>> c = circuits.structures.markov_chain([2, 2])
        >>> pi = circuits.CircuitDistribution(c, torch.zeros(c.num_parameters))
        >>> figure = circuits.draw(pi, evidence={0: 1}, names=["rain", "umbrella"], value_names=["no", "yes"])
    """
    distribution = check_single(circuit, "a picture shows") if isinstance(circuit, CircuitDistribution) else None
    circuit = circuit.circuit if isinstance(circuit, CircuitDistribution) else circuit
    labels = Labels(circuit.cardinalities, names, value_names)
    subtitle = ""
    if evidence is not None:
        if distribution is None:
            raise StructureError("evidence needs probabilities; pass CircuitDistribution(circuit, logits) to draw it.")
        subtitle = f"given {labels.evidence(evidence)}"
        distribution = distribution.condition(evidence)
    numbers = None if distribution is None else flows_and_weights(distribution)
    note = ""
    if circuit.num_nodes <= _MAX_NODES:
        boxes, edges = node_boxes(circuit, numbers, labels)
    else:
        boxes, edges = region_boxes(circuit, numbers, labels, most=_MAX_REGIONS)
        note = f"{circuit.num_nodes:,} nodes are too many to draw, so each box is a region: all nodes of one scope"
    layout = layered_layout([box.size for box in boxes], [(edge.parent, edge.child) for edge in edges])
    titles = [title for title in (_title(circuit), note, subtitle) if title]
    figure = paint(boxes, edges, layout, titles, has_numbers=numbers is not None)
    if path is not None:
        save_figure(figure, path)
    return figure


def _title(circuit: Circuit) -> str:
    counts = (
        (circuit.num_variables, "variable"),
        (circuit.num_nodes, "node"),
        (circuit.num_edges, "edge"),
        (circuit.num_parameters, "parameter"),
    )
    sizes = ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    return f"{circuit.name}: {sizes}"
