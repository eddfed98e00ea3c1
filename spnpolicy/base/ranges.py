"""Which numbers a setting may be: declared once, in the annotation of its field, and checked by the decoder.

Lower ends say what makes sense. Upper ends of amounts say what no machine holds or finishes, far above what is of use.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from spnpolicy.base.errors import ConfigError

LARGEST = 2**63 - 1
"""The largest number that arrays and files can hold."""


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, both included, but without `least` itself if it `excludes_least`."""

    least: float
    most: float = math.inf
    excludes_least: bool = False

    def check(self, value: float, path: str) -> None:
        """Raise a ConfigError that names the setting, its value and the rule, unless the value lies in the range."""
        is_enough = value > self.least if self.excludes_least else value >= self.least
        if not (is_enough and value <= self.most):
            raise ConfigError(f"{path} is {value!r:.60}, but must be {self._rule(is_enough)}.")

    def _rule(self, is_enough: bool) -> str:
        least = f"{'above' if self.excludes_least else 'at least'} {self.least:,}"
        most = f"at most {self.most:,}"
        if self.most >= LARGEST:
            return most if is_enough else least
        return f"{least} and {most}" if self.excludes_least else f"between {self.least:,} and {self.most:,}"


Count = Annotated[int, Range(1, LARGEST)]
"""How many or how often, where a large number costs nothing."""
Amount = Annotated[int, Range(0, LARGEST)]
"""The same, or none."""
Repeats = Annotated[int, Range(1, 100_000)]
"""How often something is done that takes time, or how many of something are held at once."""
Width = Annotated[int, Range(1, 16_384)]
"""Units of a layer."""
Share = Annotated[float, Range(0, 1)]
"""A probability, or a part of a whole."""
StepSize = Annotated[float, Range(0, 1, excludes_least=True)]
"""How far one step goes, of what it could."""
Weight = Annotated[float, Range(0, 1_000_000)]
"""What something counts; single precision can still add up so many times its values."""
Positive = Annotated[float, Range(0, excludes_least=True)]
"""A length or a limit."""
