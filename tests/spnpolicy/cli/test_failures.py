"""Every exit code that --help promises, reached from the outside."""

import os
import signal
import subprocess
import sys
import time

import pytest
from cli_cases import MATRIX, PROGRAM, TINY, endless, wait_for

from spnpolicy.cli import main
from spnpolicy.cli.command import EXIT_CODES


def test_0_and_2_as_a_program():
    for words, code in ((["list"], 0), (["lisst"], 2)):
        done = subprocess.run([sys.executable, "-m", "spnpolicy", *words], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert bool(done.stderr) == bool(code)


def test_3_for_an_unforeseen_error_in_one_line_that_says_where_its_traceback_is(monkeypatch, tmp_path, capsys):
    def break_down(*_, **__):
        raise RuntimeError("the cat sat on the keyboard")

    monkeypatch.setattr("spnpolicy.training.loop.train", break_down)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["train", "vdn", "coverage", *TINY]) == 3
    errors = capsys.readouterr().err
    assert "unexpected RuntimeError: the cat sat on the keyboard" in errors
    assert "Traceback" not in errors
    (saved,) = tmp_path.glob("spnpolicy-traceback-*.txt")
    assert str(saved) in errors
    assert "break_down" in saved.read_text()


@pytest.mark.full
@pytest.mark.parametrize(
    "words",
    # Training waits for all retries of its last checkpoint, which takes 21 seconds.
    [pytest.param([], id="train", marks=pytest.mark.slow), pytest.param(["--video", "x.mp4"], id="evaluate --video")],
)
def test_4_when_the_disk_is_full(words, trained, tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " + (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    )
    program = [PROGRAM[0], "-c", limit + PROGRAM[2]]
    train = ["train", "vdn", "coverage", *TINY, "--out", "run"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*program, *(["evaluate", str(trained / "vdn"), "--episodes", "5", *words] if words else train)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    if words:
        assert not list(tmp_path.iterdir())
    else:
        assert "cannot write a checkpoint" in done.stderr


def test_5_when_an_environment_breaks_its_contract(tmp_path, capsys):
    assert main(["train", "vdn", "broken_env:NanReward", *MATRIX, "--out", str(tmp_path / "run")]) == 5
    errors = capsys.readouterr().err
    assert "reward" in errors
    assert "nan" in errors
    assert "Traceback" not in errors


def test_6_when_numbers_explode(tmp_path, capsys):
    words = [
        "train",
        "vdn",
        "coverage",
        *TINY,
        "--algorithm.critic.learning_rate",
        "1e38",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 6
    errors = capsys.readouterr().err
    assert "learning_rate" in errors
    assert "Traceback" not in errors


def test_130_on_ctrl_c_with_a_folder_that_can_be_resumed(tmp_path):
    folder = tmp_path / "run"
    steps = []
    for words in (["train", "vdn", "coverage", *endless(), "--out", str(folder)], ["train", "--resume", str(folder)]):
        log = folder / "metrics.jsonl"
        before = log.stat().st_size if log.exists() else 0
        with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda log=log, before=before: log.exists() and log.stat().st_size > before + 2_000, process)
            asked = time.monotonic()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
            print(f"ended {time.monotonic() - asked:.2f} s after Ctrl-C")
        assert process.returncode == 130
        assert f"continue: spnpolicy train --resume {folder}" in output
        assert "Traceback" not in errors
        assert not (folder / "result.json").exists()
        steps.append(int(output.partition("interrupted after ")[2].partition(" ")[0].replace(",", "")))
    assert 0 < steps[0] < steps[1]


def test_help_names_all_of_them(capsys):
    assert main(["--help"]) == 0
    assert EXIT_CODES in capsys.readouterr().out
    for code in ("0 ok", "2 usage", "3 failed run", "4 disk", "5 env", "6 numbers", "130 interrupted"):
        assert code in EXIT_CODES
