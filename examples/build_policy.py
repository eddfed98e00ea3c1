"""Build a joint policy three ways: a ready structure, a circuit by hand, and a network that gives each state its own.

Run it with `python examples/build_policy.py`.
"""

import torch

import circuits
import spnpolicy

# 1. A ready structure: four agents in a ring with three actions each; neighbours interact.
ring = [(0, 1), (1, 2), (2, 3), (0, 3)]
structure = circuits.structures.keep_set([3, 3, 3, 3], ring, labels=9)
print(structure)
pi = circuits.CircuitDistribution(structure, torch.zeros(structure.num_parameters))
print(f"uniform at first: entropy {pi.entropy():.4f} nats = 4 ln 3\n")

# 2. By hand: two agents who either both go (action 1) or both wait (action 0), and go three times out of four.
builder = circuits.CircuitBuilder([2, 2])
together = [builder.product(builder.input(0, [action]), builder.input(1, [action])) for action in (0, 1)]
root = builder.sum(*together)
pact = circuits.CircuitDistribution(builder.build(root), torch.tensor([0.25, 0.75]).log())
for joint in pact.enumerate_support():
    print(f"P{tuple(joint.tolist())} = {pact.log_prob(joint).exp():.2f}")
print(f"they are perfectly coordinated: total correlation {pact.total_correlation():.4f} nats = H(1/4, 3/4)\n")

# 3. One policy per state: a network whose output is a batch of distributions on the same structure.
torch.manual_seed(0)
policy = spnpolicy.SPNPolicy(structure, observation_size=8)
states = torch.randn(1000, 8)
batch = policy(states)
print(
    f"a batch of {batch.batch_shape[0]} joint policies; exact entropies from "
    f"{batch.entropy().min():.4f} to {batch.entropy().max():.4f} nats"
)
print(f"sampled joint actions: {tuple(batch.sample().shape)}")
