"""Worker processes as their parent sees them: one message per step, and no answer is an answer too."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from spnpolicy.base.errors import EnvError
from spnpolicy.envs.faults import Fault, last_lines, place
from spnpolicy.envs.pettingzoo.share import MOST_FAILURES, Rows, Share
from spnpolicy.envs.pettingzoo.worker import NOTE_BYTES

START_SECONDS = 120.0
"""Time for a new process to import and make its environments."""
PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from spnpolicy.envs.pettingzoo.worker import main; main(*map(int, sys.argv[2:]))"
)
ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}
"""One thread per worker: the processes share the cores already."""


class Lost(Exception):
    """A worker gave no answer."""

    def __init__(self, field: str, text: str, traceback: str) -> None:
        super().__init__(text)
        self.field, self.text, self.traceback = field, text, traceback


class Local:
    """A share of the games in this very process, with the two-part call of a `Worker`."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self._answer: Any = None

    def send(self, method: str, *arguments: Any) -> None:
        """Do it at once; `receive` hands over the answer."""
        self._answer = getattr(self.share, method)(*arguments)

    def receive(self) -> Any:
        """Return the answer to the latest `send`."""
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        """Close the environments."""
        self.share.close()


class _Process(NamedTuple):
    """A running worker: what it takes to talk to it and to end it."""

    popen: subprocess.Popen[bytes]
    pipe: Connection
    notes: Any


class Worker:
    """A share of the games in a process of its own, which is replaced when it dies or hangs.

    The process is an interpreter started with our program, not a copy of the user's script: it runs no line
    of that, so scripts need no `if __name__ == "__main__"`, and notebooks work.

    Args:
        name: name of the environment, for messages.
        indices: indices of its games in the whole batch.
        timeout: seconds without an answer after which it counts as hung.
        opening: what `spnpolicy.envs.pettingzoo.worker` needs to make its share.
    """

    def __init__(self, name: str, indices: list[int], timeout: float, opening: dict[str, Any]) -> None:
        self._name, self._indices, self._timeout = name, indices, timeout
        self._opening = opening | {"indices": indices}
        self._process: _Process | None = None
        self._end: weakref.finalize[..., Any] | None = None
        self._method: str = ""
        self._arguments: tuple[Any, ...] = ()
        self._seed, self._episodes = 0, np.zeros(len(indices), np.int64)
        self._ages = np.zeros(len(indices), np.int64)
        self._losses = 0
        self._is_owed = self._is_opening = False
        self._sent_at = 0.0

    def send(self, method: str, *arguments: Any) -> None:
        """Ask for something; starts the process if there is none."""
        if self._is_owed:
            # an exception, Ctrl-C perhaps, came between question and answer: who answers now would answer that
            self._kill()
        self._method, self._arguments, self._is_owed = method, arguments, True
        if method in ("reset", "load_state_dicts"):
            self._seed, self._episodes = arguments[0], np.array(arguments[1])
        # Without waiting for a new process to be ready, so that those of a batch start side by side.
        self._post(self._process or self._start(), (method, arguments))

    def receive(self) -> Any:
        """Wait for the answer; where none comes, start a new process and return the beginnings of new episodes.

        Raises:
            EnvError: the environments could not be made or restarted.
        """
        try:
            answer = self._answer()
        except Lost as loss:
            answer = self._replace_process(loss)
        else:
            if self._method == "step":
                self._losses = 0
        self._is_owed = False
        if isinstance(answer, Rows):
            self._remember(answer)
        return answer

    def close(self) -> None:
        """End the process; it closes its environments by itself when the pipe is closed."""
        self._kill(patience=1.0)

    def _remember(self, rows: Rows) -> None:
        if self._method == "restart":
            self._episodes[self._arguments[0]] = rows.episodes
            self._ages[self._arguments[0]] = 0
            return
        is_new = rows.episodes != self._episodes
        self._episodes = rows.episodes.copy()
        self._ages = np.where(is_new, 0, self._ages + 1) if self._method == "step" else np.zeros_like(self._ages)

    def _start(self) -> _Process:
        ours, theirs = socket.socketpair()
        notes = tempfile.TemporaryFile()
        notes.write((-1).to_bytes(NOTE_BYTES, "little", signed=True))
        notes.flush()
        with theirs:
            descriptors = (theirs.fileno(), notes.fileno())
            path = json.dumps([entry or os.getcwd() for entry in sys.path])
            words = [sys.executable, "-c", PROGRAM, path, *map(str, descriptors), str(os.getpid())]
            # Our own words only; and a session of its own, so that Ctrl-C in the terminal does not reach it.
            popen = subprocess.Popen(  # noqa: S603
                words,
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=descriptors,
                start_new_session=True,
                env={**os.environ, **ONE_THREAD, "PYGAME_HIDE_SUPPORT_PROMPT": "1"},
            )
        self._process = _Process(popen, Connection(ours.detach()), notes)
        self._end = weakref.finalize(self, _end, self._process, 0.0)
        self._post(self._process, ("open", self._opening))
        self._is_opening = True
        return self._process

    def _post(self, process: _Process, message: Any) -> None:
        self._sent_at = time.monotonic()
        # a broken pipe shows when the answer is asked for
        with contextlib.suppress(OSError):
            process.pipe.send(message)

    def _answer(self) -> Any:
        """Wait for the answer to the latest question, and before that, if need be, for the process to be ready."""
        if self._is_opening:
            self._next_answer(START_SECONDS)
            self._is_opening = False
            self._sent_at = time.monotonic()
        return self._next_answer(self._timeout)

    def _next_answer(self, timeout: float) -> Any:
        process = self._process
        assert process is not None, "only asked after a start"
        pipe = process.pipe
        try:
            if not pipe.poll(max(0.0, self._sent_at + timeout - time.monotonic())):
                with contextlib.suppress(OSError):
                    process.popen.send_signal(signal.SIGUSR1)
                # the time that faulthandler takes to write where the process is
                time.sleep(0.2)
                raise Lost("hang", f"gave no answer for {timeout:g} s and was ended", self._last_words(process))
            problem, answer = pipe.recv()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(5)
            raise Lost("death", f"died ({_cause(process.popen.poll())})", self._last_words(process)) from None
        if problem:
            # whatever else it was asked, it has no environments to answer with
            self._kill()
            raise EnvError(problem if problem.startswith(self._name) else f"{self._name}: {problem}")
        return answer

    def _replace_process(self, loss: Lost) -> Any:
        """Start a new process after a loss and return the beginnings of the next episodes of all its games."""
        if self._method in ("state_dicts", "load_state_dicts"):
            self._kill()
            raise EnvError(f"{self._name}: the worker process of envs {self._indices} {loss.text}; start it again.")
        faults: list[Fault] = []
        while True:
            self._losses += 1
            faults.append(self._fault(loss))
            self._kill()
            if self._losses >= MOST_FAILURES:
                raise EnvError(
                    f"{faults[-1].message} That was the {MOST_FAILURES}rd time without a step in between."
                    f"{last_lines(loss.traceback)}"
                )
            try:
                self._post(self._start(), ("reset", (self._seed, self._episodes + 1)))
                rows: Rows = self._answer()
            except Lost as another:
                loss = another
                self._episodes = self._episodes + 1
            else:
                break
        rows = rows._replace(faults=[*faults, *rows.faults])
        if self._method == "step":
            rows.discarded[:] = rows.truncated[:] = True
        elif self._method == "restart":
            # every game of the process began anew, not only those that were asked for; nobody would know
            raise EnvError(f"{faults[-1].message} It was restarting games just then; start again.")
        return rows

    def _fault(self, loss: Lost) -> Fault:
        process = self._process
        note = b"" if process is None else os.pread(process.notes.fileno(), NOTE_BYTES, 0)
        row = int.from_bytes(note, "little", signed=True) if note else -1
        known = max(row, 0)
        env, episode, age = self._indices[known], int(self._episodes[known]), int(self._ages[known])
        age += self._method == "step"
        doing = f"during {self._method}()" if row >= 0 else "between two games"
        others = len(self._indices) - 1
        dropped = f"this episode and those of {others} more in that process" if others else "this episode"
        message = (
            f"{place(self._name, env, episode, age)}: the worker process {loss.text} {doing}; "
            f"it was started anew, {dropped} dropped."
        )
        return Fault(env, episode, age, None, loss.field, message, loss.traceback)

    def _last_words(self, process: _Process) -> str:
        return os.pread(process.notes.fileno(), 2**16, NOTE_BYTES).decode("utf-8", "replace")

    def _kill(self, patience: float = 0.0) -> None:
        if self._end is not None:
            self._end.detach()
            self._end = None
        if self._process is not None:
            _end(self._process, patience)
        self._process = None
        self._is_owed = False


def _end(process: _Process, patience: float) -> None:
    """Close the pipe, which ends a healthy worker; kill it if it is still there after `patience` seconds."""
    process.pipe.close()
    process.notes.close()
    try:
        process.popen.wait(patience)
    except subprocess.TimeoutExpired:
        process.popen.kill()
        process.popen.wait()


def _cause(status: int | None) -> str:
    if status is None:
        return "without an exit status"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
