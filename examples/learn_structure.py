"""Learn from 4,000 joint actions and returns who interacts with whom, and read the best joint action off the result.

Eight sensors stand in a row in an unknown order; neighbours earn a reward for watching the same side, and the returns
are noisy. Run it with `python examples/learn_structure.py`.
"""

import torch

import factor_q

HIDDEN = (3, 0, 6, 5, 1, 7, 2, 4)  # the row; the search does not see it
noise = torch.Generator().manual_seed(0)
cardinalities = [3] * len(HIDDEN)

# The truth: a table for every pair of neighbours, and nothing else.
pairs = list(zip(HIDDEN, HIDDEN[1:], strict=False))
tables = [torch.randn(3, 3, generator=noise) + 2 * torch.eye(3) for _ in pairs]
truth = factor_q.Factors(factor_q.FactorGraph(cardinalities, pairs), tables)

actions = torch.randint(3, (4000, len(HIDDEN)), generator=noise)
returns = truth(actions) + 0.5 * torch.randn(4000, generator=noise)
found = factor_q.learn_factor_graph(cardinalities, actions, returns, max_factors=12, max_order=3)

wanted = {tuple(sorted(pair)) for pair in pairs}
print(f"found {len(found.interactions)} pairs, among them {len(wanted & set(found.interactions))} of {len(wanted)}")
for scope in found.interactions:
    print(f"  {scope}: adds {found.strengths[scope]:.2f} to the variance of the returns")
print(f"variance of the noise: {found.noise_variance:.3f} (truth 0.250)")

row = factor_q.agent_order(factor_q.coupling(found.factors))
print(f"order of the sensors: {row} (truth {min(HIDDEN, HIDDEN[::-1])})")
best, plan = found.factors.max()
print(f"best joint action {plan.tolist()}: predicted {best:.2f}, is {truth(plan):.2f} of {truth.max().value:.2f}")
