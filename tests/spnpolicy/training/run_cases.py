"""Shared by the tests of runs: what must be equal in two runs that are the same."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from spnpolicy.algorithms import config_class
from spnpolicy.training.config import TrainConfig
from spnpolicy.training.metrics import TIME_FIELDS, read_metrics
from spnpolicy.training.storage.checkpoints import load_checkpoint


def fitting(settings: TrainConfig, algorithm: str) -> TrainConfig:
    """Return the settings without those that an on-policy algorithm refuses."""
    learns_from_rollouts = getattr(config_class(algorithm)(), "rollout", None) is not None
    return settings.without_replay() if learns_from_rollouts else settings


def metrics_without_time(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics records of a run, less the fields that tell the time."""
    records = read_metrics(folder / "metrics.jsonl").records
    return [{key: value for key, value in record.items() if key not in TIME_FIELDS} for record in records]


def saved_state(folder: Path) -> dict[str, Any]:
    """Return the latest checkpoint of a run, flat, with tensors as bytes."""
    flat: dict[str, Any] = {}
    _flatten(load_checkpoint(folder / "checkpoints"), "", flat)
    return flat


def assert_same_run(first: Path, second: Path) -> None:
    """Assert that two runs have the same records, the same episodes and, bit for bit, the same last state."""
    assert metrics_without_time(first) == metrics_without_time(second)
    assert (first / "episodes.csv").read_bytes() == (second / "episodes.csv").read_bytes()
    ours, theirs = saved_state(first), saved_state(second)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name] != theirs[name]]
    assert not different
    # The same said by the files: those of the newest checkpoint are the same byte for byte.
    newest = [max((folder / "checkpoints").glob("checkpoint-*")) for folder in (first, second)]
    names = [sorted(path.name for path in folder.iterdir()) for folder in newest]
    assert names[0] == names[1]
    assert all((newest[0] / name).read_bytes() == (newest[1] / name).read_bytes() for name in names[0])


def _flatten(value: Any, name: str, flat: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _flatten(item, f"{name}/{key}", flat)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _flatten(item, f"{name}/{index}", flat)
    elif isinstance(value, torch.Tensor):
        flat[name] = (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    elif isinstance(value, np.ndarray):
        flat[name] = (str(value.dtype), value.shape, value.tobytes())
    else:
        flat[name] = repr(value)
