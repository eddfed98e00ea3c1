"""Talk to the process of one engine; one that dies or hangs is an answer too, and is started again."""

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.circuit_speed.engines import Engine

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 120.0


def command_of(engine: Engine, python: Path) -> list[str]:
    """Return the command that runs an engine's worker with the Python of its environment."""
    return [str(python), "-m", f"benchmarks.circuit_speed.engines.{engine.module}", *engine.arguments]


class Process:
    """One engine's worker.

    Args:
        command: what starts it.
        memory: GiB that it may allocate.
        limit: seconds after which a question is given up.
    """

    def __init__(self, command: Sequence[str], *, memory: float, limit: float) -> None:
        self.limit = limit
        self._command = list(command)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._environment = os.environ | threads | {"CIRCUIT_SPEED_MEMORY": f"{memory:g}"}
        self._process: subprocess.Popen[bytes] | None = None
        self._task: dict[str, Any] | None = None

    def open(self, task: dict[str, Any]) -> dict[str, Any]:
        """Let the engine build a task; remembered, so that a restarted process builds it again."""
        self._task = None
        reply = self.ask("open", task=task)
        if "error" not in reply:
            self._task = task
        return reply

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Ask and return the reply; {"error": reason} when there is none."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                cwd=_ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            first = self._ask({"do": "versions"}, _START_SECONDS)
            if "error" in first:
                return {"error": f"does not start: {first['error']}"}
            if self._task is not None and "error" in (again := self._ask({"do": "open", "task": self._task})):
                return again
        return self._ask({"do": what, **arguments})

    def _ask(self, request: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        limit = limit or self.limit
        end = time.monotonic() + limit
        text = b""
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            while not text.endswith(b"\n"):
                if not select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                    self.close()
                    return {"error": f"no answer in {limit:g} s"}
                part = process.stdout.read(1 << 16)
                if not part:
                    raise BrokenPipeError
                text += part
        except BrokenPipeError:
            # It closed its output, so it is ending: let it, because its own code says more than that of our kill.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5.0)
            self.close()
            return {"error": f"the process ended with code {process.returncode}"}
        return json.loads(text)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
