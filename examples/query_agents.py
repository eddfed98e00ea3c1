"""Ask a joint policy what only a tractable one can answer: an agent is stuck, a link is lost, is this behaviour odd?

Three robots must leave by two doors, two by one and one by the other. Run it with `python examples/query_agents.py`.
"""

import torch

import circuits
import factor_q
import spnpolicy

DOORS = ("left", "right")

# Each pair of robots prefers different doors; robot 0 is nearer to the left one. Q is a sum of tables.
graph = factor_q.FactorGraph([2, 2, 2], scopes=[(0,), (0, 1), (1, 2), (0, 2)])
apart = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
q = factor_q.Factors(graph, [torch.tensor([0.5, 0.0]), apart, apart, apart])

# The best joint policy for Q at temperature 0.25, exactly: keep_set can hold it, so its ELBO reaches the soft value.
structure = circuits.structures.keep_set([2, 2, 2], graph.scopes, labels=4)
logits = torch.zeros(structure.num_parameters, dtype=torch.float64, requires_grad=True)
q = q.to(dtype=torch.float64)
optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")


def loss() -> torch.Tensor:
    """Return minus the exact ELBO and compute its gradient."""
    optimizer.zero_grad()
    value = -spnpolicy.elbo(circuits.CircuitDistribution(structure, logits), q, 0.25)
    value.backward()
    return value


optimizer.step(loss)
pi = circuits.CircuitDistribution(structure, logits.detach())
gap = 0.25 * q.log_partition(0.25) - spnpolicy.elbo(pi, q, 0.25)
print(f"gap to the best possible soft value: {gap:.1e}")


def show(title: str, distribution: circuits.CircuitDistribution) -> None:
    """Print every robot's marginal probability of the left door."""
    shares = ", ".join(f"robot {i}: {p:.2f}" for i, p in enumerate(distribution.marginals()[:, 0].tolist()))
    print(f"{title:<42} P(left)  {shares}")


show("what does each robot do?", pi)
stuck = pi.condition({0: 1})
show("robot 0 can only use the right door:", stuck)
print(f"  the others should then go {[DOORS[a] for a in stuck.mode[1:].tolist()]}")
print(f"robot 2 does not answer; robots 0 and 1 do: {pi.marginal([0, 1]).round(decimals=2).tolist()}")
for joint in ([0, 1, 1], [1, 1, 1]):
    surprise = -pi.log_prob(torch.tensor(joint)) / pi.entropy()
    print(f"{[DOORS[a] for a in joint]}: {surprise:.1f} times as surprising as usual")
