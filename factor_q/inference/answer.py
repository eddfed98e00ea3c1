"""What an inference may spend, how far it is, and what it finds out: frozen records, plain numbers, lists and words."""

import math
from dataclasses import dataclass

from circuits.errors import StructureError
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES
from factor_q.variational import FITTED_STRUCTURES

ELIMINATION = "variable elimination"


@dataclass(frozen=True)
class Effort:
    """What may be spent, and on what.

    Raises:
        StructureError: a number is out of its range, or there is no such structure.
    """

    structure: str | None = None
    """To be fitted in any case, a name of `factor_q.variational.FITTED_STRUCTURES`; None fits "auto", and only where
    exact inference is refused."""
    labels: int = 32
    """Size of what is fitted, as in `factor_q.fit_structure`."""
    max_parameters: int | None = None
    """Most parameters of what is fitted; None sets no limit."""
    seconds: float = 60.0
    """For the fit and all bounds together; exact elimination and the starting point of a fit are not counted."""
    max_entries: int = DEFAULT_MAX_ENTRIES
    """Most table entries, of 8 bytes, that exact elimination may hold at once."""

    def __post_init__(self) -> None:
        if self.structure is not None and self.structure not in FITTED_STRUCTURES:
            raise StructureError(f"Effort: structure is {self.structure!r}; use one of {', '.join(FITTED_STRUCTURES)}.")
        if not 0 < self.seconds < math.inf:
            raise StructureError(f"Effort: seconds is {self.seconds}, but must be positive and finite.")
        for name in ("labels", "max_parameters", "max_entries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StructureError(f"Effort: {name} is {value}, but must be at least 1.")


@dataclass(frozen=True)
class Progress:
    """How far an inference is. The first of every stage is step 0."""

    stage: str
    """What is being worked out."""
    seconds: float | None
    """How long the stage may take; None where that is not known."""
    step: int = 0
    value: float = math.nan
    """The current bound or value in nats, from step 1 on."""


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
class Maximum:
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
    """Everything that was asked; no maximum, marginals and fit when no assignment is possible."""

    log_z: LogZ
    maximum: Maximum | None
    """None as well when it was not asked for, and so are the marginals."""
    marginals: Marginals | None
    fit: Fit | None
    """None when nothing had to be fitted."""
    width: int = 0
    """Most variables that a table depends on when the variables are summed out one by one, given the evidence."""
    largest_table: int = 0
    """Entries of the largest joined table on the way."""
    refused: tuple[str, ...] = ()
    """What could not be worked out exactly within the limits: "log_z", "maximum", "marginals"."""

    @property
    def is_impossible(self) -> bool:
        """Whether it is proved that every assignment is forbidden."""
        return self.log_z.upper == -math.inf
