"""Run by torchrun in the tests of `spnpolicy.base.distributed`: each process writes down what it found.

torchrun --nproc-per-node 2 parallel_program.py FOLDER
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.base import distributed as parallel
from spnpolicy.base.seeding import Streams
from spnpolicy.data.protocol import Batch
from spnpolicy.envs import make_env
from spnpolicy.parts.settings import RolloutSettings
from spnpolicy.parts.targets import normalized
from spnpolicy.training.config import Curriculum, RunConfig, TrainConfig
from spnpolicy.training.loop import resume, train

ENV = {"agents": 2, "size": 3, "episode_limit": 9}
CONFIG = RunConfig(
    "spn_ac", "coverage", {"network": {"hidden": [8]}}, ENV,
    TrainConfig(steps=320, num_envs=8, batch_size=32, replay_capacity=120, warmup_steps=40, updates=2, log_every=48,
                evaluate_every=96, evaluation_episodes=4, checkpoint_every=64, seed=5),
)  # fmt: skip

STAGED = replace(
    CONFIG,
    algorithm="iql",
    train=replace(CONFIG.train, steps=160),
    curriculum=Curriculum(({"size": 2},), success=0.0, episodes=11),
)


def global_batch(size: int) -> Batch:
    """Return made-up transitions, the same in every process."""
    env = make_env("coverage", num_envs=size, **ENV)
    random = np.random.default_rng(0)
    before = env.reset(seed=0)
    actions = random.integers(6, size=(size, 2))
    after = env.step(actions)
    reward = torch.from_numpy(random.normal(size=(size, 2)).astype(np.float32))
    return Batch(
        torch.tensor(before.observation), torch.tensor(before.state), torch.from_numpy(actions), reward,
        torch.tensor(after.terminated), torch.tensor(before.available_actions), torch.tensor(after.final_observation),
        torch.tensor(after.final_state), torch.tensor(after.final_available_actions),
    )  # fmt: skip


def global_advantages() -> tuple[torch.Tensor, torch.Tensor]:
    """Return made-up advantages of 2 agents, shape (5, 8, 2), and which rows are valid, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    offset = torch.arange(8.0)[:, None]  # environments differ, so processes do
    return offset + torch.randn(5, 8, 2, generator=generator), torch.rand(5, 8, generator=generator) < 0.8


def updated(batch: Batch, name: str, updates: int) -> list[torch.Tensor]:
    """Return the parameters of a new learner after some updates on one batch."""
    env = make_env("coverage", num_envs=1, **ENV)
    learner = make_algorithm(name, env.spec, Streams(0), network={"hidden": (8,)})
    for _ in range(updates):
        learner.update(batch, progress=0.0)
    return [tensor.clone() for tensor in tensors_of(learner.state_dict())]


def tensors_of(value: object) -> list[torch.Tensor]:
    """Return all tensors in a nest of dicts and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [tensor for item in items for tensor in tensors_of(item)]


def digest(tensors: list[torch.Tensor]) -> str:
    """Return a hash of the bits of some tensors."""
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()


def interrupt_at(step: int):
    """Return a progress callback that asks every process to stop at a step."""

    def on_progress(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return on_progress


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with parallel.process_group() as world:
        found = {"rank": world.rank, "size": world.size}
        for name in ("spn_ac", "vdn", "iql"):
            own = slice(world.rank * 16, (world.rank + 1) * 16)
            parameters = updated(Batch(*(column[own] for column in global_batch(32)[:9])), name, updates=3)
            found[name] = digest(parameters)
            found[f"{name} parameters"] = [tensor.flatten().double().tolist() for tensor in parameters]
        own = slice(world.rank * 4, (world.rank + 1) * 4)
        found["normalized"] = normalized(RolloutSettings(), *(part[:, own] for part in global_advantages())).tolist()
        rows = np.full((world.rank + 1, 2), float(world.rank))
        found["rows"] = parallel.gather_rows(rows).tolist()
        found["mean"] = parallel.mean(float(world.rank), 3.0)
        found["any"] = [parallel.any_of(world.rank == 1), parallel.any_of(False)]
        train(CONFIG, folder / "unbroken")
        result = train(CONFIG, folder / "broken", on_progress=interrupt_at(136))
        found["interrupted at"] = result.step
        resume(folder / "broken")
        found["stage"] = train(STAGED, folder / "staged").stage
    (folder / f"found{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
