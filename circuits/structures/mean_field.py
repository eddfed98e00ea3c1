"""Mean field: all variables independent."""

from collections.abc import Sequence

from circuits.circuit import Circuit, CircuitBuilder


def mean_field(cardinalities: Sequence[int]) -> Circuit:
    """Return a product of one categorical per variable.

    Args:
        cardinalities: number of values of each variable.

    Returns:
        A deterministic circuit with `sum of cardinalities above 1` parameters.
    """
    builder = CircuitBuilder(cardinalities, name="mean_field")
    return builder.build(builder.product(*(builder.input(v) for v in range(len(builder.cardinalities)))))
