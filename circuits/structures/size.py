"""The size of a circuit, known before it is built: nodes of a structure are objects of Python's."""

from decimal import Decimal

from circuits.errors import StructureError

MOST_PARAMETERS = 2**22
"""A circuit of more would take gigabytes while it is built."""


def check_size(structure: str, parameters: float, remedy: str) -> None:
    """Refuse a circuit that would be too large to build.

    Args:
        structure: its name.
        parameters: how many it would have, or nodes where these are more.
        remedy: what makes it smaller, an imperative.

    Raises:
        StructureError: there are more than 2^22.
    """
    if parameters > MOST_PARAMETERS:
        raise StructureError(
            f"{structure} would have about {Decimal(parameters):.3g} parameters or nodes, more than "
            f"{MOST_PARAMETERS:,}; {remedy}."
        )
