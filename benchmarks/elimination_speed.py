"""How long exact queries on factor graphs take, in milliseconds: the median of many calls, and the first one.

python benchmarks/elimination_speed.py [--repeats 20] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import factor_q


def measure(name: str, call: Callable[[], object], repeats: int) -> None:
    """Print the first and the median time of a call."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    first, *rest = seconds
    print(f"{name:<72} {1e3 * statistics.median(rest):9.2f} ms   first call {1e3 * first:9.2f} ms", flush=True)


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="calls per row, the first one aside (default: 20)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), float32")
    generator = torch.Generator().manual_seed(0)

    def random_factors(graph: factor_q.FactorGraph, *batch: int) -> factor_q.Factors:
        return factor_q.Factors.from_flat(graph, torch.randn(*batch, graph.num_entries, generator=generator))

    ring = random_factors(factor_q.ring([4] * 30))
    measure("ring of 30 agents, 4 actions: exact maximum", ring.max, options.repeats)
    measure("ring of 30 agents, 4 actions: log-partition", ring.log_partition, options.repeats)
    measure(
        "ring of 30 agents, 4 actions: compile to the optimal circuit", lambda: factor_q.compile(ring), options.repeats
    )
    team = random_factors(factor_q.complete([6] * 6), 256)
    flat = team.flat.requires_grad_()

    def with_gradient() -> None:
        torch.autograd.grad(factor_q.Factors.from_flat(team.graph, flat).log_partition().sum(), flat)

    measure("256 states, 6 agents, 6 actions, 15 pairs: log-partition, gradient", with_gradient, options.repeats)
    measure("256 states, 6 agents, 6 actions, 15 pairs: exact maximum", team.detach().max, options.repeats)


if __name__ == "__main__":
    main()
