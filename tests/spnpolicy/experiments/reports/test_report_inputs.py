import json

import numpy as np
import pytest
from report_cases import evaluation, write_evaluation, write_run, write_runs

from spnpolicy.base.decoding import encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.reports.folder import make_report
from spnpolicy.experiments.reports.groups import group_runs, in_words
from spnpolicy.experiments.reports.runs import find_runs, missing_trials, printable, read_run, read_runs
from spnpolicy.experiments.sweeps.plan import trial_folder
from tests.spnpolicy.experiments.benchmarks.benchmark_cases import tiny_plan


def grouped(folder):
    return group_runs(read_runs(find_runs([folder])))


def seeds(task):
    return {label: [run.config.train.seed for run in group] for label, group in task.groups.items()}


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    first = write_run(tmp_path / "a")
    deep = write_run(tmp_path / "sweep" / "trials" / "vdn-seed10", seed=10)
    early = write_run(tmp_path / "sweep" / "trials" / "vdn-seed9", seed=9)
    write_run(first / "inside", seed=5)  # a run holds no runs
    write_run(tmp_path / ".hidden" / "b", seed=6)
    assert find_runs([tmp_path]) == [first, early, deep]
    assert find_runs([first, tmp_path, tmp_path / "sweep" / ".." / "a"]) == [first, early, deep]


def test_what_is_no_run_is_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty is not a run and there is none below it"):
        find_runs([write_run(tmp_path / "run"), tmp_path / "empty"])
    with pytest.raises(ConfigError, match="nowhere is not a folder of runs"):
        find_runs([tmp_path / "nowhere"])


def test_a_run_is_read(tmp_path):
    folder = write_run(tmp_path / "run", 0.8, seed=3)
    write_evaluation(folder, [0.5, 1.0, float("nan")])
    run = read_run(folder)
    assert run.is_finished
    assert (run.step, run.config.train.seed, run.result["updates"]) == (400, 3, 25)
    assert (run.gradient_updates, run.samples_per_env_step) == (25, 4.0)
    assert run.histories["fraction_of_optimum"].steps.tolist() == [0, 200, 400]
    assert run.histories["return"].values.tolist() == [0.0, 4.0, 8.0]
    # An episode in which nothing can be earned has no fraction and does not count.
    assert run.final["fraction_of_optimum"] == pytest.approx(0.75)
    assert run.final_episodes == 3
    assert run.attempt["commit"] == "abc123"


def test_a_torn_last_line_is_dropped_and_an_unknown_measure_is_left_out(tmp_path):
    folder = write_run(tmp_path / "run", finished=False, facts=None)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(evaluation(500, 1.0) | {"success": "nan"}) + "\n" + '{"kind": "evalu')
    run = read_run(folder)
    assert run.step == 500
    assert "success" not in run.histories
    assert len(run.histories["return"].steps) == 4
    assert run.attempt == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", '{"kind": "evaluation"\n{}\n', "line 1"),
        ("metrics.jsonl", '{"kind": "evaluation", "step": "x"}\n', "no step"),
        ("metrics.jsonl", '{"kind": "evaluation", "step": true}\n', "no step"),
        ("metrics.jsonl", '{"kind": "evaluation", "step": 4}\n{"kind": "evaluation", "step": 4}\n', "do not rise"),
        ("metrics.jsonl", '{"kind": "evaluation", "step": 4, "return": [1]}\n', "return of an evaluation"),
        ("metrics.jsonl", '{"kind": "evaluation", "step": 4, "samples": "9"}\n', "samples of the last evaluation"),
        ("metrics.jsonl", "\x00\x01\n", "line 1"),
        ("config.json", "{", "not valid JSON"),
        ("config.json", '{"algorithm": "vdn"}', "'env' is missing"),
        ("result.json", "[]", "damaged"),
        ("run.json", '{"attempts": 3}', "damaged"),
        ("evaluation.csv", "layout\n1\n", "damaged"),
    ],
)
def test_a_damaged_run_is_named_with_what_is_wrong(tmp_path, name, content, message):
    write_run(tmp_path / "good")
    folder = write_run(tmp_path / "bad", seed=1)
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match="a run is damaged") as caught:
        read_runs(find_runs([tmp_path]))
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    assert "good" not in str(caught.value)


def test_many_damaged_runs_are_counted(tmp_path):
    for seed in range(5):
        (write_run(tmp_path / f"r{seed}", seed=seed) / "result.json").write_text("x")
    with pytest.raises(ConfigError, match=r"5 runs are damaged(.|\n)*and 2 more"):
        read_runs(find_runs([tmp_path]))


def test_planned_runs_that_were_not_begun_are_named(tmp_path):
    plan = tiny_plan()
    folder = tmp_path / "plan"
    begun = plan.trials[0]
    write_run(trial_folder(folder, begun))
    (folder / "plan.json").write_text(json.dumps(encode(plan)))
    missing = missing_trials([folder], find_runs([folder]))
    assert missing == [f"plan/{trial_folder(folder, trial).name}" for trial in plan.trials[1:]]


def test_a_task_is_an_environment_with_options_and_discount(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1)
    write_run(tmp_path / "c", env_options={"size": 8})
    write_run(tmp_path / "d", train={"discount": 0.9})
    write_run(tmp_path / "e", env="matrix", env_options={})
    tasks = grouped(tmp_path)
    assert [task.label for task in tasks] == [
        "coverage size=5 discount=0.95", "coverage size=8 discount=0.95", "coverage size=5 discount=0.9", "matrix",
    ]  # fmt: skip
    assert seeds(tasks[0]) == {"vdn": [0, 1]}
    assert in_words(tasks[0].settings) == "env coverage, size 5, discount 0.95"


def test_an_algorithm_is_called_by_what_tells_it_from_others(tmp_path):
    common = {"network": {"hidden": [64, 64], "features": {"frequencies": 4}}}
    write_run(tmp_path / "a", algorithm="spn_ac", options={**common, "labels": 4})
    write_run(tmp_path / "b", algorithm="spn_ac", options={**common, "labels": 16})
    write_run(
        tmp_path / "c",
        algorithm="spn_ac",
        options={**common, "labels": 16, "network": {"hidden": [64, 64], "features": {"frequencies": 8}}},
    )
    write_run(tmp_path / "d", algorithm="vdn", options=common)
    (task,) = grouped(tmp_path)
    assert list(task.groups) == [
        "spn_ac network.features.frequencies=4 labels=4",
        "spn_ac network.features.frequencies=4 labels=16",
        "spn_ac network.features.frequencies=8 labels=16",
        "vdn",
    ]


@pytest.mark.parametrize("change", [{"steps": 800}, {"updates": 9}, {"num_envs": 16}, {"on_env_fault": "drop-episode"}])
def test_whatever_changes_learning_makes_another_algorithm(tmp_path, change):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", train=change)
    ((name, value),) = change.items()
    (task,) = grouped(tmp_path)
    assert len(task.groups) == 2
    assert f"vdn {name}={value}" in task.groups


def test_what_is_only_measured_or_written_makes_none(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1, train={"evaluate_every": 50, "log_every": 9, "checkpoint_every": 1})
    assert seeds(grouped(tmp_path)[0]) == {"vdn": [0, 1]}


def test_the_same_seed_twice_is_refused(tmp_path):
    write_run(tmp_path / "a", 0.5)
    write_run(tmp_path / "b", 0.9)
    with pytest.raises(ConfigError, match=r"a and .*b are both vdn with seed 0"):
        grouped(tmp_path)


def test_labels_that_look_alike_get_numbers(tmp_path):
    write_run(tmp_path / "a", options={"x": "1" * 300})
    write_run(tmp_path / "b", options={"x": "1" * 299 + "2"})
    (task,) = grouped(tmp_path)
    assert [label[-4:] for label in task.groups] == ["… (1)"[-4:], "… (2)"[-4:]]


def test_text_from_files_cannot_command_a_terminal(tmp_path):
    assert printable("a\x1b[2Jb\n\u202ec") == "a\N{REPLACEMENT CHARACTER}[2Jb" + "\N{REPLACEMENT CHARACTER}" * 2 + "c"
    write_run(tmp_path / "a\x1b[31m", algorithm="v\x1bdn", env_options={"\x07bell": "\x1b]0;title\x07"})
    write_run(tmp_path / "b", algorithm="v\x1bdn", finished=False, seed=1)
    facts = {"attempts": [{"commit": "\x1b[1m"}]}
    write_run(tmp_path / "c", seed=2, facts=facts)
    text = make_report([tmp_path]).text
    assert all(letter.isprintable() for letter in text.replace("\n", ""))


def test_unfinished_runs_count_only_when_asked_for(tmp_path):
    write_runs(tmp_path / "done", [0.4, 0.6])
    late = write_run(tmp_path / "late", seed=2, finished=False, history=[(0, 0.0), (200, 0.9)])
    write_run(tmp_path / "nothing", seed=3, finished=False, history=[(0, 0.0)])
    (tmp_path / "nothing" / "metrics.jsonl").unlink()
    without = make_report([tmp_path])
    assert without.comparison.tasks[0].aggregates["vdn"]["mean"].estimate == pytest.approx(0.5)
    assert f"is left out: {late} (at step 200)" in without.text
    included = make_report([tmp_path], include_unfinished=True).comparison.tasks[0]
    assert np.sort(included.scores["vdn"][0]).tolist() == [0.4, 0.6, 0.9]


def test_nothing_finished_is_refused(tmp_path):
    write_run(tmp_path / "a", finished=False, history=[(0, 0.0), (200, 0.9)])
    with pytest.raises(ConfigError, match=r"none of 1 runs is finished \(.*a is at step 200 of 400\)"):
        make_report([tmp_path])
    (tmp_path / "a" / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="none of 1 runs is finished"):
        make_report([tmp_path], include_unfinished=True)
