"""Train a joint policy on a small coverage task and watch it beat its untrained self; about 20 seconds on one core.

Run it with `python examples/train_coverage.py`. The command line does the same and more: `spnpolicy train --help`.
"""

import tempfile
from pathlib import Path

import torch

import spnpolicy

torch.set_num_threads(1)

# Two agents, two goals, 4x4: everyone is paid 1 when both goals are covered. Steps are of one environment each.
config = spnpolicy.RunConfig(
    algorithm="spn_ac",
    env="coverage",
    env_options={"agents": 2, "size": 4},
    algorithm_options={"network": {"hidden": (64, 64)}},
    train=spnpolicy.TrainConfig(steps=100_000, updates=1, evaluate_every=20_000, evaluation_episodes=256),
)
seen: dict[str, float] = {}


def report(progress: spnpolicy.Progress) -> None:
    """Print each new evaluation: the greedy joint policy's discounted return, as a share of the exact optimum."""
    if progress.evaluation is not seen.get("last"):
        seen["last"] = progress.evaluation
        share = progress.evaluation["fraction_of_optimum"]
        print(f"{progress.step:>7} steps: {share:6.1%} of the optimum, {progress.seconds_left:4.0f} s left")


with tempfile.TemporaryDirectory() as folder:
    result = spnpolicy.train(config, Path(folder) / "run", on_progress=report)
    run = spnpolicy.load_run(Path(folder) / "run", num_envs=1)

print(f"at the end: {result.evaluation['fraction_of_optimum']:.1%} of the optimum")
pi = run.algorithm.policy_at(run.env.reset(seed=1))
stuck = pi.condition({0: 0})
print(
    f"P(agent 0 stays) = {pi.marginals()[0, 0, 0]:.3f}; if it must, agent 1 should "
    f"{run.env.action_names[stuck.mode[0, 1]]}"
)
