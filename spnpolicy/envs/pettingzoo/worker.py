"""The program of a worker process: it keeps a share of the games and answers one message per step."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.envs.faults import last_lines

NOTE_BYTES = 8
"""The notes of a worker begin with the row at work; the rest is what faulthandler writes."""


def main(connection: int, notes: int, parent: int) -> None:
    """Serve until the other end closes or the parent is gone.

    Args:
        connection: file descriptor of the two-way pipe to the parent.
        notes: file descriptor of a file in which the parent looks when no answer comes.
        parent: process id of the parent.
    """
    # Ctrl-C is for the parent, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.lseek(notes, NOTE_BYTES, os.SEEK_SET)
    faulthandler.enable(notes)
    faulthandler.register(signal.SIGUSR1, notes)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    pipe = Connection(connection)
    _serve(pipe, notes)
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking an interpreter apart takes longer than all the rest, and there is nothing left to save.
    os._exit(0)


def write_note(notes: int, row: int) -> None:
    """Note the row that is at work."""
    os.pwrite(notes, row.to_bytes(NOTE_BYTES, "little", signed=True), 0)


def _serve(pipe: Connection, notes: int) -> None:
    share: Any = None
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            if share is not None:
                share.close()
            return
        try:
            if method == "open":
                share = _open_share(notes, **arguments)
                answer = None
            else:
                answer = getattr(share, method)(*arguments)
            problem = ""
        except SpnPolicyError as error:
            problem, answer = str(error), None
        except Exception as error:
            lines = last_lines(traceback.format_exc())
            problem, answer = f"the worker process failed: {type(error).__name__}: {error}{lines}", None
        # a parent that is gone is noticed when it is asked for the next question
        with contextlib.suppress(OSError):
            pipe.send((problem, answer))


def _open_share(
    notes: int,
    *,
    name: str,
    target: str,
    options: dict[str, Any],
    layout_options: dict[str, Any],
    indices: list[int],
) -> Any:
    # Imported here, so that what an import prints or raises is seen by the parent like everything else.
    from spnpolicy.envs.pettingzoo.game import layout_of
    from spnpolicy.envs.pettingzoo.makers import parallel_maker
    from spnpolicy.envs.pettingzoo.share import Share

    make = parallel_maker(name, target, options)
    first = make()
    layout = layout_of(name, first, **layout_options)
    return Share(name, make, layout, indices, ready=[first], note=lambda row: write_note(notes, row))


def _follow(parent: int) -> None:
    """End this process soon after its parent, even while an environment hangs."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)
