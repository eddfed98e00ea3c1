"""Files: a circuit with its logits in one safe file, and the formats of other systems."""

from circuits.formats.json import load, save
from circuits.formats.psdd.read import load_psdd
from circuits.formats.psdd.write import psdd_text, save_psdd

__all__ = ["load", "load_psdd", "psdd_text", "save", "save_psdd"]
