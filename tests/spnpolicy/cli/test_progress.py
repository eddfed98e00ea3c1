"""Progress: live in a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from factor_q.inference import Progress
from spnpolicy.cli import progress
from spnpolicy.cli.progress import InferenceProgress, PictureProgress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7300, "2 h 1 min"), (1e999, "unknown")],
)
def test_durations(seconds, text):
    assert duration(seconds).startswith(text)


def test_inference_is_shown_in_a_terminal_only(monkeypatch, capsys):
    stages = [Progress("log Z by elimination", None), Progress("fitting keep_set", 3.0),
              Progress("fitting keep_set", 3.0, 7, -1.5)]  # fmt: skip

    def show():
        with InferenceProgress() as shown:
            for stage in stages:
                shown(stage)

    shows_in_a_terminal_only(
        show,
        ("log Z by elimination", "fitting keep_set", "step 7, -1.500000 nats, at most 3 s left"),
        monkeypatch,
        capsys,
    )


def test_drawing_is_shown_in_a_terminal_only(monkeypatch, capsys):
    def show():
        with PictureProgress() as shown:
            shown("reading", 0, None)
            shown("playing and drawing", 7, 61)
            assert list(shown.over("writing the animation", "abc", 3)) == ["a", "b", "c"]

    parts = ("reading", "playing and drawing", "writing the animation", "3 of 3")
    shows_in_a_terminal_only(show, parts, monkeypatch, capsys)


def shows_in_a_terminal_only(show, parts, monkeypatch, capsys):
    show()
    assert capsys.readouterr() == ("", "")
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda *, stderr: Console(file=screen, force_terminal=stderr, width=120))
    show()
    for part in parts:
        assert part in screen.getvalue()
