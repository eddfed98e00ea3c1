"""Multilinear factor-graph Q-functions."""

from circuits.errors import EvidenceError, NotTractableError, StructureError
from factor_q.critic import FactorQ
from factor_q.elimination import log_partition, max_assignment
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.ordering import elimination_order, elimination_width, largest_table
from factor_q.topologies import complete, from_networkx, grid, nearest_neighbors, random_pairs, ring

__all__ = [
    "EvidenceError",
    "FactorGraph",
    "FactorQ",
    "Factors",
    "NotTractableError",
    "StructureError",
    "complete",
    "elimination_order",
    "elimination_width",
    "from_networkx",
    "grid",
    "largest_table",
    "log_partition",
    "max_assignment",
    "nearest_neighbors",
    "random_pairs",
    "ring",
]
