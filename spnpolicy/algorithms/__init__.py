"""Algorithms by name. To add one: its own file, a line in `ALGORITHMS`, a row in the contract tests.

The module of an algorithm holds the class named here and a frozen dataclass `Config` with at least the field
`discount`. Nothing is imported before it is asked for: listing algorithms must not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from spnpolicy.errors import ConfigError
from spnpolicy.training.decoding import decode, unknown_name

if TYPE_CHECKING:
    from spnpolicy.algorithms.protocol import Algorithm
    from spnpolicy.envs.protocol import EnvSpec
    from spnpolicy.training.seeding import Streams

__all__ = ["ALGORITHMS", "Entry", "algorithm_class", "config_class", "make_algorithm"]


class Entry(NamedTuple):
    """Where an algorithm lives and what it is."""

    target: str
    """Module and class, as "module:class"."""
    description: str
    """One line for lists."""
    family: str
    """What kind of algorithm it is: "value-based", "policy gradient" ..."""
    execution: str
    """What must be known where an action is chosen once training is over."""
    source: str
    """Where it was published."""


_ALONE = "each agent's own observation"
_STATE = "all observations in one place"

ALGORITHMS: dict[str, Entry] = {
    "spn_ac": Entry(
        "spnpolicy.algorithms.spn_ac:SPNActorCritic", "joint circuit policy trained on the exact ELBO",
        "maximum-entropy actor-critic", _STATE, "Vora; Shih and Ermon 2020",
    ),
    "mean_field": Entry(
        "spnpolicy.algorithms.mean_field:MeanField", "the same with independent agents",
        "maximum-entropy actor-critic", _STATE, "Vora; Jordan et al. 1999",
    ),
    "iql": Entry(
        "spnpolicy.algorithms.iql:IQL", "every agent learns action values of its own",
        "value-based, independent", _ALONE, "Tan 1993; Tampuu et al. 2017",
    ),
    "vdn": Entry(
        "spnpolicy.algorithms.vdn:VDN", "the joint action value is the sum of the agents' values",
        "value-based, decomposed", _ALONE, "Sunehag et al. 2018",
    ),
}  # fmt: skip
"""Name -> where it is and what it is."""


def algorithm_class(name: str) -> type[Any]:
    """Import and return the class of an algorithm.

    Raises:
        ConfigError: there is no such algorithm; the message names the nearest one.
    """
    module, _, attribute = _entry(name).target.partition(":")
    return getattr(import_module(module), attribute)


def config_class(name: str) -> type[Any]:
    """Import and return the `Config` dataclass of an algorithm.

    Raises:
        ConfigError: there is no such algorithm; the message names the nearest one.
    """
    return import_module(_entry(name).target.partition(":")[0]).Config


def make_algorithm(name: str, spec: "EnvSpec", streams: "Streams", **overrides: Any) -> "Algorithm":
    """Build an algorithm by name.

    Args:
        name: one of `ALGORITHMS`.
        spec: sizes of the environment.
        streams: source of all its randomness.
        overrides: fields of its Config that differ from the defaults; a nested field as a dict.

    Raises:
        ConfigError: unknown name or field (the message names the nearest one), wrong type or range.

    Example:
        make_algorithm("vdn", env.spec, Streams(0), hidden=(64,), exploration={"end": 0.1})
    """
    config = decode(config_class(name), overrides, path=name)
    return algorithm_class(name)(config, spec, streams)


def _entry(name: str) -> Entry:
    if name not in ALGORITHMS:
        raise ConfigError(unknown_name("algorithm", name, ALGORITHMS))
    return ALGORITHMS[name]
