"""Whether the files of a run agree: where two of them say different things, neither is believed.

Every door (report, resume, `load_run`) asks here before it answers from files that somebody may have cut, edited or
mixed up with those of another run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spnpolicy.base.decoding import decode, encode, flat
from spnpolicy.base.errors import CheckpointError
from spnpolicy.training.config import RunConfig
from spnpolicy.training.metrics import RecordDigest, parse_records
from spnpolicy.training.storage.append import check_lines

Record = Mapping[str, Any]

MAY_CHANGE = ("steps", "log_every", "evaluate_every", "evaluation_episodes", "checkpoint_every")
"""Settings of training that an interrupted run may go on with in another way: its length, what is measured and kept."""
_PUT_BACK = "Put back the files that belong together, or begin a new run with --config."
_FREE = tuple(f"train.{name}" for name in MAY_CHANGE)


def check_settings(folder: Path, config: RunConfig, saved: Mapping[str, Any]) -> list[str]:
    """Return in words which settings an interrupted run goes on with that it was not begun with.

    Args:
        folder: the folder of the run.
        config: what its config.json says.
        saved: what its weights were trained with.

    Raises:
        CheckpointError: a setting differs that may not change in the middle of a run.
    """
    changed = _differences(saved, config, "the settings in the checkpoint")
    for name, change in changed.items():
        if name not in _FREE:
            raise CheckpointError(
                f"{folder / 'config.json'} was changed: {change}, and what was learned so far is of the old one. Put "
                f"it back, or begin a new run with --config; only {', '.join(_FREE)} may change on the way."
            )
    return list(changed.values())


def check_facts(folder: Path, config: RunConfig, facts: Mapping[str, Any]) -> None:
    """Refuse a run.json that is of another algorithm or environment than config.json.

    Raises:
        CheckpointError: it is.
    """
    for name in ("algorithm", "env"):
        own = getattr(config, name)
        if facts.get(name, own) != own:
            what = f"is of another run than config.json: its {name} is {facts[name]!r}, not {own!r}"
            raise CheckpointError(f"{folder / 'run.json'} {what}. {_PUT_BACK}")


def saved_records(folder: Path, saved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records that were in metrics.jsonl when a checkpoint was written, or waited for the disk.

    Args:
        folder: the folder of the run.
        saved: the part `recorder` of the checkpoint.

    Raises:
        CheckpointError: some are lost, or others are in their place.
    """
    path, file = folder / "metrics.jsonl", saved["files"]["metrics.jsonl"]
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    check_lines(path, len(lines), file["lines"])
    kept = b"".join(line + b"\n" for line in lines[: file["lines"]])
    records = parse_records(kept + bytes(file["waiting"]), path)
    if saved.get("records_sha256", digest := RecordDigest(records).hex()) != digest:
        raise CheckpointError(f"{path} holds other records than when the checkpoint was written. {_PUT_BACK}")
    return records


def check_result(folder: Path, config: RunConfig, records: Sequence[Record], result: Mapping[str, Any]) -> None:
    """Refuse a finished run whose config.json, metrics.jsonl and result.json do not belong together.

    Raises:
        CheckpointError: they do not; the message names the file, and the setting where it is one.
    """
    path = folder / "metrics.jsonl"
    last: Record = next((record for record in reversed(records) if record.get("kind") == "evaluation"), {})
    for name, change in _differences(result.get("config", config), config, "config in result.json").items():
        way_out = ", or remove result.json to train on with it" if name in _FREE else ""
        raise CheckpointError(
            f"{folder / 'config.json'} was changed after the run had ended: {change}. Put it back{way_out}."
        )
    step = last.get("step")
    if step != result["step"]:
        where = "holds no evaluation" if step is None else f"ends with the evaluation at step {step}"
        raise CheckpointError(f"{path} {where}, but result.json is of step {result['step']}. {_PUT_BACK}")
    for name, value in result["evaluation"].items():
        if last.get(name) != value:
            numbers = f"{name} of the last evaluation is {last.get(name)} and {value}"
            raise CheckpointError(f"{path} and result.json disagree: {numbers}. {_PUT_BACK}")
    if result.get("records_sha256", digest := RecordDigest(records).hex()) != digest:
        raise CheckpointError(f"{path} holds other records than when the run ended. {_PUT_BACK}")


def _differences(before: Any, config: RunConfig, source: str) -> dict[str, str]:
    """Return by name, and in words, what differs between an older configuration, as JSON has it, and that of a run."""
    # Decoded like config.json was, so that a setting that both were written without has its default in both.
    old, new = flat(encode(decode(RunConfig, before, path=source))), flat(encode(config))
    names = [name for name in old if name in new and old[name] != new[name]]
    names += [name for name in {**old, **new} if (name in old) != (name in new)]
    return {name: f"{name} was {_value(old, name)}, is {_value(new, name)}" for name in names}


def _value(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name])[:80] if name in settings else "not set"
