"""Other systems' file formats, one file for each way."""

from circuits.formats.psdd.read import load_psdd
from circuits.formats.psdd.write import psdd_text, save_psdd

__all__ = ["load_psdd", "psdd_text", "save_psdd"]
