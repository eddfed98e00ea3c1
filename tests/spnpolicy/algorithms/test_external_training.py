"""Environments of others, through the adapter, are trained on, saved, resumed and evaluated like our own."""

import json
from dataclasses import replace

import numpy as np
import pytest

from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import resume, train
from spnpolicy.training.metrics import read_metrics
from spnpolicy.training.runs import load_run
from tests.seeds import first_now

SHORT = TrainConfig(
    steps=640, num_envs=8, batch_size=32, replay_capacity=640, warmup_steps=80, updates=1, log_every=160,
    evaluate_every=320, evaluation_episodes=4, checkpoint_every=160, seed=2,
)  # fmt: skip
TASKS = {
    "spread": ("pettingzoo:mpe2.simple_spread_v3", {"N": 3, "max_cycles": 10, "workers": 0}, (5, 5, 5)),
    "speaker": ("pettingzoo:mpe2.simple_speaker_listener_v4", {"max_cycles": 10, "workers": 2}, (3, 5)),
    "foraging": ("foraging", {"workers": 0}, (6, 6)),
}


@pytest.mark.full
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("algorithm", first_now(["spn_ac", "vdn", "iql"]))
def test_training_resume_and_evaluation(tmp_path, algorithm, task):
    env, options, cardinalities = TASKS[task]
    config = RunConfig(
        algorithm, env, {"network": {"hidden": [16]}}, options, replace(SHORT, team_reward=algorithm != "iql")
    )

    def interrupt(progress):
        if progress.step == 360:
            raise KeyboardInterrupt

    assert not train(config, tmp_path / "run", on_progress=interrupt).is_finished
    result = resume(tmp_path / "run")
    assert result.is_finished
    assert result.faults == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert tuple(facts["num_actions"]) == cardinalities
    # Foraging can save its state; the others begin new episodes, and the run says so.
    assert bool(facts["attempts"][1]["notes"]) == (task != "foraging")
    trained = [
        record for record in read_metrics(tmp_path / "run" / "metrics.jsonl").records if record["kind"] == "train"
    ]
    assert [record["step"] for record in trained] == [160, 320, 480, 640]
    assert trained[-1]["updates"] == (640 - 80) // 8 + 1
    loaded = load_run(tmp_path / "run", num_envs=2)
    step = loaded.env.reset(seed=0)
    for _ in range(12):
        actions = loaded.algorithm.act(step, explore=False)
        assert np.take_along_axis(step.available_actions, actions[..., None], -1).all()
        step = loaded.env.step(actions)
    loaded.env.close()
