"""Algorithms by name. To add one: its own file, a line in `ALGORITHMS`, a row in the contract tests.

The module of an algorithm holds the class named here and a frozen dataclass `Config` (or, of an algorithm NAME in a
file with others, `NAMEConfig`) with at least the field `discount`. Nothing is imported before it is asked for: listing
algorithms must not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spnpolicy.base.decoding import decode, unknown_name
from spnpolicy.base.errors import ConfigError

if TYPE_CHECKING:
    from spnpolicy.base.seeding import Streams
    from spnpolicy.data.env import EnvSpec
    from spnpolicy.data.protocol import Algorithm

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
    reward: Literal["common", "individual"]
    """"common": it learns from one reward of the whole team; "individual": from each agent's own."""
    actions: Literal["discrete"] = "discrete"
    """What kind of actions it chooses among."""
    has_joint_policy: bool = False
    """It has a method `policy_at`, whose distribution over joint actions can be asked anything."""


_ALONE = "each agent's own observation"
_STATE = "all observations in one place"
_GRAPH = "all observations in one place, or messages along the graph"

ALGORITHMS: dict[str, Entry] = {
    "spn_ac": Entry(
        "spnpolicy.algorithms.spn_ac:SPNActorCritic", "joint circuit policy trained on the exact ELBO",
        "maximum-entropy actor-critic", _STATE, "Vora; Shih and Ermon 2020", "common", has_joint_policy=True,
    ),
    "mean_field": Entry(
        "spnpolicy.algorithms.mean_field:MeanField", "the same with independent agents",
        "maximum-entropy actor-critic", _STATE, "Vora; Jordan et al. 1999", "common", has_joint_policy=True,
    ),
    "reinforce_vi": Entry(
        "spnpolicy.algorithms.reinforce_vi:ReinforceVI", "the circuit policy of spn_ac, trained on sampled gradients",
        "maximum-entropy actor-critic", _STATE, "Vora; Williams 1992; Kool et al. 2019", "common",
        has_joint_policy=True,
    ),
    "iql": Entry(
        "spnpolicy.algorithms.iql:IQL", "every agent learns action values of its own",
        "value-based, independent", _ALONE, "Tan 1993; Tampuu et al. 2017", "individual",
    ),
    "vdn": Entry(
        "spnpolicy.algorithms.iql:VDN", "the joint action value is the sum of the agents' values",
        "value-based, decomposed", _ALONE, "Sunehag et al. 2018", "common",
    ),
    "qmix": Entry(
        "spnpolicy.algorithms.qmix:QMIX", "the joint action value is a monotonic mix of the agents' values",
        "value-based, decomposed", _ALONE, "Rashid et al. 2018", "common",
    ),
    "qtran": Entry(
        "spnpolicy.algorithms.qtran:QTRAN", "agents' values that agree with a free joint value where it is best",
        "value-based, decomposed", _ALONE, "Son et al. 2019", "common",
    ),
    "reinforce": Entry(
        "spnpolicy.algorithms.reinforce:Reinforce", "every agent raises what was followed by a high return",
        "policy gradient, independent", _ALONE, "Williams 1992", "individual",
    ),
    "ia2c": Entry(
        "spnpolicy.algorithms.a2c:IA2C", "actor-critic per agent, with a critic of its own observations",
        "policy gradient, independent", _ALONE, "Mnih et al. 2016; Papoudakis et al. 2021", "individual",
    ),
    "maa2c": Entry(
        "spnpolicy.algorithms.a2c:MAA2C", "actor-critic per agent, with critics that see the state",
        "policy gradient, centralised critic", _ALONE, "Papoudakis et al. 2021", "individual",
    ),
    "ippo": Entry(
        "spnpolicy.algorithms.ppo:IPPO", "clipped policy steps per agent, with a critic of its own observations",
        "policy gradient, independent", _ALONE, "Schulman et al. 2017; de Witt et al. 2020", "individual",
    ),
    "mappo": Entry(
        "spnpolicy.algorithms.ppo:MAPPO", "clipped policy steps per agent, with critics that see the state",
        "policy gradient, centralised critic", _ALONE, "Yu et al. 2022", "individual",
    ),
    "coma": Entry(
        "spnpolicy.algorithms.coma:COMA", "each action is compared with what the agent would do on average",
        "policy gradient, centralised critic", _ALONE, "Foerster et al. 2018", "common",
    ),
    "pareto_ac": Entry(
        "spnpolicy.algorithms.pareto_ac:ParetoAC", "actor-critic that trusts the others to do their best",
        "policy gradient, centralised critic", _ALONE, "Christianos et al. 2022", "individual",
    ),
    "central_q": Entry(
        "spnpolicy.algorithms.central_q:CentralQ", "one learner of joint action values, up to 100,000 joint actions",
        "value-based, joint", _STATE, "Mnih et al. 2015; Claus and Boutilier 1998", "common",
    ),
    "central_a2c": Entry(
        "spnpolicy.algorithms.central_a2c:CentralA2C", "one actor-critic over all joint actions, up to 100,000",
        "policy gradient, joint", _STATE, "Mnih et al. 2016; Claus and Boutilier 1998", "common",
    ),
    "coordinated": Entry(
        "spnpolicy.algorithms.coordinated:Coordinated", "factors on a graph, maximised exactly by elimination",
        "value-based, coordination graph", _GRAPH, "Guestrin, Lagoudakis and Parr 2002", "common",
    ),
    "dcg": Entry(
        "spnpolicy.algorithms.dcg:DCG", "deep factors on a graph, maximised approximately by max-plus",
        "value-based, coordination graph", _GRAPH, "Boehmer, Kurin and Whiteson 2020", "common",
    ),
    "rbm": Entry(
        "spnpolicy.algorithms.rbm:RBM", "joint values are free energies of a Boltzmann machine; Gibbs sampling",
        "value-based, large action sets", _STATE, "Sallans and Hinton 2000", "common",
    ),
    "wolpertinger": Entry(
        "spnpolicy.algorithms.wolpertinger:Wolpertinger", "a proposed point in action space, then the best neighbour",
        "deterministic policy gradient, large action sets", _STATE, "Dulac-Arnold et al. 2015", "common",
    ),
    "aql": Entry(
        "spnpolicy.algorithms.aql:AQL", "the best of sampled joint actions, from a learned proposal",
        "value-based, large action sets", _STATE, "Van de Wiele et al. 2020", "common",
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
    module, _, attribute = _entry(name).target.partition(":")
    home = import_module(module)
    # Two algorithms of one file share a Config, or each has one named after it where their defaults differ.
    return getattr(home, f"{attribute}Config", None) or home.Config


def make_algorithm(name: str, spec: "EnvSpec", streams: "Streams", **overrides: Any) -> "Algorithm":
    """Build an algorithm by name.

    Args:
        name: one of `ALGORITHMS`.
        spec: sizes of the environment.
        streams: source of all its randomness.
        overrides: fields of its Config that differ from the defaults; a nested field as a dict.

    Raises:
        ConfigError: unknown name or field (the message names the nearest one), wrong type or range; or an algorithm
            that cannot do with the environment's kind of actions or of rewards.

    Example:
        make_algorithm("vdn", env.spec, Streams(0), network={"hidden": (64,)}, exploration={"end": 0.1})
    """
    config = decode(config_class(name), overrides, path=name)
    _require_fit(name, spec)
    return algorithm_class(name)(config, spec, streams)


def _require_fit(name: str, spec: "EnvSpec") -> None:
    entry = _entry(name)
    if spec.actions != entry.actions:
        raise ConfigError(f"{name} chooses among {entry.actions} actions, but the environment's are {spec.actions}.")
    if entry.reward == "common" and spec.reward == "individual" and spec.num_agents > 1:
        raise ConfigError(
            f"{name} learns from one reward of the whole team, but here every agent has its own. Set train.team_reward "
            "(--team-reward true) to learn from their mean, or take an algorithm for each agent's own, such as ippo."
        )


def _entry(name: str) -> Entry:
    if name not in ALGORITHMS:
        raise ConfigError(unknown_name("algorithm", name, ALGORITHMS))
    return ALGORITHMS[name]
