"""Time how long circuits of about 10,000 nodes take to build, to compile and to be judged deterministic.

python benchmarks/build_speed.py
"""

import argparse
import time
from collections.abc import Callable

from circuits import Circuit, operations, structures

SIX = [6] * 40
BUILDERS: dict[str, Callable[[], Circuit]] = {
    "mean_field": lambda: structures.mean_field([6] * 9_999),
    "markov_chain": lambda: structures.markov_chain(SIX * 14),
    "tree": lambda: structures.tree(SIX * 14, [-1, *((i - 1) // 2 for i in range(1, 560))]),
    "keep_set": lambda: structures.keep_set([6] * 20, labels=36),
    "clique_tree": lambda: structures.clique_tree(SIX * 7, [(i, i + 1) for i in range(279)]),
    "selective": lambda: structures.selective(SIX * 4),
    "decision_diagram": lambda: structures.decision_diagram(SIX * 3),
    "cutset": lambda: structures.cutset(SIX * 3),
    "random_binary": lambda: structures.random_binary(SIX, sums=10),
    "latent_tree": lambda: structures.latent_tree(SIX * 10, states=8),
    "exactly": lambda: operations.exactly([2] * 300, 10),
    "mixture": lambda: operations.mixture(*(structures.markov_chain(SIX) for _ in range(12))),
}


def main() -> None:
    """Measure and print one line per family."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{'family':<18}{'nodes':>9}{'build s':>10}{'compile s':>11}{'proof s':>10}{'total s':>10}")
    for name, build in BUILDERS.items():
        moments = [time.perf_counter()]
        circuit = build()
        moments.append(time.perf_counter())
        _ = circuit.compiled
        moments.append(time.perf_counter())
        _ = circuit.is_deterministic
        moments.append(time.perf_counter())
        steps = [after - before for before, after in zip(moments[:-1], moments[1:], strict=True)]
        print(
            f"{name:<18}{circuit.num_nodes:>9,}{steps[0]:>10.3f}{steps[1]:>11.3f}{steps[2]:>10.3f}{sum(steps):>10.3f}"
        )


if __name__ == "__main__":
    main()
