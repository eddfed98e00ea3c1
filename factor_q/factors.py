"""Factors: a factor graph with numbers, and every exact query of it."""

from factor_q import queries
from factor_q.tables import Tables


class Factors(Tables):
    """A batch of functions f(u) = sum of tables, one table per scope of a factor graph.

    All tables live end to end in one tensor `flat` of shape (*batch, num_entries). An entry of -inf forbids
    every assignment that uses it. Iterating yields (scope, table) pairs. The queries are those of `factor_q.queries`,
    as methods: each exact, or refused when too wide.

    Args:
        graph: the scopes.
        tables: one floating tensor (*batch, k_a, k_b, ...) per scope, axes in the order of the scope;
            the leading shapes are broadcast to one batch shape.

    Raises:
        StructureError: a table has the wrong number, shape, dtype or device; the message names its scope.

    Example:
        >>> import torch
        >>> from factor_q import FactorGraph
        >>> graph = FactorGraph([2, 3], scopes=[(0,), (0, 1)])
        >>> f = Factors(graph, [torch.zeros(5, 2), torch.ones(2, 3)])
        >>> f.batch_shape, f(torch.tensor([1, 2])).tolist(), f.max().assignment[0].tolist()
        (torch.Size([5]), [1.0, 1.0, 1.0, 1.0, 1.0], [0, 0])
    """

    condition = queries.condition
    max = queries.max_assignment
    log_partition = queries.log_partition
    marginals = queries.marginals
    marginal = queries.marginal
    max_marginals = queries.max_marginals
    m_best = queries.m_best
    sample = queries.sample
    entropy = queries.entropy
