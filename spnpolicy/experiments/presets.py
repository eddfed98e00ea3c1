"""Benchmark presets: everything that defines a comparison, except what the command line overrides."""

from dataclasses import dataclass, field
from typing import Any

from spnpolicy.training.config import Curriculum, TrainConfig

FACTORED = ("iql", "vdn", "qmix", "ippo", "mappo")
"""Who decides for every agent alone."""
JOINT = ("spn_ac", "mean_field", "reinforce_vi", "coordinated", "dcg")
"""Who values or decides for all agents together, and still answers where joint actions are too many to list."""

SHARED: dict[str, Any] = {
    "network": {"kind": "exchangeable", "hidden": [64], "rounds": 2, "features": {"frequencies": 0}},
    "max_gradient_norm": 1.0,
    # Fresh rollouts, every step in two gradient steps of 256 steps each.
    "rollout": 16, "passes": 2, "minibatch": 256, "epochs": 2, "minibatches": 4,
    "trace": 0.6,
}  # fmt: skip
"""Networks and data of all algorithms."""
DESCENT: dict[str, Any] = {"learning_rate": 3e-3, "method": "muon", "final": 0.02, "falls_after": 0.1}
"""How all networks learn; on 10x10, with a step size that fell over the second half only, nothing got better until
then."""

_SOFT: dict[str, Any] = {
    "plays_by": "target", "target": {"rate": 0.02}, "entropy_counts": "where_it_bootstraps", "value_bounds": False,
    "temperature": {"initial": 0.2, "falls_with": "evidence", "start": 0.9, "end": 0.2, "share": 1.0},
}  # fmt: skip
_LEARNED: dict[str, Any] = {**_SOFT, "potentials": "residual", "shares_encoder": True}
_GREEDY: dict[str, Any] = {"target": {"rate": 0.02}}
OWN: dict[str, dict[str, Any]] = {
    # All pairs of six agents are narrow enough for the policy that is optimal for the critic's tables.
    "spn_ac": {**_SOFT, "solver": "exact"},
    **dict.fromkeys(("mean_field", "reinforce_vi"), _LEARNED),
    **dict.fromkeys(("iql", "vdn", "qmix", "coordinated", "dcg", "central_q"), _GREEDY),
}
"""What the settings of a kind of algorithm need: soft policies a temperature, greedy ones a slow target."""


@dataclass(frozen=True)
class Preset:
    """One task and one budget, the same for every algorithm."""

    description: str
    """One line for lists."""
    env_options: dict[str, Any]
    """Options of the environment."""
    train: TrainConfig
    """Length, data and discount; the seed is counted up from the one here."""
    env: str = "coverage"
    """Name of the environment."""
    curriculum: Curriculum = field(default_factory=Curriculum)
    """Easier stages that all algorithms begin with."""
    seeds: int = 3
    """Runs per algorithm."""
    algorithms: tuple[str, ...] = ("spn_ac", "mean_field", "vdn", "iql")
    """Who is compared."""
    algorithm_options: dict[str, Any] = field(default_factory=lambda: SHARED)
    """Settings that all algorithms share: each takes those that it has."""
    descent: dict[str, Any] = field(default_factory=lambda: DESCENT)
    """How every actor and every critic descends."""
    step_sizes: dict[str, float] = field(default_factory=dict)
    """Of single algorithms, where the shared one is not the best of the grid that all are given."""
    own_options: dict[str, dict[str, Any]] = field(default_factory=lambda: OWN)
    """Settings of single algorithms, by name; they come on top of the shared ones."""
    evaluation_episodes: int = 1_000
    """Episodes of the final evaluation of each run, on layouts that all runs share."""


_LARGE: dict[str, float] = dict.fromkeys(("spn_ac", "reinforce_vi", "coordinated", "dcg"), 1e-3)
"""Step sizes on boards of 8x8 and more: the best on 10x10, in one run of each, the next lower and the next higher one
of 3e-4, 1e-3, 3e-3 and 1e-2 tried as well."""
_EVERYBODY = (*JOINT[:3], *FACTORED, *JOINT[3:])

COVERAGE: dict[str, Preset] = {
    "quick": Preset(
        "5x5 grid, 3 agents, 4 algorithms with 3 seeds: minutes on two cores",
        env_options={"size": 5, "agents": 3, "variant": "latch"},
        # The best of 3e-4, 1e-3, 3e-3 and 1e-2 for each, in one run.
        step_sizes={**dict.fromkeys(("mean_field", "vdn", "qmix", "ippo", "mappo"), 1e-2), "central_q": 1e-3},
        train=TrainConfig(
            steps=200_000, discount=0.95, num_envs=64,
            evaluate_every=20_000, checkpoint_every=100_000, log_every=10_000,
        ),
    ),
    "standard": Preset(
        "10x10 grid, 4 agents, 10 algorithms with 5 seeds: two hours on two cores",
        env_options={"size": 10, "agents": 4, "variant": "latch"},
        curriculum=Curriculum(({"size": 5}, {"size": 7})),
        step_sizes=_LARGE,
        train=TrainConfig(
            steps=600_000, discount=0.95, num_envs=64,
            evaluate_every=100_000, checkpoint_every=200_000, log_every=50_000,
        ),
        seeds=5,
        algorithms=_EVERYBODY,
    ),
    "paper": Preset(
        "20x20 grid, 6 agents, 6 goals, 200 steps, 10 algorithms with 3 seeds: six hours on two cores",
        env_options={"size": 20, "agents": 6, "goals": 6, "variant": "latch", "episode_limit": 200},
        curriculum=Curriculum(({"size": 5}, {"size": 6}, {"size": 8}, {"size": 11}, {"size": 15})),
        # With 3e-3 these two forget on this board all that they learned on the smaller ones.
        step_sizes={**_LARGE, "iql": 1e-3, "mean_field": 1e-3},
        train=TrainConfig(
            steps=2_000_000, discount=0.95, num_envs=64,
            evaluate_every=200_000, checkpoint_every=200_000, log_every=50_000,
        ),
        algorithms=_EVERYBODY,
    ),
    "breakdowns": Preset(
        "20x20 grid, 6 agents for 3 goals, of which up to 3 break down, 6 algorithms with 3 seeds: hours on two cores",
        env_options={
            "size": 20, "agents": 6, "goals": 3, "broken": 3, "variant": "latch", "episode_limit": 200,
        },
        curriculum=Curriculum(({"size": 5}, {"size": 6}, {"size": 8}, {"size": 11}, {"size": 15})),
        step_sizes=_LARGE,
        train=TrainConfig(
            steps=1_000_000, discount=0.95, num_envs=64,
            evaluate_every=200_000, checkpoint_every=200_000, log_every=50_000,
        ),
        algorithms=("spn_ac", "mean_field", "iql", "vdn", "qmix", "mappo"),
    ),
    "simultaneous": Preset(
        "8x8 grid, 3 agents that must be on all goals at once, 11 algorithms with 3 seeds: an hour on two cores",
        env_options={"size": 8, "agents": 3, "variant": "simultaneous"},
        curriculum=Curriculum(({"size": 4}, {"size": 6})),
        # With 3e-3 it never gets past the smallest board.
        step_sizes={**_LARGE, "iql": 1e-3},
        train=TrainConfig(
            steps=600_000, discount=0.95, num_envs=64,
            evaluate_every=100_000, checkpoint_every=200_000, log_every=50_000,
        ),
        algorithms=(*_EVERYBODY, "central_q"),
    ),
}  # fmt: skip
"""Presets of `spnpolicy benchmark coverage` by name."""
