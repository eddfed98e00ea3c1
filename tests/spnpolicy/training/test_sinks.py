import resource
import signal
import subprocess
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from spnpolicy.base.errors import ConfigError
from spnpolicy.training import sinks
from spnpolicy.training.sinks import (
    QueuedSink,
    SafeSinks,
    TensorBoardSink,
    WandbSink,
    scalars,
    tensorboard_sink,
    wandb_sink,
)

RECORD = {"kind": "train", "step": 64, "return": 1.5, "episodes": 3, "success": 0.25}
DISK_IS_FULL = OSError(28, "No space left on device")
SAFETY = 30.0
"""Seconds after which a test that waits for a thread gives up."""


class ListSink:
    """Keeps what it is told, or raises."""

    def __init__(self, *, fails_at=(), error=DISK_IS_FULL):
        self.records, self.closed = [], 0
        self._fails_at, self._error = fails_at, error

    def write(self, record):
        if "write" in self._fails_at:
            raise self._error
        self.records.append(record)

    def close(self):
        self.closed += 1
        if "close" in self._fails_at:
            raise self._error


def test_every_sink_is_told_everything_until_the_end():
    first, second, warnings = ListSink(), ListSink(), []
    both = SafeSinks([first, second], warn=warnings.append)
    both.write(RECORD)
    both.write(RECORD | {"step": 128})
    both.close()
    both.write(RECORD)  # nobody is left
    assert [record["step"] for record in first.records] == [64, 128]
    assert second.records == first.records
    assert (first.closed, second.closed, warnings) == (1, 1, [])


def test_a_sink_that_raises_is_dropped_after_one_warning_and_the_others_go_on():
    bad, good, warnings = ListSink(fails_at=["write"]), ListSink(), []
    both = SafeSinks([bad, good], warn=warnings.append)
    for step in range(5):
        both.write({"kind": "train", "step": step})
    both.close()
    assert [record["step"] for record in good.records] == list(range(5))
    assert (bad.closed, good.closed) == (0, 1)
    assert len(warnings) == 1
    assert "ListSink failed" in warnings[0]
    assert "No space left on device" in warnings[0]


def test_a_sink_may_fail_when_it_is_made_and_when_it_is_closed():
    def impossible():
        raise PermissionError("no login")

    warnings, good = [], ListSink()
    several = SafeSinks([ListSink(fails_at=["close"]), QueuedSink("service", impossible), good], warn=warnings.append)
    several.write(RECORD)
    several.close()
    assert good.closed == 1
    assert sorted(warning.split(" ")[0] for warning in warnings) == ["ListSink", "service"]


def test_even_a_warning_that_fails_is_no_reason_to_stop():
    def broken(_):
        raise BrokenPipeError

    good = ListSink()
    several = SafeSinks([ListSink(fails_at=["write"]), good], warn=broken)
    several.write(RECORD)
    # The one that failed is left out, and the other one goes on being told.
    assert good.records == [RECORD]


def test_an_interruption_passes():
    several = SafeSinks([ListSink(fails_at=["write", "close"], error=KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        several.write(RECORD)
    with pytest.raises(KeyboardInterrupt):
        several.close()


def test_a_sink_cannot_change_the_record():
    class Vandal(ListSink):
        def write(self, record):
            record["return"] = 1e9
            record["weights"][0] = 1e9
            record.clear()

    record, good = RECORD | {"weights": np.ones(2)}, ListSink()
    SafeSinks([Vandal(), good]).write(record)
    assert record["return"] == good.records[0]["return"] == 1.5
    assert record["weights"].tolist() == good.records[0]["weights"].tolist() == [1.0, 1.0]


def test_the_default_warning_goes_to_stderr(capsys):
    SafeSinks([ListSink(fails_at=["write"])]).write(RECORD)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("spnpolicy: warning: ListSink failed")
    assert printed.err.count("\n") == 1


def test_a_queued_sink_writes_all_in_order_before_it_closes():
    inner = ListSink()
    queued = QueuedSink("list", lambda: inner)
    for step in range(1_000):
        queued.write({"step": step})
    queued.close(seconds=SAFETY)
    assert [record["step"] for record in inner.records] == list(range(1_000))
    assert inner.closed == 1


def test_a_service_that_hangs_at_its_start_keeps_nobody_waiting():
    release, warnings = threading.Event(), []

    def hangs():
        release.wait(SAFETY)
        return ListSink()

    queued = QueuedSink("service", hangs, capacity=3)
    several = SafeSinks([queued], warn=warnings.append)
    for step in range(10):
        several.write({"kind": "train", "step": step})  # would block here for ever, were it not for the queue
    assert warnings == [warnings[0]]
    assert "service failed" in warnings[0]
    assert "3 records wait" in warnings[0]
    release.set()


def test_a_sink_that_was_never_told_anything_is_never_made():
    made = []
    QueuedSink("service", lambda: made.append(1)).close()
    assert not made


def test_a_service_that_hangs_at_its_end_is_left_behind():
    release = threading.Event()

    class Hangs(ListSink):
        def close(self):
            release.wait(SAFETY)

    queued = QueuedSink("service", Hangs)
    queued.write(RECORD)
    with pytest.raises(RuntimeError, match=r"did not finish within 0\.05 seconds"):
        queued.close(seconds=0.05)
    release.set()


@pytest.mark.parametrize("error", [ValueError("bad key"), SystemExit(1), KeyboardInterrupt()])
def test_what_fails_in_the_thread_is_told_once_and_only_there(error):
    def fails():
        raise error

    warnings, queued = [], QueuedSink("service", fails)
    several = SafeSinks([queued], warn=warnings.append)
    several.write(RECORD)
    queued._thread.join(SAFETY)
    several.write(RECORD)
    several.close()
    assert len(warnings) == 1
    assert type(error).__name__ in warnings[0]


def test_a_queued_sink_that_fails_late_tells_at_its_close_and_closes_what_it_holds():
    inner = ListSink(fails_at=["write"])
    queued = QueuedSink("list", lambda: inner)
    queued.write(RECORD)
    with pytest.raises(RuntimeError, match="No space left"):
        queued.close(seconds=SAFETY)
    assert inner.closed == 1


def test_scalars_are_the_numbers_of_a_record():
    record = RECORD | {"name": "x", "is_last": True, "nothing": None, "loss": np.float32(0.5)}
    assert scalars(record) == {
        "train/return": 1.5, "train/episodes": 3.0, "train/success": 0.25, "train/loss": 0.5,
    }  # fmt: skip


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = SafeSinks([tensorboard_sink(tmp_path / "board")])
    sink.write(RECORD)
    sink.write(RECORD | {"step": 128, "return": float("nan")})
    sink.write({"kind": "evaluation", "step": 128, "return": 2.5})
    sink.close()
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert sorted(board.Tags()["scalars"]) == [
        "evaluation/return", "train/episodes", "train/return", "train/success",
    ]  # fmt: skip
    returns = board.Scalars("train/return")
    assert [event.step for event in returns] == [64, 128]
    assert returns[0].value == 1.5
    assert np.isnan(returns[1].value)
    assert [(event.step, event.value) for event in board.Scalars("evaluation/return")] == [(128, 2.5)]


def test_a_second_process_adds_a_file_and_touches_none(tmp_path):
    for _ in range(2):
        sink = TensorBoardSink(tmp_path)
        sink.write(RECORD)
        sink.close()
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2


def test_a_full_disk_costs_the_sink_and_nothing_else(tmp_path):
    # A limit on the size of files stands in for a full disk; it is per process, so it needs one of its own.
    program = f"""
import resource, signal
from pathlib import Path
from spnpolicy.training.sinks import SafeSinks, tensorboard_sink
folder = Path({str(tmp_path)!r}) / "board"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
sinks = SafeSinks([tensorboard_sink(folder)])
for step in range(50):
    sinks.write({{"kind": "train", "step": step, "return": 1.0}})
sinks.close()
print("the run is done")
"""
    assert hasattr(resource, "RLIMIT_FSIZE")
    assert hasattr(signal, "SIGXFSZ")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "the run is done\n")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "TensorBoard failed" in done.stderr
    assert "File too large" in done.stderr


def test_importing_sinks_loads_neither_torch_nor_tensorboard():
    program = "import sys, spnpolicy.training.sinks; print([m for m in ('torch', 'tensorboard') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("package", "make"),
    [("tensorboard", lambda path: tensorboard_sink(path)), ("wandb", lambda path: wandb_sink("p", "n", {}))],
)
def test_a_missing_package_is_said_at_once(package, make, monkeypatch, tmp_path):
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'spnpolicy\[{package}\]'"):
        make(tmp_path)


def fake_wandb(monkeypatch, calls, fails_at=()):
    """Put a module in place of wandb that records its calls."""

    def called(name):
        def record(*args, **options):
            calls.append((name, args, options))
            if name in fails_at:
                raise ConnectionError(f"{name}: the service is away")
            return SimpleNamespace(log=called("log"), finish=called("finish"))

        return record

    module = ModuleType("wandb")
    module.init = called("init")
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(sinks, "find_spec", lambda name: name)


def test_wandb_is_told_settings_and_numbers(monkeypatch):
    calls = []
    fake_wandb(monkeypatch, calls)
    sink = SafeSinks([wandb_sink("games", "vdn-seed3", {"seed": 3})])
    sink.write(RECORD)
    sink.close()
    assert calls == [
        ("init", (), {"project": "games", "name": "vdn-seed3", "config": {"seed": 3}}),
        ("log", ({"train/return": 1.5, "train/episodes": 3.0, "train/success": 0.25},), {"step": 64}),
        ("finish", (), {}),
    ]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_service_that_is_away_costs_one_warning(monkeypatch, where):
    calls, warnings = [], []
    fake_wandb(monkeypatch, calls, fails_at=[where])
    sink = SafeSinks([wandb_sink("games", "vdn", {})], warn=warnings.append)
    for _ in range(3):
        sink.write(RECORD)
    sink.close()
    assert len(warnings) == 1
    assert f"{where}: the service is away" in warnings[0]


def test_wandb_gets_a_copy_of_the_settings(monkeypatch):
    calls = []
    fake_wandb(monkeypatch, calls)
    settings = {"seed": 3}
    WandbSink("games", "vdn", settings)
    calls[0][2]["config"]["seed"] = 4
    assert settings == {"seed": 3}
