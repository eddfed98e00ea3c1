r"""Environment steps per CPU second of EPyMARL on simple_spread, on the machine at hand.

    python benchmarks/epymarl_rate.py FOLDER qmix --seconds 10

Run by the Python that has EPyMARL's packages; it prints one line of JSON. Set up once, beside this project:

    git clone https://github.com/uoe-agents/epymarl && git -C epymarl checkout cbc38c09588064eab978501d0f12c2cf58fa7fc2
    python3.11 -m venv epymarl/.venv
    epymarl/.venv/bin/pip install torch==2.13.0 "setuptools<81" sacred pyyaml gymnasium==1.4.0 pettingzoo==1.25.0 \
        tensorboard-logger numpy==2.4.6 mpe2==1.1.1

EPyMARL's own main.py runs with its own settings of the algorithm; only clocks are read at the start of each episode.
Two stand-ins replace what is not there: an empty module for SMAClite, and mpe2 under its old name pettingzoo.mpe.
A window begins after 20 gradient steps, begins and ends with an episode, and holds no evaluation.
"""

import argparse
import importlib
import json
import runpy
import sys
import time
import types
from pathlib import Path
from typing import Any

EPISODE, WARM_UPDATES, NEVER = 25, 20, 10**9
CONFIGURED = ("use_rnn", "hidden_dim", "mixing_embed_dim", "hypernet_embed", "batch_size", "buffer_size", "double_q")


class Enough(BaseException):
    """The window is over; not an Exception, so that nobody on the way out handles it."""


class Clock:
    """Env steps, gradient steps and CPU time of a window of training.

    Args:
        seconds: CPU time of the window, at least.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begin: tuple[float, int, int] | None = None
        self.learner: Any = None
        self.result: dict[str, Any] = {}

    def tick(self, runner: Any) -> None:
        """Look at the clock before a training episode.

        Raises:
            Enough: the window is over.
        """
        now = (time.process_time(), runner.t_env, self.learner.training_steps)
        if self._begin is None:
            if self.learner.training_steps >= WARM_UPDATES:
                self._begin = now
            return
        cpu, steps, updates = (end - begin for begin, end in zip(self._begin, now, strict=True))
        if cpu >= self._seconds:
            settings = {name: getattr(runner.args, name, None) for name in CONFIGURED}
            self.result = {"rate": steps / cpu, "env_steps": steps, "updates": updates, "settings": settings}
            raise Enough


def main() -> None:
    """Measure one algorithm and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkout of EPyMARL")
    parser.add_argument("algorithm", help="name of one of its files of settings: qmix, vdn, iql")
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU time of the measurement (default: 10)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    source = options.folder.resolve() / "src"
    if not (source / "main.py").is_file():
        parser.error(f"{options.folder} is no checkout of EPyMARL: there is no src/main.py in it")
    sys.path.insert(0, str(source))
    sys.modules["smaclite"] = types.ModuleType("smaclite")
    sys.modules["pettingzoo.mpe.simple_spread_v3"] = importlib.import_module("mpe2.simple_spread_v3")
    learners, runners = importlib.import_module("learners.q_learner"), importlib.import_module("runners.episode_runner")
    clock = Clock(options.seconds)
    build, play = learners.QLearner.__init__, runners.EpisodeRunner.run

    def build_and_keep(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        clock.learner = self

    def look_and_play(self: Any, test_mode: bool = False) -> Any:
        if not test_mode:
            clock.tick(self)
        return play(self, test_mode)

    learners.QLearner.__init__, runners.EpisodeRunner.run = build_and_keep, look_and_play
    never = ("t_max", "test_interval", "log_interval", "runner_log_interval", "learner_log_interval")
    sys.argv = [
        str(source / "main.py"), f"--config={options.algorithm}", "--env-config=gymma", "with",
        f"env_args.time_limit={EPISODE}", "env_args.key=pz-mpe-simple-spread-v3", f"seed={options.seed}",
        "test_nepisode=1", "save_model=False", "use_cuda=False", "use_tensorboard=False",
        *(f"{name}={NEVER}" for name in never),
    ]  # fmt: skip
    words, sys.stdout = sys.stdout, sys.stderr
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except Enough:
        print(json.dumps(clock.result), file=words)


if __name__ == "__main__":
    main()
