"""Named random streams: one seed, one independent generator per purpose."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from spnpolicy.base.errors import ConfigError


def derive_seed(seed: int, name: str, *, bits: int = 63) -> int:
    """Return a number fixed by `seed` and `name` alone, in [0, 2^bits).

    The hash is SHA-256, so neither the process, nor PYTHONHASHSEED, nor any other stream changes it.
    """
    digest = hashlib.sha256(f"spnpolicy:{seed}:{name}".encode()).digest()
    return int.from_bytes(digest, "little") % (1 << bits)


class Streams:
    """Random generators by name, all derived from one seed.

    Each stream depends on (seed, name) only: adding or removing one never shifts another. The same name gives
    the same object every time, so its state advances as it is used and is part of `state_dict`.

    Args:
        seed: 0 or larger.
        replica: number of the process in a run of several; generators of different replicas are independent.

    Example:
        streams = Streams(7)
        streams.numpy("exploration").random()
        torch.rand(3, generator=streams.torch("replay"))
    """

    def __init__(self, seed: int, *, replica: int = 0):
        if seed < 0:
            raise ConfigError(f"seed is {seed}, but must be 0 or larger.")
        self.seed = seed
        # Several processes that train one run together begin alike (`initialization`, `integer`) and then differ.
        self._suffix = f"@{replica}" if replica else ""
        self._prefix = ""
        self._numpy: dict[str, np.random.Generator] = {}
        self._torch: dict[str, torch.Generator] = {}

    def numpy(self, name: str) -> np.random.Generator:
        """Return the NumPy generator called `name`."""
        name = self._prefix + name
        if name not in self._numpy:
            entropy = derive_seed(self.seed, f"numpy:{name}{self._suffix}", bits=128)
            self._numpy[name] = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        return self._numpy[name]

    def torch(self, name: str) -> torch.Generator:
        """Return the torch generator (on the CPU) called `name`."""
        name = self._prefix + name
        if name not in self._torch:
            self._torch[name] = torch.Generator().manual_seed(derive_seed(self.seed, f"torch:{name}{self._suffix}"))
        return self._torch[name]

    def integer(self, name: str) -> int:
        """Return a fixed number in [0, 2^31) called `name`, for code that wants a seed of its own."""
        return derive_seed(self.seed, f"integer:{self._prefix}{name}", bits=31)

    def child(self, name: str) -> "Streams":
        """Return streams for a part, apart from those of all other parts; they are saved with these."""
        part = copy.copy(self)
        part._prefix = f"{self._prefix}{name}/"
        return part

    @contextmanager
    def initialization(self, name: str) -> Iterator[None]:
        """Make the construction of modules inside the block depend on (seed, name) only.

        Modules draw their first weights from torch's global generator. It is seeded for the block and put
        back afterwards, so that code outside notices nothing.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(self.seed, f"initialization:{self._prefix}{name}"))
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return the seed and the state of every stream used so far."""
        return {
            "seed": self.seed,
            "numpy": {name: generator.bit_generator.state for name, generator in self._numpy.items()},
            "torch": {name: generator.get_state() for name, generator in self._torch.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put every saved stream back; generators already handed out continue from there.

        Raises:
            ConfigError: the state belongs to another seed.
        """
        if state["seed"] != self.seed:
            raise ConfigError(f"the saved random streams belong to seed {state['seed']}, not to {self.seed}.")
        for name, numpy_state in state["numpy"].items():
            self.numpy(name).bit_generator.state = numpy_state
        for name, torch_state in state["torch"].items():
            self.torch(name).set_state(torch_state)
