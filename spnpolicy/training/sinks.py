"""Sinks: other programs that are shown the metrics of a run, such as TensorBoard and Weights & Biases.

metrics.jsonl is always written and is what everything else reads. A sink gets copies, in a thread of its own: it can
be slow, fail or hang, and the run goes on with the same numbers.
"""

import contextlib
import copy
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from spnpolicy.base.errors import ConfigError

CAPACITY = 10_000
"""Records that may wait for a sink before it is given up."""
_SECONDS_TO_CLOSE = 15.0


@runtime_checkable
class Sink(Protocol):
    """What is told every record of metrics.jsonl."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one record; it has a "kind" and a "step"."""
        ...

    def close(self) -> None:
        """Finish; nothing is written afterwards."""
        ...


def warn_on_stderr(message: str) -> None:
    """Print a warning where it does not mix with results; a closed stderr is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(f"spnpolicy: warning: {message}", file=sys.stderr, flush=True)


class SafeSinks:
    """Several sinks as one that never raises: after one warning a sink that fails is left out.

    Every sink gets its own copy of a record, so none can change what others or the run see. Interruptions such as
    Ctrl-C pass.
    """

    def __init__(self, sinks: Iterable[Sink] = (), *, warn: Callable[[str], None] = warn_on_stderr):
        self._sinks: list[tuple[str, Sink]] = [
            (str(getattr(sink, "name", type(sink).__name__)), sink) for sink in sinks
        ]
        self._warn = warn

    def write(self, record: Mapping[str, Any]) -> None:
        """Hand a record to all of them."""
        self._each(lambda sink: sink.write(copy.deepcopy(dict(record))))

    def close(self) -> None:
        """Finish all of them; each has a bounded time for it."""
        self._each(lambda sink: sink.close())
        self._sinks = []

    def _each(self, act: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks):
            try:
                act(sink)
            except Exception as problem:
                self._sinks = [(other, kept) for other, kept in self._sinks if kept is not sink]
                self._tell(name, problem)

    def _tell(self, name: str, problem: Exception) -> None:
        what = f"{type(problem).__name__}: {problem}".splitlines()[0][:300]
        with contextlib.suppress(Exception):
            self._warn(f"{name} failed and is left out from here on ({what}). The run itself and its files go on.")


class QueuedSink:
    """A sink in a thread of its own, so that nobody waits for it: not for its start, a record or its end.

    It is made in that thread as well, because logging in to a service may hang. Problems are raised by the next call.
    """

    def __init__(self, name: str, make: Callable[[], Sink], *, capacity: int = CAPACITY):
        self.name = name
        self._make = make
        # None is the sign to finish.
        self._records: queue.Queue[Mapping[str, Any] | None] = queue.Queue(capacity)
        self._problem: BaseException | None = None
        # A daemon: a hanging service must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Any]) -> None:
        """Put a record in line.

        Raises:
            RuntimeError: the sink failed, or does not keep up.
        """
        self._check()
        try:
            self._records.put_nowait(record)
        except queue.Full:
            raise RuntimeError(f"{self._records.maxsize} records wait, and it does not keep up") from None

    def close(self, *, seconds: float = _SECONDS_TO_CLOSE) -> None:
        """Let it write what is in line, for a limited time.

        Raises:
            RuntimeError: it failed, or was not ready in time.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._records.put(None, timeout=seconds)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._check()
        if self._thread.is_alive():
            raise RuntimeError(f"it did not finish within {seconds:g} seconds, and what it had not written is lost")

    def _work(self) -> None:
        sink: Sink | None = None
        try:
            record = self._records.get()
            if record is None:
                # A run that is refused at its start must leave nothing behind.
                return
            sink = self._make()
            while record is not None:
                sink.write(record)
                record = self._records.get()
            sink.close()
        # Whatever it is, in this thread nobody else would see it: services end themselves with SystemExit.
        except BaseException as problem:
            self._problem = problem
            if sink is not None:
                with contextlib.suppress(BaseException):
                    sink.close()

    def _check(self) -> None:
        if self._problem is not None:
            raise RuntimeError(f"{type(self._problem).__name__}: {self._problem}") from self._problem


class TensorBoardSink:
    """Writes scalars as TensorBoard events, one file per process, readable while the run goes on."""

    def __init__(self, folder: Path):
        # TensorBoard's own record format; torch.utils.tensorboard would load TensorFlow where it is installed.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # The classes of protocol buffers are made when they are imported.
        events: Any = event_pb2
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        folder.mkdir(parents=True, exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 1_000_000_000)
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{rest}"
        self._file = (folder / name).open("xb")
        self._writer = RecordWriter(self._file)
        self._put(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record as KIND/NAME at its step."""
        value = self._summary.Value
        values = [value(tag=tag, simple_value=number) for tag, number in scalars(record).items()]
        self._put(self._event(wall_time=time.time(), step=record["step"], summary=self._summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _put(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._file.flush()


class WandbSink:
    """Sends the numbers to Weights & Biases."""

    def __init__(self, project: str, name: str, config: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports] - an extra

        self._run: Any = wandb.init(project=project, name=name, config=dict(config))

    def write(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of a record as KIND/NAME at its step."""
        self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        """Finish the run there."""
        self._run.finish()


def tensorboard_sink(folder: Path) -> QueuedSink:
    """Return a TensorBoard sink in a thread of its own.

    Raises:
        ConfigError: tensorboard is not installed.
    """
    _require("tensorboard")
    return QueuedSink("TensorBoard", lambda: TensorBoardSink(folder))


def wandb_sink(project: str, name: str, config: Mapping[str, Any]) -> QueuedSink:
    """Return a Weights & Biases sink in a thread of its own: for a project and run there, which keeps the settings.

    Raises:
        ConfigError: wandb is not installed.
    """
    _require("wandb")
    return QueuedSink("Weights & Biases", lambda: WandbSink(project, name, config))


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record as KIND/NAME -> value; texts and flags are left out, and so is the step."""
    prefix = record.get("kind", "metrics")
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in record.items()}
    return {
        f"{prefix}/{name}": float(value)
        for name, value in plain.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _require(package: str) -> None:
    # Asked for and not there is a mistake of the command, not a failure on the way: better said before training.
    if find_spec(package) is None:
        raise ConfigError(f"--{package} needs {package}, which is not installed: pip install 'spnpolicy[{package}]'")
