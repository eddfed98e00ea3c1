"""Readers of checkpoints that do what a reader must not do, to show that the watch of `refuse_attacks` sees it.

    python -m tests.attacks.bad_readers folder

The folder holds two harmless checkpoints, called "attack" and "harmless". One line is printed for each reader.
"""

import ctypes
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from spnpolicy.base.errors import CheckpointError
from tests.attacks import refuse_attacks


def good(root: Path) -> None:
    raise CheckpointError(f"{root / 'latest'} is bad.")


def process(root: Path) -> None:
    os.posix_spawn("/bin/true", ["true"], {})


def fork(root: Path) -> None:
    os.fork()


def connection(root: Path) -> None:
    socket.socket()


def written(root: Path) -> None:
    (root / "latest").write_text("x")


def made(root: Path) -> None:
    (root.parent / "EXPLODED").mkdir()


def removed(root: Path) -> None:
    (root / "latest").unlink()


def unpickled(root: Path) -> None:
    pickle.loads(pickle.dumps(print))


def executed(root: Path) -> None:
    exec("1")


def foreign(root: Path) -> None:
    ctypes.CDLL(None)


def wrong_error(root: Path) -> None:
    raise ValueError(root)


def unnamed_file(root: Path) -> None:
    raise CheckpointError("no")


def believing(root: Path) -> None:
    pass


def greedy(root: Path) -> None:
    bytearray(1 << 30)


def dying(root: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


READERS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        *(good, process, fork, connection, written, made, removed, unpickled, executed, foreign),
        *(wrong_error, unnamed_file, believing, greedy, dying),
    )
}


def main() -> None:
    watch = refuse_attacks.Watch()
    for name, reader in READERS.items():
        refuse_attacks.load_checkpoint = reader
        refusal = refuse_attacks.read_in_fork(name, Path(sys.argv[1]) / "attack" / "checkpoints", watch)
        print(f"{name}: {refusal.problem}")


if __name__ == "__main__":
    main()
