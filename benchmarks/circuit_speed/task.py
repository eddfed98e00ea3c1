"""The circuit that every engine builds: one random balanced binary region tree, in plain Python."""

import random
from dataclasses import asdict, dataclass
from typing import Any, Self

CATEGORIES = 6
UNITS = {"cp": 16, "tucker": 10}
"""Nodes per region: cp multiplies the i-th nodes of both halves, tucker every node of one with every of the other."""


@dataclass(frozen=True)
class Task:
    """A layer kind and a region tree over categorical variables.

    The tree is complete and binary, so its leaf regions from left to right say all: regions 2j and 2j + 1 of a level
    are the halves of region j above. A leaf region holds `units` products of categoricals, an inner region `units`
    sums over its products, the root one sum.
    """

    layer: str
    leaves: list[list[int]]
    categories: int = CATEGORIES

    @classmethod
    def random(cls, layer: str, size: int, seed: int = 0) -> Self:
        """Halve `size` variables in random order floor(log2 size) times; halves differ by one variable at most."""
        order = list(range(size))
        random.Random(seed).shuffle(order)  # noqa: S311
        leaves = [order]
        while 2 * len(leaves) <= size:
            leaves = [half for part in leaves for half in (part[: len(part) // 2], part[len(part) // 2 :])]
        return cls(layer, leaves)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Return the task that `asdict` wrote."""
        return cls(**record)

    def record(self) -> dict[str, Any]:
        """Return the task as what JSON can carry."""
        return asdict(self)

    @property
    def size(self) -> int:
        """Number of variables."""
        return sum(map(len, self.leaves))

    @property
    def depth(self) -> int:
        """Number of times that the variables are halved."""
        return len(self.leaves).bit_length() - 1

    @property
    def units(self) -> int:
        """Nodes per region."""
        return UNITS[self.layer]

    @property
    def products(self) -> int:
        """Products per inner region."""
        return self.units if self.layer == "cp" else self.units**2

    @property
    def num_parameters(self) -> int:
        """Logits: of the categoricals, of the inner regions' sums, and of the root."""
        inner = len(self.leaves) - 2
        return self.units * (self.size * self.categories + inner * self.products) + self.products

    @property
    def num_edges(self) -> int:
        """Parent-child pairs: under sums, under binary products, and under the leaf regions' products."""
        inner = len(self.leaves) - 1
        return (inner - 1) * self.units * self.products + (1 + 2 * inner) * self.products + self.units * self.size
