"""Benchmark presets: everything that defines a comparison, except what the command line overrides."""

from dataclasses import dataclass, field
from typing import Any

from spnpolicy.training.config import Curriculum, TrainConfig


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
    algorithm_options: dict[str, Any] = field(
        default_factory=lambda: {"network": {"hidden": [64, 64], "features": {"frequencies": 4}}}
    )
    """Settings that all algorithms share: the same networks and the same features."""
    learning_rate: float = 1e-3
    """Step size of every actor and every critic."""
    own_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of single algorithms, by name; they come on top of the shared ones."""
    evaluation_episodes: int = 1_000
    """Episodes of the final evaluation of each run, on layouts that all runs share."""


COVERAGE: dict[str, Preset] = {
    "quick": Preset(
        "5x5 grid, 3 agents, 4 algorithms with 3 seeds: about ten minutes on two cores",
        env_options={"size": 5, "agents": 3, "variant": "latch"},
        train=TrainConfig(
            steps=400_000, discount=0.95, num_envs=64, batch_size=256, updates=1, replay_capacity=100_000,
            evaluate_every=25_000,
            checkpoint_every=100_000, log_every=10_000,
        ),
    ),
    "standard": Preset(
        "10x10 grid, 4 agents, 4 algorithms with 5 seeds: hours on two cores",
        env_options={"size": 10, "agents": 4, "variant": "latch"},
        train=TrainConfig(
            steps=4_000_000, discount=0.95, num_envs=64, batch_size=256, updates=1, replay_capacity=200_000,
            evaluate_every=100_000, checkpoint_every=400_000, log_every=50_000,
        ),
        seeds=5,
        algorithm_options={"network": {"hidden": [64, 64], "features": {"frequencies": 8}}},
    ),
    "paper": Preset(
        "20x20 grid, 6 agents, 6 goals, 200 steps, 4 algorithms with 5 seeds: for a machine with many cores",
        env_options={"size": 20, "agents": 6, "goals": 6, "variant": "latch", "episode_limit": 200},
        train=TrainConfig(
            steps=20_000_000, discount=0.95, num_envs=64, batch_size=256, updates=1, replay_capacity=500_000,
            evaluate_every=500_000, checkpoint_every=1_000_000, log_every=250_000,
        ),
        seeds=5,
        algorithm_options={"network": {"hidden": [128, 128], "features": {"frequencies": 12}}},
        learning_rate=5e-4,
    ),
}  # fmt: skip
"""Presets of `spnpolicy benchmark coverage` by name."""
