"""Multilinear factor-graph Q-functions: exact inference, bounds, and what a circuit can do with them."""

from circuits.errors import EvidenceError, FormatError, ImpossibleEvidenceError, NotTractableError, StructureError
from factor_q import approximate, inference, variational
from factor_q.approximate import (
    gibbs_sample,
    loopy_belief_propagation,
    max_plus,
    mean_field,
    mini_bucket_maximum,
    structured_mean_field,
    tree_reweighted,
    weighted_mini_bucket,
)
from factor_q.circuit_q import CircuitQ
from factor_q.compile import compile
from factor_q.critic import CircuitQCritic, FactorQ
from factor_q.elimination.ordering import elimination_order, elimination_width, largest_table
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.queries import log_partition, max_assignment
from factor_q.structure_learning.order import agent_order, chow_liu_parents, order_cost
from factor_q.structure_learning.rescope import coupling, rescope, rescope_critic
from factor_q.structure_learning.scores import interaction_scores
from factor_q.structure_learning.search import LearnedStructure, learn_factor_graph
from factor_q.topologies import complete, from_networkx, grid, nearest_neighbors, random_pairs, ring
from factor_q.uai import parse_uai, parse_uai_evidence, read_uai, read_uai_evidence, write_uai, write_uai_evidence
from factor_q.variational import VariationalFit, fit_structure, maximize_elbo

__all__ = [
    "CircuitQ",
    "CircuitQCritic",
    "EvidenceError",
    "FactorGraph",
    "FactorQ",
    "Factors",
    "FormatError",
    "ImpossibleEvidenceError",
    "LearnedStructure",
    "NotTractableError",
    "StructureError",
    "VariationalFit",
    "agent_order",
    "approximate",
    "chow_liu_parents",
    "compile",
    "complete",
    "coupling",
    "elimination_order",
    "elimination_width",
    "fit_structure",
    "from_networkx",
    "gibbs_sample",
    "grid",
    "inference",
    "interaction_scores",
    "largest_table",
    "learn_factor_graph",
    "log_partition",
    "loopy_belief_propagation",
    "max_assignment",
    "max_plus",
    "maximize_elbo",
    "mean_field",
    "mini_bucket_maximum",
    "nearest_neighbors",
    "order_cost",
    "parse_uai",
    "parse_uai_evidence",
    "random_pairs",
    "read_uai",
    "read_uai_evidence",
    "rescope",
    "rescope_critic",
    "ring",
    "structured_mean_field",
    "tree_reweighted",
    "variational",
    "weighted_mini_bucket",
    "write_uai",
    "write_uai_evidence",
]
