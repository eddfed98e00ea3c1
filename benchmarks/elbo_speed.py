"""Time the exact ELBO with its gradient, and one decision of a trained policy, against the memory floor.

    python benchmarks/elbo_speed.py            # 6 agents, 6 actions, 15 pairs, 36 labels: about 10 seconds
    python benchmarks/elbo_speed.py --agents 12 --batch 64

The floor is what no implementation can beat while every state has weights of its own: each logit is read once forward
and once backward and its gradient is written once, at the bandwidth of a large copy, plus one exponential per logit.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from itertools import combinations

import torch

import circuits
import factor_q
import spnpolicy


def milliseconds(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median and the best time of one call, in wall milliseconds, after a warm-up."""
    for _ in range(max(3, repeats // 10)):
        run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), min(times)


def floor(num_logits: int, repeats: int) -> tuple[float, float]:
    """Return the floor in milliseconds and the measured copy bandwidth in GB/s."""
    source = torch.randn(1 << 24)
    copy = milliseconds(lambda: source.clone(), 10)[1]
    bandwidth = 2 * source.numel() * 4 / (copy * 1e6)
    logits = torch.randn(num_logits)
    result = torch.empty_like(logits)
    exponential = milliseconds(lambda: torch.exp(logits, out=result), repeats)[1]
    return 3 * num_logits * 4 / (bandwidth * 1e6) + exponential, bandwidth


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=6, help="number of agents")
    parser.add_argument("--actions", type=int, default=6, help="actions of each agent")
    parser.add_argument("--labels", type=int, default=36, help="most labels per region of the keep_set circuit")
    parser.add_argument("--batch", type=int, default=256, help="states in a batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--repeats", type=int, default=100, help="timed calls; the median and the best are printed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cardinalities = [options.actions] * options.agents
    graph = factor_q.FactorGraph(cardinalities, list(combinations(range(options.agents), 2)))
    circuit = circuits.structures.keep_set(cardinalities, graph.scopes, labels=options.labels)
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} thread(s), float32")
    print(circuit)

    logits = torch.randn(options.batch, circuit.num_parameters, requires_grad=True)
    tables = torch.randn(options.batch, graph.num_entries, requires_grad=True)

    def objective() -> torch.Tensor:
        pi = circuits.CircuitDistribution(circuit, logits)
        return spnpolicy.elbo(pi, factor_q.Factors.from_flat(graph, tables), 0.1).mean()

    def with_gradient() -> None:
        logits.grad = tables.grad = None
        objective().backward()

    limit, bandwidth = floor(logits.numel(), options.repeats)
    forward = milliseconds(objective, options.repeats)
    both = milliseconds(with_gradient, options.repeats)
    print(f"\n{options.batch} states, {graph.num_factors} pair tables, {logits.numel():,} logits, median (best):")
    print(f"  exact ELBO, forward             {forward[0]:8.2f} ms ({forward[1]:.2f})")
    print(f"  exact ELBO, forward + backward  {both[0]:8.2f} ms ({both[1]:.2f})")
    print(f"  floor of the logits alone       {limit:8.2f} ms (copy {bandwidth:.0f} GB/s + one exp per logit)")
    print(f"  ratio to the floor              {both[0] / limit:8.1f}")

    policy = spnpolicy.SPNPolicy(circuit, observation_size=64)
    state = torch.randn(64)

    def decide() -> torch.Tensor:
        with torch.no_grad():
            return policy(state).condition({0: 0}).sample()

    decision = milliseconds(decide, 5 * options.repeats)
    print(f"\none state: policy network, condition on one agent and sample: {decision[0]:.2f} ms ({decision[1]:.2f})")


if __name__ == "__main__":
    main()
