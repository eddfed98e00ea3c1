"""Runs whose files disagree: cut, edited, lost, or mixed up with those of another run.

A damage changes the folder of a run, a door is a way in which somebody reads one. For each pair the door must give the
answer that it gives for the undamaged run, or refuse with an error that names a file. README.md explains the damages.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.cli import main
from spnpolicy.experiments.reports import read_run
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import resume, train
from spnpolicy.training.runs import load_run
from tests.spnpolicy.training.run_cases import metrics_without_time

TRAIN = TrainConfig(
    steps=64, num_envs=8, batch_size=8, replay_capacity=64, warmup_steps=8, train_every=2, updates=1, log_every=16,
    evaluate_every=16, evaluation_episodes=2, checkpoint_every=24,
)  # fmt: skip

Damage = Callable[[Path, Path], None]
"""Changes the first run; the second one has the same settings, but for its seed."""

DAMAGES: dict[str, Damage] = {}
AFTER_THE_END: list[str] = []
"""Damages that an interrupted run cannot know from what a crash leaves."""


def build(folder: Path) -> None:
    """Train three runs: one to its end, one that was interrupted, and one with another seed."""
    for name, seed, last in (("finished", 0, 64), ("interrupted", 0, 40), ("other", 1, 64)):
        options = {"agents": 2, "size": 3, "episode_limit": 4}
        settings = TrainConfig(**{**vars(TRAIN), "seed": seed})
        config = RunConfig("spn_ac", "coverage", {"network": {"hidden": [4]}, "labels": 2}, options, settings)

        def stop(progress: Any, last: int = last) -> None:
            if progress.step == last < progress.steps:
                raise KeyboardInterrupt

        train(config, folder / name, on_progress=stop)


def damage(function: Damage) -> Damage:
    DAMAGES[function.__name__.replace("_", "-")] = function
    return function


def after_the_end(function: Damage) -> Damage:
    AFTER_THE_END.append(function.__name__.replace("_", "-"))
    return damage(function)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    if path.exists():
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def lines(run: Path, change: Callable[[list[bytes]], list[bytes]], name: str = "metrics.jsonl") -> None:
    path = run / name
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def taken_from(other: Path, run: Path, name: str) -> None:
    if (run / name).is_dir():
        shutil.rmtree(run / name)
        shutil.copytree(other / name, run / name)
    elif (run / name).exists():
        shutil.copy(other / name, run / name)


def newest(run: Path, kind: str = "checkpoint") -> Path:
    return max((run / "checkpoints").glob(f"{kind}-*"))


@damage
def metrics_cut_to_half(run: Path, other: Path) -> None:
    lines(run, lambda all_lines: all_lines[: len(all_lines) // 2])


@damage
def metrics_without_the_last_line(run: Path, other: Path) -> None:
    lines(run, lambda all_lines: all_lines[:-1])


@damage
def metrics_torn(run: Path, other: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])


@damage
def metrics_without_a_line_in_the_middle(run: Path, other: Path) -> None:
    lines(run, lambda all_lines: all_lines[:2] + all_lines[3:])


@damage
def metrics_deleted(run: Path, other: Path) -> None:
    (run / "metrics.jsonl").unlink()


@damage
def metrics_empty(run: Path, other: Path) -> None:
    (run / "metrics.jsonl").write_bytes(b"")


@damage
def metrics_of_another_run(run: Path, other: Path) -> None:
    taken_from(other, run, "metrics.jsonl")


@damage
def metrics_with_another_number(run: Path, other: Path) -> None:
    def better(all_lines: list[bytes]) -> list[bytes]:
        place = max(i for i, line in enumerate(all_lines) if b'"evaluation"' in line)
        record = json.loads(all_lines[place])
        record["return"] += 1.0
        return [*all_lines[:place], json.dumps(record).encode() + b"\n", *all_lines[place + 1 :]]

    lines(run, better)


@damage
def metrics_with_another_number_on_the_way(run: Path, other: Path) -> None:
    lines(run, lambda all_lines: [all_lines[0].replace(b'"length": ', b'"length": 1'), *all_lines[1:]])


@after_the_end
def metrics_with_records_after_the_end(run: Path, other: Path) -> None:
    record = b'{"kind": "evaluation", "step": 99, "updates": 9, "return": 9.0, "seconds": 9.0}\n'
    lines(run, lambda all_lines: [*all_lines, record])


@damage
def episodes_cut(run: Path, other: Path) -> None:
    lines(run, lambda all_lines: all_lines[:3], "episodes.csv")


@damage
def result_of_another_run(run: Path, other: Path) -> None:
    taken_from(other, run, "result.json")


@damage
def result_of_a_run_that_ended_put_to_this(run: Path, other: Path) -> None:
    shutil.copy(other / "result.json", run)


@damage
def result_with_another_number(run: Path, other: Path) -> None:
    edit(run / "result.json", lambda result: result["evaluation"].update({"return": 99.0}))


@damage
def result_with_another_step(run: Path, other: Path) -> None:
    edit(run / "result.json", lambda result: result.update({"step": 4_096}))


@damage
def result_cut(run: Path, other: Path) -> None:
    path = run / "result.json"
    if path.exists():
        path.write_text(path.read_text()[:40])


@damage
def result_deleted(run: Path, other: Path) -> None:
    (run / "result.json").unlink(missing_ok=True)


@damage
def config_with_another_step_size(run: Path, other: Path) -> None:
    edit(run / "config.json", lambda c: c["algorithm_options"]["critic"].update({"learning_rate": 0.5}))


@damage
def config_with_another_seed(run: Path, other: Path) -> None:
    edit(run / "config.json", lambda c: c["train"].update({"seed": 7}))


@damage
def config_with_another_task(run: Path, other: Path) -> None:
    edit(run / "config.json", lambda c: c["env_options"].update({"episode_limit": 9}))


@damage
def config_with_another_algorithm(run: Path, other: Path) -> None:
    edit(run / "config.json", lambda c: c.update({"algorithm": "vdn", "algorithm_options": {}}))


@damage
def config_without_a_setting(run: Path, other: Path) -> None:
    edit(run / "config.json", lambda c: c["algorithm_options"].pop("labels"))


@damage
def config_cut(run: Path, other: Path) -> None:
    path = run / "config.json"
    path.write_text(path.read_text()[:100])


@damage
def config_deleted(run: Path, other: Path) -> None:
    (run / "config.json").unlink()


@damage
def facts_of_another_algorithm(run: Path, other: Path) -> None:
    edit(run / "run.json", lambda facts: facts.update({"algorithm": "vdn"}))


@damage
def checkpoints_of_another_run(run: Path, other: Path) -> None:
    taken_from(other, run, "checkpoints")


@damage
def checkpoints_deleted(run: Path, other: Path) -> None:
    shutil.rmtree(run / "checkpoints")


@damage
def pointer_lost(run: Path, other: Path) -> None:
    (run / "checkpoints" / "latest").unlink()


@damage
def pointer_empty(run: Path, other: Path) -> None:
    (run / "checkpoints" / "latest").write_bytes(b"")


@damage
def newest_checkpoint_deleted(run: Path, other: Path) -> None:
    shutil.rmtree(newest(run))


@damage
def file_of_the_newest_checkpoint_deleted(run: Path, other: Path) -> None:
    (newest(run) / "algorithm.safetensors").unlink()


@damage
def best_of_another_run(run: Path, other: Path) -> None:
    shutil.rmtree(newest(run, "best"))
    shutil.copytree(newest(other, "best"), run / "checkpoints" / newest(other, "best").name)
    taken_from(other, run, "checkpoints/best")


def report(run: Path) -> Any:
    read = read_run(run)
    histories = {name: (history.steps.tolist(), history.values.tolist()) for name, history in read.histories.items()}
    return read.step, histories, read.config


def go_on(run: Path) -> Any:
    return resume(run)._replace(seconds=0.0), metrics_without_time(run)


def load(run: Path) -> Any:
    loaded = load_run(run, num_envs=1)
    return loaded.step, {name: repr(value) for name, value in loaded.algorithm.state_dict().items()}


def load_best(run: Path) -> Any:
    loaded = load_run(run, num_envs=1, checkpoint="best")
    return loaded.step, {name: repr(value) for name, value in loaded.algorithm.state_dict().items()}


def command(*words: str) -> Callable[[Path], Any]:
    def give(run: Path) -> Any:
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = main([words[0], str(run), *words[1:]])
        if code == 2:
            raise SpnPolicyError(errors.getvalue())
        return code, output.getvalue()

    return give


DOORS: dict[str, Callable[[Path], Any]] = {
    "report": report,
    "resume": go_on,
    "load_run": load,
    "load_run of the best": load_best,
    "evaluate": command("evaluate", "--episodes", "2"),
    "query": command("query", "--given", "0=stay"),
}


def problem_of(door: str, run: Path, answer: Any) -> str:
    """Return what is wrong with how a door treats a damaged run; empty if it answers as before or refuses by name."""
    names = ("config.json", "run.json", "metrics.jsonl", "episodes.csv", "result.json", "checkpoint")
    try:
        found = DOORS[door](run)
    except SpnPolicyError as refusal:
        return "" if any(name in str(refusal) for name in names) else f"refused without the name of a file: {refusal}"
    except Exception as other:
        return f"{type(other).__name__}: {other}"
    return "" if found == answer else "another answer, and no word"
