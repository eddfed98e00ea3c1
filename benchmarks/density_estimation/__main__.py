"""Compare learners by the log-likelihood of held-out rows, on data whose true distribution is known.

    python -m benchmarks.density_estimation --out benchmarks/results/density_estimation     # minutes on one core
    python -m benchmarks.density_estimation --rows 400 --data topics --methods chow_liu cutset

The data is generated (see data_sets.py: a Bayesian network, an Ising grid, a hidden Markov model, a topic mixture,
a switching chain, a decision tree). It is not the twenty public data sets that papers report on, so its numbers do not
compare with theirs. In exchange the truth is known: `gap` is the mean over test rows of log p_true - log p_learned, an
unbiased estimate of the Kullback-Leibler divergence from the truth to what was learned, in nats per row; 0 is perfect.

Every learner gets the same rows; those that can stop early watch the validation rows, the others do not use them.
Written to --out: results.csv, results.md and results.png.
"""

import argparse
import csv
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks.density_estimation.data_sets import DATA_SETS
from circuits import Circuit, CircuitDistribution, learning, operations, structures

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


@dataclass(frozen=True)
class Task:
    """What a learner gets."""

    cardinalities: list[int]
    train: Tensor
    validation: Tensor
    epochs: int
    seed: int

    @property
    def generator(self) -> torch.Generator:
        """A fresh source of randomness."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def fit_options(self) -> learning.FitOptions:
        """Options of EM."""
        return learning.FitOptions(epochs=self.epochs, smoothing=0.1, tolerance=1e-4, patience=5)


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    data: str
    variables: int
    method: str
    test: float
    """Mean log-likelihood of the test rows, nats per row."""
    gap: float
    """Mean of log p_true - log p_learned over the test rows."""
    gap_error: float
    """Standard error of the gap."""
    parameters: int
    deterministic: bool
    seconds: float


Learned = tuple[Circuit, Tensor]


def independent(task: Task) -> Learned:
    """Independent variables, closed form."""
    circuit = structures.mean_field(task.cardinalities)
    return circuit, learning.maximum_likelihood(circuit, task.train)


def chow_liu(task: Task) -> Learned:
    """Chow-Liu tree, closed form."""
    return learning.chow_liu_tree(task.train, task.cardinalities)


def cutset(task: Task) -> Learned:
    """Cutset network with Chow-Liu leaves by BIC, closed form."""
    return learning.learn_cutset_network(task.train, task.cardinalities)


def split(task: Task) -> Learned:
    """Split and clone from the Chow-Liu tree, stopped by validation, closed form."""
    options = learning.SplitOptions(penalty=0.5, max_parameters=20_000, patience=15)
    growth = learning.grow_structure(task.train, task.cardinalities, validation=task.validation, options=options)
    return growth.circuit, growth.logits


def latent(task: Task) -> Learned:
    """Latent tree (HCLT) with 8 states by EM."""
    circuit, fit = learning.learn_latent_tree(
        task.train,
        task.cardinalities,
        states=8,
        validation=task.validation,
        options=task.fit_options,
        generator=task.generator,
    )
    return circuit, fit.logits


def random_binary(task: Task) -> Learned:
    """Random binary tree (RAT-SPN), 4 sums, 2 repetitions, by EM."""
    circuit = structures.random_binary(task.cardinalities, sums=4, repetitions=2, seed=task.seed)
    return circuit, _em(task, circuit)


def tree_mixture(task: Task) -> Learned:
    """Mixture of 8 Chow-Liu trees of one shape by EM."""
    parents = learning.chow_liu(task.train, task.cardinalities)
    circuit = operations.mixture(*(structures.tree(task.cardinalities, parents) for _ in range(8)))
    return circuit, _em(task, circuit)


def _em(task: Task, circuit: Circuit) -> Tensor:
    fit = learning.expectation_maximization(
        circuit, task.train, validation=task.validation, options=task.fit_options, generator=task.generator
    )
    return fit.logits


METHODS: dict[str, Callable[[Task], Learned]] = {
    "independent": independent,
    "chow_liu": chow_liu,
    "cutset": cutset,
    "split": split,
    "latent_tree": latent,
    "tree_mixture": tree_mixture,
    "random_binary": random_binary,
}


def measure(name: str, methods: list[str], options: argparse.Namespace, advance: Callable[[str], None]) -> list[Result]:
    """Draw one data set and run the learners on it."""
    rng = np.random.default_rng([options.seed, sorted(DATA_SETS).index(name)])
    sample = DATA_SETS[name](rng, 2 * options.rows + options.rows // 4)
    rows, truth = torch.from_numpy(sample.rows).long(), torch.from_numpy(sample.log_prob)
    train, validation, test = rows.split([options.rows, options.rows // 4, options.rows])
    task = Task(sample.cardinalities, train, validation, options.epochs, options.seed)
    test_truth = truth[-len(test) :]
    results = [Result(name, rows.shape[1], "truth", float(test_truth.mean()), 0.0, 0.0, 0, False, 0.0)]
    for method in methods:
        start = time.perf_counter()
        circuit, logits = METHODS[method](task)
        seconds = time.perf_counter() - start
        scores = torch.cat([CircuitDistribution(circuit, logits).log_prob(part) for part in test.split(500)])
        gaps = test_truth - scores
        spread = float(gaps.std() / len(gaps) ** 0.5)
        results.append(
            Result(
                name,
                rows.shape[1],
                method,
                float(scores.mean()),
                float(gaps.mean()),
                spread,
                circuit.num_parameters,
                circuit.is_deterministic,
                seconds,
            )
        )
        advance(f"{name:<14} {method:<14} gap {gaps.mean():7.3f} nats  {circuit.num_parameters:>7,} parameters")
    return results


def as_markdown(results: list[Result], options: argparse.Namespace, command: str) -> str:
    """Return the tables as text: gaps at a glance, then everything."""
    names = list(dict.fromkeys(result.data for result in results))
    methods = list(dict.fromkeys(result.method for result in results if result.method != "truth"))
    of = {(result.data, result.method): result for result in results}
    lines = [
        "# Density estimation on generated data",
        "",
        f"`{command}`; {options.rows:,} rows to learn from and to test, {options.rows // 4:,} to validate; "
        f"seed {options.seed}; torch {torch.__version__}, one thread, {platform.machine()}.",
        "",
        "None of these are the public data sets of the literature: all are drawn from known distributions "
        "(benchmarks/density_estimation/data_sets.py).",
        "",
        "Gap to the truth, nats per test row (0 is perfect; smaller is better; the best is bold):",
        "",
        "| data | variables | " + " | ".join(methods) + " |",
        "|---|---|" + "---|" * len(methods),
    ]
    for name in names:
        best = min(of[name, method].gap for method in methods)
        cells = [f"{of[name, method].gap:.3f}" for method in methods]
        cells = [
            f"**{cell}**" if of[name, method].gap == best else cell for method, cell in zip(methods, cells, strict=True)
        ]
        lines.append(f"| {name} | {of[name, 'truth'].variables} | " + " | ".join(cells) + " |")
    lines += ["", "| data | method | test log-likelihood | gap (standard error) | parameters | exact | seconds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for result in results:
        exact = "deterministic" if result.deterministic else ""
        lines.append(
            f"| {result.data} | {result.method} | {result.test:.3f} | {result.gap:.3f} ({result.gap_error:.3f}) "
            f"| {result.parameters:,} | {exact} | {result.seconds:.1f} |"
        )
    lines += ["", *(f"- {method}: {METHODS[method].__doc__}" for method in methods)]
    return "\n".join(lines) + "\n"


def draw(results: list[Result], path: Path) -> None:
    """Draw the gaps: one group of bars per data set, one bar per learner, on a logarithmic scale."""
    names = list(dict.fromkeys(result.data for result in results))
    methods = list(dict.fromkeys(result.method for result in results if result.method != "truth"))
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    width = 0.8 / max(1, len(methods))
    for place, method in enumerate(methods):
        own = [result for result in results if result.method == method]
        positions = np.arange(len(names)) + width * (place - (len(methods) - 1) / 2)
        axes.bar(positions, [max(r.gap, 1e-3) for r in own], width, yerr=[r.gap_error for r in own], label=method)
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("gap to the truth (nats per row)")
    axes.legend(ncols=4, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.density_estimation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows", type=int, default=2_000, help="rows to learn from; as many to test, a quarter to watch"
    )
    parser.add_argument("--epochs", type=int, default=60, help="most epochs of EM")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the learners")
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="which data sets")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="which learners")
    parser.add_argument("--out", type=Path, help="folder for the tables and the picture; printed only when left out")
    options = parser.parse_args(arguments)
    if options.rows < 8:
        parser.error(f"--rows is {options.rows}; at least 8 are needed, a quarter of them to watch.")
    torch.set_num_threads(1)
    console = Console(soft_wrap=True)
    results: list[Result] = []
    with Progress(console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task("learning", total=len(options.data) * len(options.methods))

        def advance(text: str) -> None:
            console.print(text, highlight=False)
            bar.advance(line)

        for name in options.data:
            results += measure(name, options.methods, options, advance)
    command = f"python -m benchmarks.density_estimation --rows {options.rows} --epochs {options.epochs}"
    text = as_markdown(results, options, command)
    print("\n" + text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.md").write_text(text)
        with (options.out / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Result)])
            writer.writeheader()
            writer.writerows(asdict(result) for result in results)
        draw(results, options.out / "results.png")
        print(f"written to {options.out}")


if __name__ == "__main__":
    main()
