"""The report of a comparison: a table, what may be concluded from it, and the numbers behind it as CSV."""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from circuits.files import replace_file
from spnpolicy.base.tables import aligned, csv_text
from spnpolicy.experiments.benchmarks.results import MEASURES, Results, Score
from spnpolicy.experiments.statistics.bootstrap import Interval
from spnpolicy.experiments.statistics.tables import compared, exact_number, few_runs_note, interval_text

_HEADERS = ("algorithm", "runs", "success rate", "steps to success", "return / optimum")
_DIGITS = (3, 2, 4)


def write_report(results: Results, text_path: Path, table_path: Path, episodes_path: Path) -> str:
    """Write the report as text and CSV, and every episode of the final evaluations; return the text."""
    text = "\n".join([*table(results), "", *_notes(results), "", *statements(results)]) + "\n"
    replace_file(text_path, text.encode())
    replace_file(table_path, _table_csv(results).encode())
    replace_file(episodes_path, _episodes_csv(results).encode())
    return text


def table(results: Results) -> list[str]:
    """Return the lines of the table, references last."""
    parts = [
        [_HEADERS],
        *([*map(_row, scores)] for scores in (results.scores, results.drawn)),
        _reference_rows(results),
    ]
    lines = iter(aligned([row for part in parts for row in part]))
    blocks = [[next(lines) for _ in part] for part in parts if part]
    rule = "-" * max(len(line) for block in blocks for line in block)
    return [line for block in blocks for line in (*block, rule)][:-1]


def statements(results: Results) -> list[str]:
    """Return in words what the intervals show, best algorithm first."""
    ranked = sorted(results.scores, key=lambda score: -_fraction(score).estimate)
    lines = _against_fixed(ranked, results) + [_compared(*pair) for pair in combinations(ranked, 2)]
    missing = len(results.plan.trials) - sum(score.runs for score in results.scores)
    if missing:
        lines.append(f"{missing} of {len(results.plan.trials)} runs are missing; the table is about the others.")
    return lines


def _notes(results: Results) -> list[str]:
    plan = results.plan
    config = plan.trials[0]
    options = ", ".join(f"{name} {value}" for name, value in config.env_options.items())
    lines = [
        f"{config.env}: {options}; discount {config.train.discount}; {config.train.steps:,} env steps per run.",
        f"A run counts with its mean over the same {plan.evaluation_episodes:,} fresh layouts, played greedily; shown "
        "are the interquartile",
        "mean over runs and its 95 % bootstrap interval. In steps, a failed episode counts as the episode limit. The "
        "optimum is that of",
        "walking freely (bottleneck assignment), which agents that latch onto the first goal they touch may miss.",
    ]
    if results.drawn:
        lines.append(
            'Beside it: "sampled" draws joint actions from the policy, "cooled" at a quarter of its temperature.'
        )
    few = few_runs_note(score.runs for score in results.scores)
    return [*lines, few] if few else lines


def _row(score: Score) -> tuple[str, ...]:
    cells = (interval_text(score.measures[name], digits) for name, digits in zip(MEASURES, _DIGITS, strict=True))
    return (score.algorithm, str(score.runs), *cells)


def _reference_rows(results: Results) -> list[tuple[str, ...]]:
    references = results.references
    rows: list[tuple[str, ...]] = []
    if references.fixed_steps is not None and references.fixed_fraction is not None:
        steps, fraction = references.fixed_steps.mean(), references.fixed_fraction.mean()
        success = (references.fixed_fraction > 0).mean()
        rows.append(("a fixed goal per agent", "", f"{success:.3f}", f"{steps:.2f}", f"{fraction:.4f}"))
    rows.append(("exact optimum", "", "1.000", f"{references.optimal_steps.mean():.2f}", "1.0000"))
    return rows


def _fraction(score: Score) -> Interval:
    return score.measures["fraction_of_optimum"]


def _against_fixed(ranked: list[Score], results: Results) -> list[str]:
    fraction = results.references.fixed_fraction
    if fraction is None:
        return []
    fixed = float(fraction.mean())
    groups: dict[str, list[str]] = {}
    for score in ranked:
        groups.setdefault(_place(_fraction(score), fixed), []).append(score.algorithm)
    verdicts = "; ".join(f"{where}: {', '.join(names)}" for where, names in groups.items())
    return [f"A fixed goal per agent earns {fixed:.4f} of the optimum. {verdicts[0].upper()}{verdicts[1:]}."]


def _place(interval: Interval, level: float) -> str:
    if math.isnan(interval.low):
        return "above it in a single run" if interval.estimate > level else "not above it in a single run"
    if interval.low > level:
        return "above it with the whole interval"
    return (
        "below it with the whole interval" if interval.high < level else "not to be told from it (inside the interval)"
    )


def _compared(better: Score, worse: Score) -> str:
    return compared(better.algorithm, _fraction(better), worse.algorithm, _fraction(worse))


def _table_csv(results: Results) -> str:
    columns = [f"{name}{part}" for name in MEASURES for part in ("", "_low", "_high")]
    rows: list[Sequence[object]] = [("algorithm", "runs", *columns)]
    for score in results.scores:
        numbers = [exact_number(value) for name in MEASURES for value in score.measures[name]]
        rows.append((score.algorithm, score.runs, *numbers))
    for name, _, *means in _reference_rows(results):
        rows.append((name, "", *(cell for mean in means for cell in (mean, "", ""))))
    return csv_text(rows)


def _episodes_csv(results: Results) -> str:
    optimal, fixed = results.references.optimal_steps, results.references.fixed_steps
    columns = ("success", "steps", "discounted_return", "fraction_of_optimum", "optimal_steps")
    rows: list[Sequence[object]] = [("algorithm", "seed", "layout", *columns, "fixed_assignment_steps")]
    for algorithm, runs in results.evaluations.items():
        for seed, run in runs.items():
            for layout, (discounted, length, success, fraction) in enumerate(zip(*run, strict=True)):
                returns = f"{discounted:.9g}", f"{fraction:.9g}"
                reference = optimal[layout], "" if fixed is None else fixed[layout]
                rows.append((algorithm, seed, layout, int(success), length, *returns, *reference))
    return csv_text(rows)
