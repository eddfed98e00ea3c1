"""`spnpolicy evaluate`: means, and videos; what a player finds in the file is what was played."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_cases import PROGRAM, SHORT, contents, endless, wait_for
from PIL import Image

from spnpolicy.base.errors import ConfigError
from spnpolicy.cli import evaluate, main
from spnpolicy.cli.progress import PictureProgress
from spnpolicy.experiments.media import video
from spnpolicy.experiments.media.animation import (
    HOLD_MILLISECONDS,
    START_MILLISECONDS,
    STEP_MILLISECONDS,
    Shot,
    shots_of,
)
from spnpolicy.experiments.media.video import FRAMES_PER_SECOND, write_video
from spnpolicy.training.player import Player


def test_evaluate_prints_means_with_errors_and_draws(trained, tmp_path, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(PictureProgress, "__call__", lambda self, *words: told.append(words))
    before = contents(trained)
    gif = tmp_path / "play.gif"
    assert main(["evaluate", str(trained / "spn"), "--episodes", "50", "--gif", str(gif)]) == 0
    text, notes = capsys.readouterr()
    assert notes == ""
    assert "50 greedy episodes" in text
    for name in ("success", "steps", "fraction of the optimum"):
        assert name in text
    with Image.open(gif) as picture:
        assert picture.n_frames > 1
        written = ("writing the animation", picture.n_frames, picture.n_frames)
    assert contents(trained) == before
    assert ("playing and drawing", 0, 20) in told
    assert told[-1] == written


def test_an_animation_that_takes_long_says_so_before(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "_LONG", 0.0)
    evaluate._played(
        SimpleNamespace(
            run=trained / "spn", gif=tmp_path / "x.gif", video=None, checkpoint="latest", seed=0, marginals=False
        )
    )
    assert re.fullmatch(
        r"--gif is large: \d+ pictures of [\d,]+ x \d+ pixels, .* about \d+ s to write\n", capsys.readouterr().err
    )


def test_a_signal_ends_an_evaluation_with_a_word(trained, monkeypatch, capsys):
    act = Player.act

    def ask_to_end(*words, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return act(*words, **options)

    monkeypatch.setattr(Player, "act", ask_to_end)
    assert main(["evaluate", str(trained / "vdn"), "--episodes", "5"]) == 130
    assert capsys.readouterr() == ("", "spnpolicy: interrupted.\n")


def test_a_killed_run_can_be_evaluated(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", "vdn", "coverage", *endless(), "--checkpoint-every", "80", "--out", str(folder)]
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(folder.glob("checkpoints/checkpoint-*"))) >= 2, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert main(["evaluate", str(folder), "--episodes", "10"]) == 0
    assert "10 greedy episodes" in capsys.readouterr().out


def plain(color, height=40, width=60):
    return np.full((height, width, 3), color, np.uint8)


def decoded(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        facts = (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate)
        return facts, frames, float(stream.duration * stream.time_base)


def test_a_video_plays_what_it_was_given(tmp_path):
    colors = [(200, 30, 40), (20, 160, 60), (40, 60, 220)]
    shots = [Shot(plain(color), time) for color, time in zip(colors, (800, 350, 1_600), strict=True)]
    write_video(shots, tmp_path / "x.mp4")
    (codec, pixels, rate), frames, seconds = decoded(tmp_path / "x.mp4")
    assert (codec, pixels, rate) == ("h264", "yuv420p", FRAMES_PER_SECOND)
    assert seconds == pytest.approx(2.75)
    counts = [time * FRAMES_PER_SECOND // 1_000 for time in (800, 350, 1_600)]
    assert len(frames) == sum(counts)
    expected = np.repeat(colors, counts, axis=0)
    found = np.array([frame.mean((0, 1)) for frame in frames])
    assert np.abs(found - expected).max() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


def test_the_index_lies_before_the_pictures(tmp_path):
    write_video([Shot(plain(90), 500)], tmp_path / "x.mp4")
    content = (tmp_path / "x.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(41, 61), (40, 61), (41, 60), (40, 60)])
def test_odd_sides_become_even(height, width, tmp_path):
    write_video([Shot(plain(90, height, width), 500)], tmp_path / "x.mp4")
    _, frames, _ = decoded(tmp_path / "x.mp4")
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frames[0].astype(int) - 90).max() < 4


def test_a_failure_leaves_what_was_there(tmp_path):
    def shots():
        yield Shot(plain(90), 500)
        raise KeyboardInterrupt

    (tmp_path / "x.mp4").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_video(shots(), tmp_path / "x.mp4")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_rows_of_episodes_are_held_at_both_ends_and_have_one_size():
    episodes = [[plain(10 * index + time, 40, 60 - 2 * index) for time in range(1 + index)] for index in range(4)]
    shots = list(shots_of(episodes, columns=3))
    assert [shot.milliseconds for shot in shots] == [
        START_MILLISECONDS, STEP_MILLISECONDS, HOLD_MILLISECONDS,
        START_MILLISECONDS, STEP_MILLISECONDS, STEP_MILLISECONDS, HOLD_MILLISECONDS,
    ]  # fmt: skip
    assert {shot.picture.shape for shot in shots} == {(40, 180, 3)}
    # Boards from left to right; a finished one waits, and there is nothing beside the last one.
    assert [tuple(shot.picture[5, [5, 65, 125]].T[0]) for shot in shots] == [
        (0, 10, 20), (0, 11, 21), (0, 11, 22), (30, 255, 255), (31, 255, 255), (32, 255, 255), (33, 255, 255)
    ]  # fmt: skip


@pytest.mark.full
def test_video_and_animation_show_the_same(trained, tmp_path, capsys):
    words = ["evaluate", str(trained / "spn"), "--episodes", "5", "--checkpoint", "best"]
    assert main([*words, "--gif", str(tmp_path / "x.gif"), "--video", str(tmp_path / "x.mp4")]) == 0
    text = capsys.readouterr().out
    assert f"animation: {tmp_path / 'x.gif'}" in text
    assert f"video: {tmp_path / 'x.mp4'}" in text
    _, frames, seconds = decoded(tmp_path / "x.mp4")
    start = 0.0
    with Image.open(tmp_path / "x.gif") as gif:
        for number in range(gif.n_frames):
            gif.seek(number)
            picture = np.asarray(gif.convert("RGB")).astype(int)
            frame = frames[round(start * FRAMES_PER_SECOND)][: len(picture), : picture.shape[1]]
            assert np.abs(frame - picture).mean() < 4
            start += gif.info["duration"] / 1_000
    assert seconds == pytest.approx(start)


@pytest.mark.full
@pytest.mark.parametrize(
    ("env", "options"),
    [("pettingzoo:mpe2.simple_spread_v3", ["--env.max_cycles", "4"]), ("foraging", ["--env.workers", "1"])],
)
def test_environments_of_others_are_shown(env, options, tmp_path, capsys):
    run, files = str(tmp_path / "run"), [str(tmp_path / name) for name in ("x.gif", "x.mp4")]
    assert main(["train", "iql", env, *SHORT, *options, "--out", run]) == 0
    assert main(["evaluate", run, "--episodes", "2", "--gif", files[0], "--video", files[1]]) == 0
    assert f"animation: {files[0]}\nvideo: {files[1]}\n" in capsys.readouterr().out
    _, frames, seconds = decoded(files[1])
    with Image.open(files[0]) as gif:
        times = []
        for number in range(gif.n_frames):
            gif.seek(number)
            picture = np.asarray(gif.convert("RGB")).astype(int)
            frame = frames[round(sum(times) * FRAMES_PER_SECOND / 1_000)][: len(picture), : picture.shape[1]]
            assert np.abs(frame - picture).mean() < 4
            times.append(gif.info["duration"])
    assert seconds == pytest.approx(sum(times) / 1_000)
    # Three boards side by side in two rows, one after the other; the games differ, and somebody moves.
    if "spread" in env:
        assert frames[0].shape == (368, 3 * 368, 3)
        assert sum(times) == 2 * (START_MILLISECONDS + 3 * STEP_MILLISECONDS + HOLD_MILLISECONDS)
    boards = np.split(frames[0].astype(int), 3, axis=1)
    assert np.abs(boards[0] - boards[1]).max() > 100
    assert len({frame.tobytes() for frame in frames}) > 3


def test_an_environment_without_pictures_says_so_before_it_is_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs" / "pettingzoo"))
    run = str(tmp_path / "run")
    assert main(["train", "iql", "pettingzoo:small_games.Pair", *SHORT, "--out", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--gif", str(tmp_path / "x.gif")]) == 2
    answer = capsys.readouterr()
    assert "pettingzoo:small_games.Pair draws no pictures: it cannot be rendered with" in answer.err
    assert not answer.out
    assert not (tmp_path / "x.gif").exists()


def test_without_pyav_it_says_how_to_install_it(monkeypatch, trained, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'spnpolicy\[video\]'"):
        video.check_video_support()
    assert main(["evaluate", str(trained / "vdn"), "--video", str(tmp_path / "x.mp4")]) == 2
    assert "pip install 'spnpolicy[video]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_evaluation_without_a_video_does_not_need_pyav(trained):
    program = (
        "import sys; sys.modules['av'] = None; from spnpolicy.cli import main; "
        f"sys.exit(main(['evaluate', {str(trained / 'vdn')!r}, '--episodes', '3']))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
