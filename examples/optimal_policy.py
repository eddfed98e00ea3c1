"""The optimal joint policy of 20 traffic lights in closed form, for three states of traffic at once, without training.

Each light shows green to north-south or to east-west. Neighbours on a 4 x 5 grid of streets want to agree (a green
wave), and each light has queues of its own. Run it with `python examples/optimal_policy.py`.
"""

import torch

import factor_q

NAMES = ("north-south", "east-west")
streets = factor_q.grid([2] * 20, rows=4, columns=5)
noise = torch.Generator().manual_seed(0)

# One state per row: queues at every light; agreement is worth more when traffic is dense.
density = torch.tensor([0.2, 1.0, 3.0])
queues = torch.randn(3, 20, 2, generator=noise)
wave = torch.eye(2).expand(3, 2, 2) * density[:, None, None]
q = factor_q.Factors(streets, [queues[:, scope[0]] if len(scope) == 1 else wave for scope in streets.scopes])

temperature = 0.5
pi = factor_q.compile(q, temperature)  # exp(Q / temperature) over 2^20 joint actions, exactly
best, plan = q.max()
print(f"circuit: {pi.circuit.num_parameters} parameters, the same for every state")
for row, name in enumerate(("light", "normal", "dense")):
    soft = temperature * q.log_partition(temperature)[row]
    reached = pi.expectation(q)[row] + temperature * pi.entropy()[row]
    print(
        f"{name:>6} traffic: best value {best[row]:6.2f}, soft value {soft:6.2f}, reached {reached:6.2f}, "
        f"entropy {pi.entropy()[row]:5.2f} nats, total correlation {pi.total_correlation()[row]:5.2f}"
    )

# Light 7 is broken and stays on east-west: what should its neighbours do in dense traffic?
broken = pi.condition({7: 1})
for light in (2, 6, 8, 12):
    before, after = pi.marginals()[2, light, 1], broken.marginals()[2, light, 1]
    print(f"light {light:>2}: P({NAMES[1]}) {before:.2f}, when light 7 is stuck there {after:.2f}")
