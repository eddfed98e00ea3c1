"""Make rliable_reference.json: what the published rliable 1.2.0 computes from a fixed matrix of scores.

Its dependency `arch` does not import beside pandas 3, so it gets an environment of its own:

    python3 -m venv /tmp/rliable && /tmp/rliable/bin/pip install "rliable==1.2.0" "pandas<3"
    /tmp/rliable/bin/python tests/spnpolicy/experiments/statistics/make_rliable_reference.py

The tests only read the file; they need no rliable.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rliable import library, metrics

PACKAGES = ("rliable", "arch", "numpy", "scipy", "pandas")
REPETITIONS = 50_000
THRESHOLDS = np.linspace(0.0, 1.0, 11)
AGGREGATES = {
    "iqm": metrics.aggregate_iqm,
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "optimality_gap": metrics.aggregate_optimality_gap,
}


def main() -> None:
    """Compute everything and write it beside this file."""
    generator = np.random.default_rng(20_211)
    # Tasks of different difficulty, ten runs each; rounding makes ties, and some scores exceed the target 1.
    level = generator.uniform(0.3, 0.9, size=5)
    scores = {
        "first": (level + 0.05 + 0.15 * generator.normal(size=(10, 5))).round(2),
        "second": (level + 0.15 * generator.normal(size=(10, 5))).round(2),
    }

    def aggregates(matrix):
        return np.array([compute(matrix) for compute in AGGREGATES.values()])

    points, intervals = library.get_interval_estimates(
        scores, aggregates, reps=REPETITIONS, random_state=np.random.RandomState(1)
    )
    pair = {"pair": (scores["first"], scores["second"])}
    improvement, improvement_interval = library.get_interval_estimates(
        pair, metrics.probability_of_improvement, reps=2_000, random_state=np.random.RandomState(2)
    )
    profiles, bands = library.create_performance_profile(scores, THRESHOLDS, reps=REPETITIONS)
    content = {
        "made_by": "tests/spnpolicy/experiments/statistics/make_rliable_reference.py",
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        "scores": {name: matrix.tolist() for name, matrix in scores.items()},
        "aggregates": {
            name: {
                measure: [points[name][row], *intervals[name][:, row]] for row, measure in enumerate(AGGREGATES)
            }
            for name in scores
        },
        "probability_of_improvement": [
            float(np.squeeze(improvement["pair"])), *np.squeeze(improvement_interval["pair"]).tolist(),
        ],
        "thresholds": THRESHOLDS.tolist(),
        "profiles": {name: [profiles[name].tolist(), *bands[name].tolist()] for name in scores},
    }  # fmt: skip
    path = Path(__file__).with_name("rliable_reference.json")
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
