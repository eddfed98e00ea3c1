import base64
import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_cases import write_run, write_runs

from spnpolicy.base.errors import ConfigError
from spnpolicy.cli import main
from spnpolicy.cli.report import MEASURES as NAMES_IN_HELP
from spnpolicy.experiments.media.figures import plain, series_style
from spnpolicy.experiments.media.lines import draw_lines
from spnpolicy.experiments.reports.folder import make_report, write_report_folder
from spnpolicy.experiments.reports.runs import MEASURES
from spnpolicy.training.config import Curriculum

GOOD, POOR = [0.8, 0.9, 0.85, 0.95, 0.7], [0.3, 0.4, 0.2, 0.75, 0.5]
HOSTILE = "<script>alert(1)</script>\"'&$\\frac{x}{"


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    write_runs(folder / "poor", POOR, algorithm="iql")
    write_runs(folder / "good", GOOD, algorithm="vdn")
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """Collects tags and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_the_folder_of_a_report(runs, tmp_path):
    report = make_report([runs])
    told = []
    files = write_report_folder(report, tmp_path / "out", on_picture=lambda *words: told.append(words))
    assert told == [("drawing", number, 4) for number in range(4)]
    assert sorted(path.name for path in files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert {path.name for path in files} == {
        "report.html", "report.txt", "table.csv", "improvement.csv", "curves.csv", "runs.csv", "curves.png",
        "scores.png", "profiles.png", "improvement.png",
    }  # fmt: skip
    assert (tmp_path / "out" / "report.txt").read_text() == report.text
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_the_text_says_everything_that_is_needed_to_judge_it(runs):
    text = make_report([runs]).text
    for part in (
        "10 runs, 2 algorithms, 1 task", "size 5, discount 0.95", "interquartile mean", "P(vdn > iql)",
        "vdn is better than iql", "spnpolicy 0.1.0, torch 2.15", "abc123", "a processor, 2 cores", "sum of rewards",
        "agents: 3", "train.steps 400", "last evaluation during training", "gradient updates  samples per env step",
    ):  # fmt: skip
        assert part in text, part


def test_csv_has_the_exact_numbers(runs, tmp_path):
    report = make_report([runs])
    write_report_folder(report, tmp_path / "out")
    (task,) = report.comparison.tasks
    found = {(row["algorithm"], row["statistic"]): row for row in rows(tmp_path / "out" / "table.csv")}
    iqm = task.aggregates["vdn"]["iqm"]
    own = found["vdn", "iqm"]
    assert [float(own[name]) for name in ("estimate", "low", "high")] == pytest.approx(list(iqm), rel=1e-8)
    assert own["runs"] == "5"
    (pair,) = rows(tmp_path / "out" / "improvement.csv")
    assert (pair["first"], pair["second"]) == ("vdn", "iql")
    assert float(pair["probability"]) == pytest.approx(task.pairs[0].probability.estimate)
    points = rows(tmp_path / "out" / "curves.csv")
    assert [row["step"] for row in points] == ["0", "200", "400"] * 2
    one = {row["algorithm"] + row["seed"]: row for row in rows(tmp_path / "out" / "runs.csv")}["vdn3"]
    assert float(one["last_fraction_of_optimum"]) == 0.95
    costs = ("env_steps", "gradient_updates", "samples", "seconds", "agents", "commit", "attempts")
    assert [one[name] for name in costs] == ["400", "25", "1600", "12.5", "3", "abc123", "1"]
    assert json.loads(one["config"])["train"]["seed"] == 3


def test_the_page_is_complete_and_asks_for_nothing(runs, tmp_path):
    report = make_report([runs])
    write_report_folder(report, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4
    drawn = {path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in images} == drawn
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "form", "base", "a"})
    assert not re.search(r"https?:|@import|url\(|//\w", re.sub(r'src="data:[^"]*"', "", text))
    assert "prefers-color-scheme: dark" in text
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:")
    words = " ".join(page.words)
    for part in ("vdn is better than iql", "abc123", "sum of rewards", "a processor", "How to read this", "Settings"):
        assert part in words, part


def test_names_from_files_are_only_ever_text(tmp_path):
    folder = tmp_path / "runs" / HOSTILE.replace("/", "|")
    attempt = {"commit": HOSTILE, "machine": HOSTILE, "versions": {HOSTILE: HOSTILE}, "device": HOSTILE}
    for seed in range(2):
        write_run(
            folder / f"x{seed}", algorithm=HOSTILE, env=HOSTILE, seed=seed, options={HOSTILE: HOSTILE},
            env_options={HOSTILE: [HOSTILE]}, facts={"num_agents": HOSTILE, "attempts": [attempt]},
        )  # fmt: skip
    write_run(folder / "y", algorithm=HOSTILE, env=HOSTILE, env_options={HOSTILE: [HOSTILE]})
    write_run(folder / "z", algorithm=HOSTILE, finished=False)
    write_report_folder(make_report([tmp_path / "runs"]), tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    known = {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "ul", "li", "div", "table", "thead", "tbody",
        "tr", "th", "td", "img", "details", "summary",
    }  # fmt: skip
    assert {tag for tag, _ in page.tags} == known
    allowed = {"lang", "charset", "name", "content", "http-equiv", "class", "alt", "src"}
    assert {name for _, attributes in page.tags for name in attributes} <= allowed
    assert any("<script>alert(1)</script>" in word for word in page.words)
    assert HOSTILE in rows(tmp_path / "out" / "table.csv")[0]["algorithm"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["$x$", "$", "a$\\frac{", "日本語 🤖", "x" * 500, "_^{}\\"])
def test_pictures_draw_any_name(tmp_path, name):
    write_runs(tmp_path / "runs" / "a", [0.1, 0.2], algorithm=name, env=name)
    write_runs(tmp_path / "runs" / "b", [0.3, 0.4], env=name)
    files = write_report_folder(make_report([tmp_path / "runs"]), tmp_path / "out")
    assert len(files) == 10


def test_formulas_are_not_drawn_and_styles_differ():
    assert plain("a$b$") == r"a\$b\$"
    assert plain("abcdef", 4) == "abc…"
    assert len({series_style(number) for number in range(24)}) == 24


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_runs_without_any_difference_are_drawn_too(tmp_path, value):
    write_runs(tmp_path / "runs" / "a", [value, value])
    write_run(tmp_path / "runs" / "b", value, algorithm="iql", history=[(0, value)])
    assert write_report_folder(make_report([tmp_path / "runs"]), tmp_path / "out")


def test_curves_show_where_stages_change(tmp_path):
    staged = {"curriculum": Curriculum(({"size": 3},)), "changes": [100]}
    write_run(tmp_path / "runs" / "a", **staged)
    report = make_report([tmp_path / "runs"])
    (task,) = report.comparison.tasks
    pictures = []
    for name, ticks in (("plain.png", None), ("none.png", {}), ("ticks.png", task.stage_changes)):
        draw_lines(tmp_path / name, task.curves, title="", ylabel="", ticks=ticks)
        with Image.open(tmp_path / name) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    assert (pictures[0] == pictures[1]).all()
    assert pictures[0].shape != pictures[2].shape or (pictures[0] != pictures[2]).any()
    write_report_folder(report, tmp_path / "out")
    assert "curriculum: size=3" in (tmp_path / "out" / "report.html").read_text() or "size=3" in report.text


def test_several_tasks_have_pictures_each(tmp_path):
    write_runs(tmp_path / "runs" / "a", GOOD)
    write_runs(tmp_path / "runs" / "b", GOOD, env_options={"size": 8})
    files = write_report_folder(make_report([tmp_path / "runs"]), tmp_path / "out")
    names = {path.name for path in files}
    assert {
        "curves-1.png",
        "curves-2.png",
        "scores-1.png",
        "scores-2.png",
        "scores-all.png",
        "profiles-all.png",
    } <= names
    assert not any(name.startswith("improvement-") for name in names)  # there is nobody to compare with


def test_single_runs_have_no_profiles(tmp_path):
    write_run(tmp_path / "runs" / "a")
    files = write_report_folder(make_report([tmp_path / "runs"]), tmp_path / "out")
    assert {path.name for path in files if path.suffix == ".png"} == {"curves.png", "scores.png"}
    assert "\n\n\n" not in (tmp_path / "out" / "report.txt").read_text()


def test_nothing_is_written_over(runs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        write_report_folder(make_report([runs]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_command_prints_the_text_and_takes_a_free_folder(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("10 runs, 2 algorithms, 1 task")
    assert "written to runs/report: report.html, report.txt" in printed
    assert main(["report", "runs", "--measure", "success"]) == 0  # the folder of a report holds no run
    assert "measured: success rate" in capsys.readouterr().out
    assert (tmp_path / "runs" / "report-2" / "report.html").is_file()


def test_the_command_prints_json(runs, tmp_path, capsys):
    write_run(runs / "single", 0.6, algorithm="mean_field")
    assert main(["report", str(runs), "--out", str(tmp_path / "out"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["measure"] == "fraction_of_optimum"
    algorithms = content["tasks"][0]["algorithms"]
    assert algorithms["vdn"]["scores"] == [GOOD]
    assert algorithms["vdn"]["mean"]["estimate"] == pytest.approx(np.mean(GOOD))
    assert algorithms["mean_field"]["iqm"] == {"estimate": 0.6, "low": None, "high": None}
    assert str(tmp_path / "out" / "report.html") in content["files"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUN"),
        (["nowhere"], "nowhere is not a folder of runs"),
        (["runs", "--measure", "succes"], "'success'"),
        (["runs", "--measur", "success"], "--measure"),
        (["runs", "--out", "runs"], "is not empty"),
        (["unfinished"], "--include-unfinished"),
        (["damaged"], "config.json"),
    ],
)
def test_mistakes_are_said_in_a_few_lines_and_write_nothing(runs, tmp_path, monkeypatch, capsys, words, message):
    write_run(tmp_path / "unfinished" / "a", finished=False)
    (write_run(tmp_path / "damaged" / "a") / "config.json").write_text("{]")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.splitlines()) <= 6
    assert "Traceback" not in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_help_names_the_measures_there_are():
    assert NAMES_IN_HELP == MEASURES
