"""Faults of environments: what went wrong, where, and in whose words."""

from typing import NamedTuple

FAILURES = ("crash", "reset", "hang", "death")
"""Fields of faults in which nothing wrong was shown: the environment raised, or its process hung or died."""
TRACEBACK_LINES = 4
"""Lines of an environment's traceback that fit into a message; a `Fault` holds all of them."""


class Fault(NamedTuple):
    """One fault of one environment of a batch."""

    env: int
    """Index of the environment."""
    episode: int
    """Number of the episode in that environment, from 0."""
    step: int
    """Number of the step in that episode, from 1; 0 is what `reset` showed."""
    agent: int | None
    """Index of the agent, None where the fault belongs to no single one."""
    field: str
    """What was wrong: a field of `Step`, "agents", or one of `FAILURES`."""
    message: str
    """The whole story in one sentence."""
    traceback: str = ""
    """Traceback of the environment itself, empty if it raised nothing."""


class BadValueError(Exception):
    """An environment of others showed something that its interface forbids; becomes a `Fault`."""

    def __init__(self, field: str, text: str, agent: int | None = None) -> None:
        super().__init__(text)
        self.field, self.text, self.agent = field, text, agent


def place(name: str, env: int, episode: int, step: int) -> str:
    """Return where something happened, such as "coverage[env 3, episode 118, step 41]"."""
    return f"{name}[env {env}, episode {episode}, step {step}]"


def last_lines(traceback: str) -> str:
    """Return the end of a traceback, indented, to stand below a message; empty for an empty one."""
    lines = [line for line in traceback.splitlines() if line.strip(" ^~")]
    return "".join(f"\n    {line.strip()}" for line in lines[-TRACEBACK_LINES:])
