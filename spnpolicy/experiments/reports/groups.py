"""Runs in groups: what is the same task, what is the same algorithm, and what differs, in as few words as possible."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spnpolicy.base.decoding import encode, flat
from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.reports.runs import Run, printable

_NO_PART_OF_AN_ALGORITHM = ("seed", "discount", "log_every", "evaluate_every", "evaluation_episodes",
                            "checkpoint_every")  # fmt: skip
"""Settings of training that change what is measured or written, and not what is learned; the discount is the task's."""

Settings = Mapping[str, Any]
"""Flat: nested settings have names with dots."""


@dataclass(frozen=True)
class Task:
    """One environment with its options and discount, and the runs in it."""

    label: str
    """Name of the environment and the settings that tell it from the other tasks."""
    settings: Settings
    """All its settings."""
    groups: dict[str, list[Run]]
    """Runs by algorithm, by rising seed; an algorithm's label has the settings that tell it from others."""


def group_runs(runs: Sequence[Run]) -> list[Task]:
    """Return the runs by task and algorithm; both in the order in which they were given.

    Two runs have the same algorithm only if everything that could change what is learned is equal, the number of env
    steps included. Options of an environment that were left to their defaults differ from options that were given.

    Raises:
        ConfigError: two runs have the same seed and settings; averaging them would count one seed twice.
    """
    tasks: dict[str, tuple[Settings, list[Run]]] = {}
    for run in runs:
        settings = _task_settings(run)
        tasks.setdefault(_key(settings), (settings, []))[1].append(run)
    task_labels = _labels([settings for settings, _ in tasks.values()], "env")
    run_labels = dict(zip((run.folder for run in runs), _run_labels(runs), strict=True))
    return [
        Task(label, settings, _grouped(own, [run_labels[run.folder] for run in own]))
        for label, (settings, own) in zip(task_labels, tasks.values(), strict=True)
    ]


def algorithm_settings(run: Run) -> Settings:
    """Return everything that could change what a run learns, except task and seed."""
    train = {name: value for name, value in encode(run.config.train).items() if name not in _NO_PART_OF_AN_ALGORITHM}
    # The curriculum in words, because a list of stages is hard to read.
    course = {"curriculum": str(run.config.curriculum)}
    return {"algorithm": run.config.algorithm, **flat(run.config.algorithm_options), **flat(train, "train."), **course}


def in_words(settings: Settings) -> str:
    """Return settings as "size 5, agents 3"."""
    return ", ".join(f"{printable(name)} {_value(value)}" for name, value in settings.items())


def _task_settings(run: Run) -> Settings:
    return {"env": run.config.env, **flat(run.config.env_options), "discount": run.config.train.discount}


def _run_labels(runs: Sequence[Run]) -> list[str]:
    settings = [algorithm_settings(run) for run in runs]
    distinct = {_key(one): one for one in settings}
    labels = dict(zip(distinct, _labels(list(distinct.values()), "algorithm"), strict=True))
    return [labels[_key(one)] for one in settings]


def _labels(distinct: Sequence[Settings], main: str) -> list[str]:
    """Return for each of some different settings its name and what tells it from those of the same name."""
    labels: list[str] = []
    for settings in distinct:
        others = [other for other in distinct if other[main] == settings[main]]
        names = list(dict.fromkeys(name for other in others for name in other))
        differing = [name for name in names if len({_key({"": other.get(name)}) for other in others}) > 1]
        parts = [f"{name.removeprefix('train.')}={_value(settings.get(name))}" for name in differing]
        labels.append(printable(" ".join([str(settings[main]), *parts])))
    # Shortened or with the same words, labels may have become equal; a number tells them apart.
    counts = Counter(labels)
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):
        if counts[label] > 1:
            seen[label] += 1
            labels[index] = f"{label} ({seen[label]})"
    return labels


def _grouped(runs: Sequence[Run], labels: Sequence[str]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels, strict=True):
        same = next((old for old in groups.get(label, []) if old.config.train.seed == run.config.train.seed), None)
        if same is not None:
            raise ConfigError(
                f"{same.name} and {run.name} are both {label} with seed {run.config.train.seed}: they would count one "
                "seed twice. Name only one of them."
            )
        groups.setdefault(label, []).append(run)
    return {label: sorted(own, key=lambda run: run.config.train.seed) for label, own in groups.items()}


def _key(settings: Settings) -> str:
    return json.dumps(encode(settings), sort_keys=True)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_value, value))
    return printable(value if isinstance(value, str) else json.dumps(value))
