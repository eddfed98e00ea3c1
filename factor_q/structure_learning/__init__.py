"""Which factors a Q-function needs, learned from data; which order and tree suit them."""

from factor_q.structure_learning.order import agent_order, chow_liu_parents, order_cost
from factor_q.structure_learning.rescope import coupling, rescope, rescope_critic
from factor_q.structure_learning.scores import interaction_scores
from factor_q.structure_learning.search import LearnedStructure, learn_factor_graph

__all__ = [
    "LearnedStructure",
    "agent_order",
    "chow_liu_parents",
    "coupling",
    "interaction_scores",
    "learn_factor_graph",
    "order_cost",
    "rescope",
    "rescope_critic",
]
