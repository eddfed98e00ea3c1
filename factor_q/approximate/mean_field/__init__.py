"""Lower bounds: variables, or blocks of them, made independent."""

from factor_q.approximate.mean_field.mean_field import MeanField, mean_field, structured_mean_field

__all__ = ["MeanField", "mean_field", "structured_mean_field"]
