"""Upper bounds: of the maximum and of log Z."""

from factor_q.approximate.bounds.mini_bucket import UpperBound, mini_bucket_maximum, weighted_mini_bucket
from factor_q.approximate.bounds.tree_reweighted import TreeReweighted, tree_reweighted

__all__ = ["TreeReweighted", "UpperBound", "mini_bucket_maximum", "tree_reweighted", "weighted_mini_bucket"]
