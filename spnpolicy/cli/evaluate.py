"""`spnpolicy evaluate`: how well a trained policy plays."""

import math

import numpy as np
import torch

from spnpolicy.cli.folders import check_new_file
from spnpolicy.cli.options import CommandLine
from spnpolicy.experiments.animation import animate, check_drawable
from spnpolicy.training.evaluation import EvaluationResult, evaluate
from spnpolicy.training.runs import LoadedRun, load_run

ANIMATED_EPISODES = 6


def run(line: CommandLine) -> int:
    """Load a run, play, and print the means with their standard errors."""
    options = line.options
    check_new_file("--gif", options.gif, ".gif")
    torch.set_num_threads(options.threads)
    loaded = load_run(options.run, num_envs=options.episodes)
    if options.gif is not None:
        check_drawable(loaded.env)
    result = evaluate(loaded.algorithm, loaded.env, options.episodes, loaded.config.train.discount, options.seed)
    _say(loaded, result, options.seed)
    if options.gif is not None:
        animate(load_run(options.run, num_envs=ANIMATED_EPISODES), options.gif, seed=options.seed)
        print(f"animation: {options.gif}")
    return 0


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
