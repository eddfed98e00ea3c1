import json
from dataclasses import fields

import pytest

from spnpolicy.algorithms import ALGORITHMS, config_class
from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.presets import COVERAGE
from spnpolicy.experiments.sweeps.plan import (
    PLAN_FILE,
    Plan,
    make_plan,
    merged,
    open_folder,
    read_plan,
    run_config,
)
from spnpolicy.training.config import Curriculum
from spnpolicy.training.loop import train
from spnpolicy.training.runs import load_run
from tests.spnpolicy.experiments.benchmarks.benchmark_cases import TINY, tiny_plan


@pytest.mark.parametrize("name", COVERAGE)
def test_presets_are_valid_and_fair(name):
    plan = make_plan(name, COVERAGE[name])
    assert plan.algorithms[:2] == ["spn_ac", "mean_field"]
    assert {"vdn", "iql"} < set(plan.algorithms)
    assert len({trial.name for trial in plan.trials}) == len(plan.trials)
    # All algorithms get the same task, the same data, the same networks and the same kind of descent.
    for shared in ("network", "rollout", "max_gradient_norm", "trace"):
        assert len({str(trial.algorithm_options[shared]) for trial in plan.trials}) == 1, shared
    descents = [
        trial.algorithm_options[part]
        for trial in plan.trials
        for part in ("actor", "critic")
        if part in trial.algorithm_options
    ]
    assert len({(each["method"], each["final"]) for each in descents}) == 1
    for trial in plan.trials:
        own = COVERAGE[name].step_sizes.get(trial.algorithm, COVERAGE[name].descent["learning_rate"])
        assert {trial.algorithm_options[part]["learning_rate"] for part in ("actor", "critic")
                if part in trial.algorithm_options} == {own}  # fmt: skip
    for seed in {trial.train.seed for trial in plan.trials}:
        assert len({str((trial.env_options, trial.train)) for trial in plan.trials if trial.train.seed == seed}) == 1
    assert decode(Plan, encode(plan), path="plan") == plan


@pytest.mark.parametrize("name", COVERAGE)
def test_every_setting_of_a_preset_is_somebodys(name):
    preset = COVERAGE[name]
    known = {field.name for algorithm in ALGORITHMS for field in fields(config_class(algorithm))}
    assert set(preset.algorithm_options) <= known


def test_paper_is_the_task_of_the_paper():
    options = COVERAGE["paper"].env_options
    assert (options["size"], options["agents"], options["goals"], options["episode_limit"]) == (20, 6, 6, 200)


def test_seeds_come_first_so_that_a_part_is_a_fair_comparison():
    names = [trial.name for trial in tiny_plan().trials]
    assert names == ["vdn-seed0", "iql-seed0", "vdn-seed1", "iql-seed1"]


def test_evaluation_layouts_do_not_depend_on_the_algorithms():
    assert tiny_plan().evaluation_seed == make_plan("tiny", TINY, algorithms=["spn_ac"]).evaluation_seed


def test_options_are_complete_and_overridden_from_the_inside_out():
    plan = make_plan(
        "tiny", TINY, algorithms=["vdn"], env_options={"size": 4}, algorithm_options={"target": {"rate": 0.5}}
    )
    trial = plan.trials[0]
    assert trial.env_options["size"] == 4
    assert trial.algorithm_options["target"]["rate"] == 0.5
    assert {"critic", "exploration", "double_q"} < set(trial.algorithm_options)
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}


def test_own_options_go_to_their_algorithm_only():
    plan = tiny_plan(own_options={"iql": {"critic": {"learning_rate": 0.5}}})
    rates = {trial.algorithm: trial.algorithm_options["critic"]["learning_rate"] for trial in plan.trials}
    assert rates["iql"] == 0.5
    assert rates["vdn"] != 0.5


def test_a_preset_may_have_a_curriculum():
    curriculum = Curriculum(({"size": 2},), success=0.8)
    plan = tiny_plan(curriculum=curriculum)
    assert all(run_config(trial).curriculum == curriculum for trial in plan.trials)
    assert decode(Plan, encode(plan), path="plan") == plan


def test_a_folder_belongs_to_one_plan(tmp_path):
    folder = tmp_path / "deep" / "out"
    with open_folder(folder, tiny_plan()):
        pass
    with open_folder(folder, tiny_plan()):
        pass
    before = (folder / PLAN_FILE).read_bytes()
    with (
        pytest.raises(ConfigError, match=r"plan.evaluation_episodes is 20 there and 30 here"),
        open_folder(folder, tiny_plan(evaluation_episodes=30)),
    ):
        pass
    with pytest.raises(ConfigError, match="belongs to another"), open_folder(folder, tiny_plan(seeds=3)):
        pass
    assert (folder / PLAN_FILE).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [PLAN_FILE]


def test_two_processes_do_not_share_a_folder(tmp_path):
    with (
        open_folder(tmp_path / "out", tiny_plan()),
        pytest.raises(ConfigError, match="another process"),
        open_folder(tmp_path / "out", tiny_plan()),
    ):
        pass
    with open_folder(tmp_path / "out", tiny_plan()):
        assert (tmp_path / "out" / PLAN_FILE).exists()


def test_a_plan_of_an_older_version_is_continued(tmp_path):
    """Names of trials and settings that came later are filled in."""
    with open_folder(tmp_path / "out", tiny_plan()):
        pass
    path = tmp_path / "out" / PLAN_FILE
    saved = json.loads(path.read_text())
    for trial in saved["trials"]:
        del trial["name"], trial["environment"], trial["train"]["on_env_fault"]
    path.write_text(json.dumps(saved))
    assert read_plan(tmp_path / "out") == tiny_plan()
    with open_folder(tmp_path / "out", tiny_plan()):
        pass


def test_what_a_run_stores_does_not_say_what_its_plan_calls_it():
    trial = tiny_plan().trials[0]
    assert (trial.name, trial.environment) == ("vdn-seed0", "coverage")
    assert {"name", "environment"}.isdisjoint(encode(run_config(trial)))


def test_a_trial_is_trained_as_the_run_that_it_is(tmp_path):
    trial = tiny_plan().trials[0]
    train(trial, tmp_path / "run")
    assert load_run(tmp_path / "run").config == run_config(trial)


def test_a_folder_without_a_plan_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"not the folder of a sweep or benchmark"):
        read_plan(tmp_path)
