"""`spnpolicy evaluate`: how well a trained policy plays."""

import math
from typing import Any

import numpy as np
import torch

from spnpolicy.cli.folders import check_new_file
from spnpolicy.cli.options import CommandLine, known_name
from spnpolicy.experiments.media.animation import Frame, load_to_draw, play, shots_of, write_gif
from spnpolicy.experiments.media.video import check_video_support, write_video
from spnpolicy.training.evaluation import EvaluationResult, evaluate
from spnpolicy.training.learning import close_env
from spnpolicy.training.runs import LoadedRun, load_run

ANIMATED_EPISODES = 6
CHECKPOINTS = ("latest", "best")


def run(line: CommandLine) -> int:
    """Load a run, play, and print the means with their standard errors."""
    options = line.options
    known_name("checkpoint", options.checkpoint, CHECKPOINTS)
    check_new_file("--gif", options.gif, ".gif")
    check_new_file("--video", options.video, ".mp4")
    if options.video is not None:
        check_video_support()
    torch.set_num_threads(options.threads)
    # Before the evaluation, which may take long: whether there is anything to show.
    pictures = _played(options) if options.gif is not None or options.video is not None else []
    loaded = load_run(options.run, num_envs=options.episodes, checkpoint=options.checkpoint)
    try:
        discount = loaded.config.train.discount
        _say(loaded, evaluate(loaded.algorithm, loaded.env, options.episodes, discount, options.seed), options.seed)
    finally:
        close_env(loaded.env)
    if options.gif is not None:
        write_gif(shots_of(pictures), options.gif)
        print(f"animation: {options.gif}")
    if options.video is not None:
        write_video(shots_of(pictures), options.video)
        print(f"video: {options.video}")
    return 0


def _played(options: Any) -> list[list[Frame]]:
    loaded = load_to_draw(options.run, num_envs=ANIMATED_EPISODES, checkpoint=options.checkpoint)
    try:
        return play(loaded, seed=options.seed)
    finally:
        close_env(loaded.env)


def _say(loaded: LoadedRun, result: EvaluationResult, seed: int) -> None:
    config, episodes = loaded.config, result.episodes
    print(f"{config.algorithm} on {config.env} after {loaded.step:,} env steps of training")
    print(f"{len(episodes.env):,} greedy episodes from seed {seed}, mean and standard error:")
    columns = {
        "success": episodes.successes.astype(np.float64),
        "steps": episodes.lengths,
        "return": episodes.returns,
        f"discounted return ({config.train.discount:g})": episodes.discounted_returns,
    }
    if result.fraction_of_optimum is not None:
        columns["fraction of the optimum"] = result.fraction_of_optimum
    width = max(map(len, columns))
    for name, values in columns.items():
        known = values[np.isfinite(values)]
        if len(known):
            error = known.std() / math.sqrt(len(known))
            print(f"  {name:{width}}  {known.mean():8.4f}  +- {error:.4f}")
