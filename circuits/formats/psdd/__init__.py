"""The text format of probabilistic sentential decision diagrams, as the UCLA packages write it."""

from circuits.formats.psdd.read import load_psdd
from circuits.formats.psdd.write import psdd_text, save_psdd

__all__ = ["load_psdd", "psdd_text", "save_psdd"]
