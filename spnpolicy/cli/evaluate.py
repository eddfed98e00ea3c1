"""`spnpolicy evaluate`: how well a trained policy plays."""

import sys
from pathlib import Path
from typing import Any

from spnpolicy.base.errors import ConfigError
from spnpolicy.base.tables import aligned
from spnpolicy.cli.checks import check_new_file
from spnpolicy.cli.command import FILE, Command, add_run, add_threads, offer
from spnpolicy.cli.options import CommandLine, Parser, known_name, whole_number

ANIMATED_EPISODES = 6
_PIXELS_PER_SECOND = {"gif": 2.2e7, "video": 7e6}
"""Measured on one core, over boards from 5 x 5 to 100 x 100."""
_LONG = 20.0
"""Seconds from which on it is said before it begins."""
CHECKPOINTS = ("latest", "best")
_SHARPENED = {"sampled": "", "cooled": ", at a quarter of its temperature"}


def _add_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "--episodes", type=whole_number(1, 100_000), default=1_000, metavar="N", help="how many (default: 1000)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="fixes the episodes (default: 0)")
    checkpoint = "latest, or best: that of the best evaluation while training (default: latest)"
    offer(parser.add_argument("--checkpoint", default="latest", metavar="NAME", help=checkpoint), CHECKPOINTS)
    gif = "also write an animation of a few episodes"
    offer(parser.add_argument("--gif", type=Path, metavar="FILE", help=gif), FILE)
    video = "the same as a video for browsers (MP4, H.264; needs pip install 'spnpolicy[video]')"
    offer(parser.add_argument("--video", type=Path, metavar="FILE", help=video), FILE)
    parser.add_argument(
        "--marginals", action="store_true", help="show in the animation where every agent may go, and how probably"
    )
    add_threads(parser)


def run(line: CommandLine) -> int:
    """Load a run, play, and print the means with their standard errors."""
    import torch

    from spnpolicy.experiments.media.video import check_video_support
    from spnpolicy.training.evaluation import EvaluationStopped, evaluate
    from spnpolicy.training.interrupts import StopRequest
    from spnpolicy.training.runs import close_env, load_run

    options = line.options
    known_name("checkpoint", options.checkpoint, CHECKPOINTS)
    check_new_file("--gif", options.gif, ".gif")
    check_new_file("--video", options.video, ".mp4")
    if options.marginals and options.gif is None and options.video is None:
        raise ConfigError("--marginals is about pictures; say where they go with --gif FILE or --video FILE.")
    if options.video is not None:
        check_video_support()
    torch.set_num_threads(options.threads)
    # Before the evaluation, which may take long: whether there is anything to show.
    pictures = _played(options) if options.gif is not None or options.video is not None else []
    loaded = load_run(options.run, num_envs=options.episodes, checkpoint=options.checkpoint)
    try:
        discount = loaded.config.train.discount
        with StopRequest() as stop:
            count, seed, should_stop = options.episodes, options.seed, lambda: stop.requested
            result = evaluate(
                loaded.algorithm, loaded.env, count, discount, seed, should_stop=should_stop, plays=tuple(_SHARPENED)
            )
    except EvaluationStopped:
        # As Ctrl-C ends every command, and SIGTERM too: with a word and its exit code.
        raise KeyboardInterrupt from None
    finally:
        close_env(loaded.env)
    print(f"{loaded.config.algorithm} on {loaded.config.env} after {loaded.step:,} env steps of training")
    print(f"{options.episodes:,} greedy episodes from seed {options.seed}, mean and standard error:")
    print("\n".join(aligned(result.rows(discount), indent="  ")))
    for play, drawn in result.drawn.items():
        print(f"the same episodes with actions drawn from the joint policy{_SHARPENED[play]}:")
        print("\n".join(aligned(drawn.rows(discount), indent="  ")))
    if faults := sum(getattr(loaded.env, "faults_total", {}).values()):
        print(
            f"faults of the environment: {faults:,}; an episode that failed is in no score, another was played instead"
        )
    _write(pictures, options)
    return 0


def _played(options: Any):
    """Return the pictures of a few episodes, having said how long it takes to write them if that is long."""
    from spnpolicy.cli.progress import PictureProgress, duration
    from spnpolicy.experiments.media.animation import play, size_of
    from spnpolicy.experiments.media.boards import load_to_draw
    from spnpolicy.training.runs import close_env

    loaded = load_to_draw(options.run, num_envs=ANIMATED_EPISODES, checkpoint=options.checkpoint)
    try:
        with PictureProgress() as progress:
            pictures = play(loaded, seed=options.seed, on_picture=progress, shows_marginals=options.marginals)
    finally:
        close_env(loaded.env)
    size = size_of(pictures)
    for flag, pixels_per_second in _PIXELS_PER_SECOND.items():
        if getattr(options, flag) is not None and (seconds := size.pixels / pixels_per_second) > _LONG:
            what = f"{size.shots:,} pictures of {size.width:,} x {size.height:,} pixels"
            print(f"--{flag} is large: {what}, which take about {duration(seconds)} to write", file=sys.stderr)
    return pictures


def _write(pictures: Any, options: Any) -> None:
    from spnpolicy.cli.progress import PictureProgress
    from spnpolicy.experiments.media.animation import shots_of, size_of, write_gif
    from spnpolicy.experiments.media.video import write_video

    for what, path, write in (("animation", options.gif, write_gif), ("video", options.video, write_video)):
        if path is not None:
            with PictureProgress() as progress:
                write(progress.over(f"writing the {what}", shots_of(pictures), size_of(pictures).shots), path)
            print(f"{what}: {path}")


COMMAND = Command(
    "evaluate",
    "Play a trained policy greedily, and a joint one also by drawing from it, and show how well it does.",
    "evaluate RUN [--checkpoint latest|best] [--episodes N] [--seed N] [--gif FILE] [--video FILE] [--marginals]",
    "It also reads a run that was interrupted or killed, or that is still going on.",
    ("evaluate runs/x", "evaluate runs/x --episodes 5000 --seed 1", "evaluate runs/x --checkpoint best --video x.mp4"),
    _add_arguments,
    run,
)
