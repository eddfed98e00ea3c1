"""What `spnpolicy infer` may spend, and what it finds out."""

import math
from dataclasses import dataclass

ELIMINATION = "variable elimination"


@dataclass(frozen=True)
class Effort:
    """What may be spent, and on what."""

    structure: str | None
    """To be fitted in any case; None fits only where exact inference is refused."""
    labels: int
    max_parameters: int | None
    seconds: float
    seed: int
    max_entries: int


@dataclass(frozen=True)
class LogZ:
    """Nats; lower <= log Z <= upper is certain up to rounding, and `exact` is log Z where it is known."""

    exact: float | None
    lower: float
    upper: float
    method: str
    seconds: float
    """For `exact`, or else for both bounds."""


@dataclass(frozen=True)
class Best:
    """The best assignment found, its value, and a certain upper bound of the maximum, in nats."""

    value: float
    assignment: list[int] | None
    """None where only forbidden ones were seen."""
    upper: float
    is_exact: bool
    method: str


@dataclass(frozen=True)
class Marginals:
    """For each variable the probabilities of its values; None where no distribution was found."""

    values: list[list[float]] | None
    is_exact: bool
    method: str
    largest_error: float | None
    """Largest difference from the exact ones, where these are known and not shown."""


@dataclass(frozen=True)
class Fit:
    """A circuit fitted to the model."""

    structure: str
    """As it was named."""
    circuit: str
    """Name of the circuit that it led to."""
    labels: int
    parameters: int
    steps: int
    converged: bool
    seconds: float
    lower_bound: float
    gap: float | None
    """log Z - lower_bound, below zero by rounding at most; None where log Z is not known."""


@dataclass(frozen=True)
class Answer:
    """Everything; no assignment, marginals and fit when no assignment is possible."""

    log_z: LogZ
    best: Best | None
    marginals: Marginals | None
    fit: Fit | None
    refused: tuple[str, ...] = ()
    """What could not be worked out exactly within the limits."""

    @property
    def is_impossible(self) -> bool:
        """Whether it is proved that every assignment is forbidden."""
        return self.log_z.upper == -math.inf
