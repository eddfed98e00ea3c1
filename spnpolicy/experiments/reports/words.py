"""A report in words: what was compared, tables, and what may be concluded from them and what not."""

import math
from collections.abc import Iterator, Sequence

from spnpolicy.base.tables import aligned
from spnpolicy.experiments.reports.cautions import Selection, cautions, provenance
from spnpolicy.experiments.reports.groups import Task, algorithm_settings, in_words
from spnpolicy.experiments.reports.numbers import LESS_IS_BETTER, NORMALISED, Comparison, Numbers, Pair
from spnpolicy.experiments.statistics.tables import chance_of_separation, digits_for, interval_text, verdict
from spnpolicy.training.evaluation import SAMPLED

_NAMES = {
    "fraction_of_optimum": "discounted return as a fraction of the optimum",
    "return": "return",
    "discounted_return": "discounted return",
    "success": "success rate",
    "length": "episode length (less is better)",
}
MEASURE_NAMES = _NAMES | {SAMPLED + name: f"{text}, sampled play" for name, text in _NAMES.items()}
"""Measures by key, in words."""
STATISTIC_NAMES = {
    "iqm": "interquartile mean",
    "mean": "mean",
    "median": "median",
    "optimality_gap": "optimality gap",
    "area": "mean over training",
}
"""Statistics by key, as columns are called."""
_SMALL_CHANCE = 0.05


def report_text(comparison: Comparison, tasks: Sequence[Task], selection: Selection) -> str:
    """Return the whole report as plain text."""
    lines = [headline(comparison, selection), ""]
    for task, numbers in zip(tasks, comparison.tasks, strict=True):
        lines += [f"{task.label}", f"  {in_words(task.settings)}", f"  scores from {numbers.source}", ""]
        lines += _found(numbers, comparison.measure)
    if comparison.overall is not None:
        lines += [f"all {len(tasks)} tasks together", "", *_found(comparison.overall, comparison.measure)]
    lines += ["How to read this", *(f"- {line}" for line in explanations(comparison)), ""]
    cautions_found = cautions(comparison, tasks, selection)
    lines += ["What to keep in mind", *(f"- {line}" for line in cautions_found), ""] if cautions_found else []
    lines += ["Settings", *(f"  {label}: {in_words(settings)}" for label, settings in shared_settings(tasks)), ""]
    lines += ["Made with", *(f"  {line}" for line in provenance(selection.included))]
    # A part with nothing to say leaves no gap.
    kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return "\n".join(kept) + "\n"


def headline(comparison: Comparison, selection: Selection) -> str:
    """Return one line: how much was compared by which measure."""
    algorithms = {name for task in comparison.tasks for name in task.scores}
    parts = [
        counted(len(selection.included), "run"),
        counted(len(algorithms), "algorithm"),
        counted(len(comparison.tasks), "task"),
    ]
    return f"{', '.join(parts)}; measured: {MEASURE_NAMES[comparison.measure]}"


def table(numbers: Numbers) -> list[list[str]]:
    """Return header and rows; only the two statistics that runs are judged by have intervals in it."""
    statistics = list(next(iter(numbers.aggregates.values())))
    shown = digits_for(bound for row in numbers.aggregates.values() for interval in row.values() for bound in interval)
    is_known = any(count is not None for effort in numbers.efforts.values() for count in effort)
    costs = ["gradient updates", "samples per env step"] if is_known else []
    rows = [["algorithm", "runs", *(STATISTIC_NAMES[name] for name in statistics), *costs]]
    for algorithm, row in numbers.aggregates.items():
        cells = [
            interval_text(row[name], shown) if name in ("iqm", "area") else f"{row[name].estimate:.{shown}f}"
            for name in statistics
        ]
        if is_known:
            updates, samples = numbers.efforts[algorithm]
            cells += ["" if updates is None else f"{updates:,.0f}", "" if samples is None else f"{samples:.2f}"]
        rows.append([algorithm, str(numbers.runs(algorithm)), *cells])
    return rows


def _found(numbers: Numbers, measure: str) -> list[str]:
    """Return the table, how probable an improvement is in each pair, and what is to be concluded."""
    pairs = [[f"P({pair.first} > {pair.second})", interval_text(pair.probability, 3)] for pair in numbers.pairs]
    return [*aligned(table(numbers)), "", *aligned(pairs), "", *statements(numbers, measure), ""]


def statements(numbers: Numbers, measure: str) -> list[str]:
    """Return in words what the intervals show, a line per algorithm that is better than another, best first."""
    iqm = {name: row["iqm"] for name, row in numbers.aggregates.items()}
    found: dict[str, dict[str, list[str]]] = {}
    for pair in numbers.pairs:
        kind = verdict(iqm[pair.first], iqm[pair.second])
        found.setdefault(pair.first, {}).setdefault(kind, []).append(pair.second)
    more = "took fewer steps than" if measure in LESS_IS_BETTER else "scored more than"
    lines = [_sentences(name, kinds, more) for name, kinds in found.items()]
    chance = max((_chance(numbers, pair) for pair in numbers.pairs), default=0.0)
    if chance > _SMALL_CHANCE and any("better" in kinds for kinds in found.values()):
        lines.append(
            "Careful: with so few runs, pure chance makes all runs of one of two equal algorithms better than all of "
            f"the other's in 1 of {1 / chance:.0f} comparisons."
        )
    return lines


def explanations(comparison: Comparison) -> list[str]:
    """Return what the columns mean."""
    lines = [
        "A run (seed) counts with its mean over the episodes of one evaluation, always the last one, "
        f"{_play(comparison.measure)}.",
        "Interquartile mean: mean over the middle half of the runs. In brackets: 95 % percentile bootstrap interval "
        "over runs, resampled within each task. It says how another set of seeds might come out, not another task.",
        "Gradient updates: steps of the optimiser of what is played by, the actor or, where there is none, the critic. "
        "Samples per env step: transitions in gradient steps, each counted as often as it was used, per env step.",
        "Mean over training: area under the evaluations during training, per env step; good where learning is early.",
    ]
    if any(len(task.scores) > 1 for task in comparison.tasks):
        lines.append(
            "P(A > B): probability that a random run of A is better than a random run of B, a tie counting one half; "
            "if its interval contains 0.5, the runs do not show which is better."
        )
    if comparison.measure in NORMALISED:
        lines.append("Optimality gap: by how much runs fall short of 1 on average; less is better.")
    if comparison.overall is None and len(comparison.tasks) > 1:
        why = (
            "no algorithm has runs in all of them"
            if comparison.measure in NORMALISED
            else f"{MEASURE_NAMES[comparison.measure]} is not on the same scale in different tasks"
        )
        lines.append(f"There is no summary over tasks, because {why}.")
    return lines


def shared_settings(tasks: Sequence[Task]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the settings that all runs share as "all", and those of each algorithm that are not shared."""
    runs = {label: group[0] for task in tasks for label, group in task.groups.items()}
    settings = {label: dict(algorithm_settings(run)) for label, run in runs.items()}
    first, *others = settings.values()
    shared = {name: value for name, value in first.items() if all(other.get(name, ...) == value for other in others)}
    if not others:
        yield from settings.items()
        return
    yield "all", shared
    for label, own in settings.items():
        yield label, {name: value for name, value in own.items() if name not in shared}


def _sentences(name: str, kinds: dict[str, list[str]], more: str) -> str:
    endings = {
        "better": ("is better than", ": the intervals do not overlap."),
        "open": (more, ", but the intervals overlap: no verdict."),
        "one run": (more, ", but one run shows no variation: no verdict."),
        "same": ("scored the same as", "."),
    }
    parts = [f"{endings[kind][0]} {', '.join(kinds[kind])}{endings[kind][1]}" for kind in endings if kind in kinds]
    return " ".join([f"{name} {parts[0]}", *(f"It {part}" for part in parts[1:])])


def _play(measure: str) -> str:
    return "with actions drawn from the policy" if measure.startswith(SAMPLED) else "played greedily"


def _chance(numbers: Numbers, pair: Pair) -> float:
    if math.isnan(pair.probability.low):
        return 0.0  # said already: there is no interval
    separations = [
        chance_of_separation(len(first), len(second))
        for first, second in zip(numbers.scores[pair.first], numbers.scores[pair.second], strict=True)
    ]
    return math.prod(separations)


def counted(number: int, noun: str) -> str:
    """Return "1 run" or "2 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
