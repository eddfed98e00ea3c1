"""Files of the UAI competition: models and evidence."""

from factor_q.uai.evidence import parse_uai_evidence, read_uai_evidence, write_uai_evidence
from factor_q.uai.models import parse_uai, read_uai, write_uai

__all__ = [
    "parse_uai",
    "parse_uai_evidence",
    "read_uai",
    "read_uai_evidence",
    "write_uai",
    "write_uai_evidence",
]
