"""Errors a caller may want to catch. Each message names the thing, the value, the rule and the way out."""


class CircuitError(Exception):
    """Base class of every error that the circuit engine raises on purpose."""


class StructureError(CircuitError, ValueError):
    """A circuit, a factor graph or a structure request breaks a rule of construction."""


class NotTractableError(CircuitError):
    """A query needs a structural property that this circuit lacks, or more memory than allowed."""


class EvidenceError(CircuitError, ValueError):
    """Evidence has the wrong shape, an unknown variable or a value out of range."""


class ImpossibleEvidenceError(CircuitError):
    """The evidence has probability zero, so nothing can be conditioned on it."""


class FormatError(CircuitError, ValueError):
    """A file does not follow its format; the message gives file, line and column."""
