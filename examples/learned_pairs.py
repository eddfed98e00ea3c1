"""Let random play say which agents matter to each other, and give the critic and the policy of spn_ac these pairs.

Eight agents with two actions are paid for seven of their 28 pairs. Seven pairs at random, as `num_pairs` takes them,
are mostly others; the search finds the right ones in 2,000 games. Run it with `python examples/learned_pairs.py`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import factor_q
import spnpolicy

torch.set_num_threads(1)  # small networks: more threads only wait for each other
PAIRS = [(0, 3), (3, 6), (5, 6), (1, 5), (1, 7), (2, 7), (2, 4)]  # the truth; the search does not see it
random = np.random.default_rng(0)
table = np.zeros((2,) * 8)
for first, second in PAIRS:
    shape = [2 if agent in (first, second) else 1 for agent in range(8)]
    table = table + random.normal(size=(2, 2)).reshape(shape)

env = spnpolicy.make_env("matrix_game", payoff=table, num_envs=2000)
env.reset(seed=0)
actions = random.integers(2, size=(2000, 8))
returns = env.step(actions).reward.mean(-1) + 0.3 * random.normal(size=2000)
data = torch.from_numpy(actions), torch.from_numpy(returns)
found = factor_q.learn_factor_graph(env.spec.cardinalities, *data, max_factors=12)
for pair, strength in found.strengths.items():
    truth = "paid" if pair in PAIRS else "not paid"
    print(f"{pair} adds {strength:.3f} to the variance of the returns (in truth {truth})")

network = {"network": {"hidden": (32,)}, "critic": {"learning_rate": 1e-2}}
settings = spnpolicy.TrainConfig(steps=6_400, num_envs=32, updates=1, warmup_steps=320, discount=0.0)
joint = torch.cartesian_prod(*[torch.arange(2)] * 8)
for name, option in {"learned": {"pairs": found.interactions}, "random": {"num_pairs": len(found.strengths)}}.items():
    config = spnpolicy.RunConfig("spn_ac", "matrix_game", network | option, {"payoff": table.tolist()}, settings)
    with TemporaryDirectory() as folder:
        spnpolicy.train(config, Path(folder) / "run")
        run = spnpolicy.load_run(Path(folder) / "run", num_envs=1)
    learner: Any = run.algorithm
    with torch.no_grad():
        (q,), _ = learner.critic(torch.tensor(run.env.reset(seed=0).observation))
    values = q(joint.unsqueeze(1)).flatten()
    error = float((values - torch.from_numpy(table).flatten()).square().mean().sqrt())
    print(f"{name} pairs: values of all joint actions are off by {error:.2f} (they spread by {table.std():.2f})")
