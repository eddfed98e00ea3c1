"""Sum-product networks (probabilistic circuits) over discrete variables: exact, batched, differentiable.

A `Circuit` is structure, a tensor of logits is its numbers, and `CircuitDistribution` puts the two together:

>>> import torch, circuits
>>> c = circuits.structures.keep_set([2, 2, 2], labels=4)
>>> pi = circuits.CircuitDistribution(c, torch.zeros(c.num_parameters))
>>> round(pi.entropy().item(), 4)
2.0794
"""

from circuits import learning, operations, structures
from circuits.circuit import Circuit, CircuitBuilder
from circuits.distribution import CircuitDistribution
from circuits.draw import draw, draw_table
from circuits.errors import (
    CircuitError,
    EvidenceError,
    FormatError,
    ImpossibleEvidenceError,
    NotTractableError,
    StructureError,
)
from circuits.evidence import Evidence
from circuits.formats import load, load_psdd, save, save_psdd
from circuits.nodes import Input, Product, Sum
from circuits.queries.mode import Best

__all__ = [
    "Best",
    "Circuit",
    "CircuitBuilder",
    "CircuitDistribution",
    "CircuitError",
    "Evidence",
    "EvidenceError",
    "FormatError",
    "ImpossibleEvidenceError",
    "Input",
    "NotTractableError",
    "Product",
    "StructureError",
    "Sum",
    "draw",
    "draw_table",
    "learning",
    "load",
    "load_psdd",
    "operations",
    "save",
    "save_psdd",
    "structures",
]
