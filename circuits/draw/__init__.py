"""Pictures: of a circuit with its weights and use, and of the marginals that it answers with."""

from circuits.draw.graph import draw
from circuits.draw.table import draw_table

__all__ = ["draw", "draw_table"]
