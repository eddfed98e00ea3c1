"""Curricula: when the next stage begins, what it begins with, and what is refused before anything is written."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from run_cases import assert_same_run, metrics_without_time, saved_state

from spnpolicy.algorithms.iql import VDN
from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.envs import make_env
from spnpolicy.networks.entities import EntityEncoder
from spnpolicy.training.config import Curriculum, RunConfig, TrainConfig
from spnpolicy.training.course import Course
from spnpolicy.training.episodes import Episodes
from spnpolicy.training.evaluation import evaluate
from spnpolicy.training.learning import Learning
from spnpolicy.training.loop import resume, train
from spnpolicy.training.runs import load_run
from tests.spnpolicy.training.test_resume import Crash, broken_run

SHORT = TrainConfig(
    steps=96,
    num_envs=4,
    batch_size=8,
    replay_capacity=60,
    warmup_steps=16,
    updates=1,
    log_every=24,
    evaluate_every=96,
    evaluation_episodes=2,
    checkpoint_every=64,
    seed=5,
)
ENTITIES = {"network": {"kind": "entities", "hidden": [4]}}
TASK = {"agents": 2, "size": 4, "episode_limit": 6}
BY_TIME = Curriculum(({"size": 2}, {"size": 3, "episode_limit": 5}), success=0.0, episodes=4)
NEVER = Curriculum(({"size": 2},), success=1.0, episodes=1_000)


def config_of(curriculum, algorithm="vdn", options=ENTITIES, settings=SHORT):
    return RunConfig(algorithm, "coverage", options, TASK, settings, curriculum)


def learning_of(folder, config, make=make_env):
    learning = Learning(config, make, device="cpu", dumps=folder, on_fault=pytest.fail)
    learning.begin()
    return learning


def ended(lengths, successes):
    count = len(lengths)
    sums = np.zeros(count)
    return Episodes(np.arange(count), sums, sums, np.array(lengths, np.int64), np.array(successes, bool))


def played(course, successes, steps=1):
    """Let episodes of one environment follow each other, each of so many steps."""
    for number, success in enumerate(successes, start=1):
        course.observe(number * steps, ended([steps], [success]), np.array([0]))


# Course


def test_a_stage_is_mastered_exactly_at_the_threshold():
    """93 of the latest 100 are enough and 92 are not, and nothing is with fewer than 100."""
    curriculum = Curriculum(({"size": 2},), success=0.93, episodes=100)
    for failures, is_enough in ((7, True), (8, False)):
        course = Course(curriculum)
        played(course, [False] * 50 + [False] * failures + [True] * (100 - failures))
        assert course.is_mastered is is_enough
    course = Course(curriculum)
    played(course, [True] * 99)
    assert not course.is_mastered
    played(course, [True])
    assert course.is_mastered


def test_episodes_count_in_the_order_in_which_they_began():
    """Of two environments one succeeds in every step, and the other fails after ten: not all of them succeed."""
    course = Course(Curriculum(({"size": 2},), success=0.95, episodes=10))
    for time in range(1, 10):
        course.observe(time, ended([1], [True]), np.array([0, time]))
        assert not course.is_mastered, "what began after the long episode does not count yet"
    course.observe(10, ended([1, 10], [True, False]), np.array([0, 0]))
    assert course.state_dict()["latest"].tolist() == [0.0] + [1.0] * 9
    assert not course.is_mastered
    course.observe(11, ended([1], [True]), np.array([0, 1]))
    assert not course.is_mastered, "the other one, which began at the same time, is under way"
    course.observe(12, ended([1, 2], [True, True]), np.array([0, 0]))
    assert course.is_mastered


def test_the_next_stage_begins_with_nothing_and_the_last_is_the_task_itself():
    course = Course(BY_TIME)
    assert (course.stage, course.stages, course.options) == (1, 3, {"size": 2})
    played(course, [False] * 4)
    assert course.is_mastered, "with success 0 the number of episodes decides"
    course.advance(40)
    assert (course.stage, course.began_at, course.options) == (2, 40, {"size": 3, "episode_limit": 5})
    assert not course.is_mastered
    assert not len(course.state_dict()["latest"])
    played(course, [True] * 4)
    course.advance(80)
    played(course, [True] * 4)
    assert (course.is_over, course.is_mastered, course.options) == (True, False, {})
    assert Course(Curriculum()).is_over


def test_words_are_short():
    stages = [{"size": 6, "agents": 2}, {"size": 8, "agents": 2}]
    assert str(decode(Curriculum, {"stages": stages}, path="")) == "size=6,8 agents=2,2"
    assert str(Curriculum(({"size": 6}, {"goals": 1}), success=0.5)) == "size=6 then goals=1 at 0.5 of 300"
    assert str(Curriculum()) == "none"


# A run


def test_nothing_of_a_stage_crosses_into_the_next(tmp_path):
    learning = learning_of(tmp_path, config_of(BY_TIME, options={"network": {"kind": "recurrent", "hidden": [4]}}))
    for _ in range(6):
        learning.iterate()
    assert learning.env.size == 2
    assert len(learning.replay) == 6
    assert saved(learning)["player"]
    learning.begin_next_stage()
    assert (learning.env.size, learning.env.episode_limit, learning.env.num_envs) == (3, 5, 4)
    assert len(learning.replay) == 0
    assert saved(learning)["player"] == {}
    assert saved(learning)["environment"]["step"]["reward"].sum() == 0.0
    # Warm-up begins again: 16 env steps are four iterations.
    for _ in range(3):
        learning.iterate()
        assert not learning.learn_if_due()
    learning.iterate()
    assert learning.learn_if_due()
    # Stages have layouts of their own, the same in every run.
    other = learning_of(tmp_path, config_of(BY_TIME, "iql"))
    other.begin_next_stage()
    again = learning_of(tmp_path, config_of(BY_TIME, "iql", settings=replace(SHORT, seed=6)))
    again.begin_next_stage()
    seen = [saved(one)["environment"]["step"]["observation"] for one in (other, again)]
    assert (seen[0] != seen[1]).any()


def saved(learning):
    return learning.state_dict()


def test_evaluation_is_in_the_task_of_the_run(tmp_path):
    """With a network that reads that task, whatever it learns from; afterwards it reads its stage again."""
    result = train(config_of(NEVER), tmp_path / "run")
    assert result.stage == 1
    loaded = load_run(tmp_path / "run", num_envs=2)
    assert loaded.env.size == 4
    # The seed is that of the run.
    learning = learning_of(tmp_path, loaded.config)
    seed = learning.streams.integer("evaluation")
    assert evaluate(loaded.algorithm, loaded.env, 2, 0.95, seed).summary() == result.evaluation
    (encoder,) = (part for part in learning.algorithm.critic.modules() if isinstance(part, EntityEncoder))
    seen = []
    learning._evaluation_env.unguarded.step = lambda actions: seen.append(encoder.entities.cells) or 1 / 0
    with pytest.raises(ZeroDivisionError):
        learning.evaluate(lambda: False)
    assert seen == [3.0]
    assert encoder.entities.cells == 1.0


def test_records_say_the_stage_and_none_is_about_two_of_them(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="spnpolicy")
    seen = []
    result = train(config_of(BY_TIME), tmp_path / "run", on_progress=seen.append)
    assert result.stage == 3
    assert json.loads((tmp_path / "run" / "result.json").read_text())["stage"] == 3
    records = [record for record in metrics_without_time(tmp_path / "run") if record["kind"] == "train"]
    last = {record["stage"]: record["step"] for record in records}
    began = [next(entry.step for entry in seen if entry.stage == stage) for stage in (2, 3)]
    assert [last[1], last[2], last[3]] == [*began, 96]
    assert seen[-1].stages == 3
    assert f"stage 2 of 3 begins at env step {began[0]}: size 3, episode_limit 5." in caplog.text
    assert f"stage 3 of 3 begins at env step {began[1]}: the task of the run itself." in caplog.text
    # Episodes are those of their stage: none is longer than it allows.
    rows = [row.split(",") for row in (tmp_path / "run" / "episodes.csv").read_text().splitlines()[1:]]
    lengths = [(int(step), int(float(length))) for kind, step, _, _, length, *_ in rows if kind == "train"]
    assert max(length for step, length in lengths if began[0] < step <= began[1]) == 5
    assert min(step for step, length in lengths if step > began[1]) > began[1] + 4


def test_a_run_without_a_curriculum_says_nothing_of_stages(tmp_path):
    train(config_of(Curriculum(), settings=replace(SHORT, steps=40)), tmp_path / "run")
    assert all("stage" not in record for record in metrics_without_time(tmp_path / "run"))
    assert not any(name.startswith("/curriculum") for name in saved_state(tmp_path / "run"))


def check_resumption(tmp_path, config, change):
    """Before the first change, right at it, after a crash from which it is done again, and in the last stage."""
    unbroken = train(config, tmp_path / "unbroken")
    assert unbroken.stage == 3
    ends = [(change - 4, KeyboardInterrupt), (change, KeyboardInterrupt), (change + 12, Crash), (92, KeyboardInterrupt)]
    assert broken_run(tmp_path / "broken", config, make_env, ends).is_finished
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    assert resume(tmp_path / "broken").stage == 3


def first_change(folder, config):
    seen = []
    train(config, folder, on_progress=seen.append)
    return next(entry.step for entry in seen if entry.stage == 2)


def test_a_resumed_run_equals_the_unbroken_one_across_stages(tmp_path):
    config = config_of(BY_TIME)
    check_resumption(tmp_path, config, first_change(tmp_path / "first", config))


@pytest.mark.full
@pytest.mark.parametrize(("algorithm", "more"), [("spn_ac", {}), ("ippo", {"rollout": 4}), ("qmix", {"rollout": 3})])
def test_other_learners_resume_across_stages_as_well(tmp_path, algorithm, more):
    settings = SHORT.without_replay() if "rollout" in more else SHORT
    config = config_of(BY_TIME, algorithm, ENTITIES | more, settings)
    change = first_change(tmp_path / "first", config)
    check_resumption(tmp_path, config, change)
    if "rollout" in more:
        assert change % (more["rollout"] * SHORT.num_envs) == 0, "a rollout is learned from in its own stage"


@pytest.mark.full
def test_a_team_may_grow_on_the_way(tmp_path):
    """With a learner that knows how; its replay and its networks are of the team of the stage."""
    curriculum = replace(BY_TIME, stages=({"agents": 1}, {"agents": 3, "size": 3}))
    options = {"network": {"kind": "exchangeable", "hidden": [4]}, "potentials": "residual"}
    config = config_of(curriculum, "spn_ac", options)
    check_resumption(tmp_path, config, first_change(tmp_path / "first", config))


def test_who_learns_from_rollouts_ends_a_stage_with_a_rollout(tmp_path):
    config = config_of(BY_TIME, "vdn", ENTITIES | {"rollout": 7}, SHORT.without_replay())
    assert first_change(tmp_path / "run", config) % (7 * SHORT.num_envs) == 0


# What is refused


def refusal(tmp_path, curriculum, **options):
    with pytest.raises(ConfigError) as caught:
        train(config_of(curriculum, **options), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(caught.value)


def test_a_stage_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path):
    good = {"size": 3}
    text = refusal(tmp_path, Curriculum((good, {"agents": 3})))
    assert "stage 2 of the curriculum ({'agents': 3}): cardinalities of the environment is (6, 6, 6) there" in text
    assert "leave the option that changes it out of the stages" in text
    for algorithm in ("vdn", "spn_ac"):  # which has a method of its own
        flat = {"algorithm": algorithm, "options": {"network": {"hidden": [4]}}}
        text = refusal(tmp_path, Curriculum((good, {"goals": 1})), **flat)
        assert f"stage 2 of the curriculum ({{'goals': 1}}): the networks of {algorithm} do not fit" in text
        assert "set algorithm.network.kind to entities" in text
    text = refusal(tmp_path, Curriculum(({"sise": 3},)))
    assert "stage 1 of the curriculum ({'sise': 3}): coverage: unknown option 'sise'; did you mean 'size'?" in text
    assert "size=1 has 1 cells" in refusal(tmp_path, Curriculum(({"size": 1},)))


def test_who_reads_a_stage_may_have_it(tmp_path):
    """Flat networks see fractions of the board, which are as many on every board; entities may be fewer."""
    flat = learning_of(tmp_path, config_of(Curriculum(({"size": 3},)), options={"network": {"hidden": [4]}}))
    assert flat.env.size == 3
    fewer = learning_of(tmp_path, config_of(Curriculum(({"goals": 1},))))
    fewer.iterate()
    assert fewer.env.goals == 1
    assert fewer.spec.observation_size > fewer.env.spec.observation_size


def test_a_learner_with_a_method_of_its_own_is_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(VDN, "retarget", lambda self, spec: asked.append(spec.num_agents), raising=False)
    learning = learning_of(tmp_path, config_of(Curriculum(({"agents": 3}, {"size": 3}))))
    # At the door each stage and back, and then the first stage.
    assert asked == [3, 2, 2, 2, 3]
    assert learning.env.spec.num_agents == 3


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stages": [{}]}, "stage 1 of the curriculum is {}, but must be at least one option of the environment"),
        ({"stages": [{"num_envs": 3}]}, "num_envs is a setting of train, not of stage 1"),
        ({"stages": [3]}, r"curriculum.stages\[0\] is 3"),
        ({"stages": {"size": 3}}, "curriculum.stages is .*must be a list"),
        ({"stages": [{"size": 3}], "success": math.nan}, "curriculum.success is not a finite number"),
        ({"stages": [{"size": 3}], "success": 1.1}, "curriculum.success is 1.1, but must be between 0 and 1"),
        ({"stages": [{"size": 3}], "episodes": 0}, "curriculum.episodes is 0, but must be between 1"),
        ({"episodes": 10}, "curriculum.episodes is given, but there are no stages"),
        ({"stage": []}, "Did you mean 'stages'"),
    ],
)
def test_settings_are_refused_by_name(settings, words):
    with pytest.raises(ConfigError, match=words):
        decode(Curriculum, settings, path="curriculum")


def test_stages_come_back_from_json():
    config = config_of(Curriculum(({"scale": math.nan, "bounds": [-math.inf]},)))
    text = json.dumps(encode(config), allow_nan=False)
    again = decode(RunConfig, json.loads(text), path="config.json")
    assert again == config
    older = json.loads(json.dumps(encode(config_of(Curriculum()))))
    del older["curriculum"]
    assert decode(RunConfig, older, path="config.json") == config_of(Curriculum())


def test_every_part_of_a_learner_reads_the_stage(tmp_path):
    """Targets, critics and mixers included; one that was forgotten would refuse or misread what it sees."""
    for algorithm in ("spn_ac", "qmix", "coma", "mappo"):
        learning = learning_of(tmp_path, config_of(NEVER, algorithm, settings=SHORT.without_replay()))
        parts = [part for part in vars(learning.algorithm).values() if isinstance(part, torch.nn.Module)]
        encoders = {part for network in parts for part in network.modules() if isinstance(part, EntityEncoder)}
        assert len(encoders) > 1
        assert {encoder.entities.cells for encoder in encoders} == {1.0}
