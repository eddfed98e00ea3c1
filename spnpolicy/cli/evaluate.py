"""`spnpolicy evaluate`: how well a trained policy plays."""

from pathlib import Path
from typing import Any

from spnpolicy.base.tables import aligned
from spnpolicy.cli.checks import check_new_file
from spnpolicy.cli.command import FILE, Command, add_run, add_threads, offer
from spnpolicy.cli.options import CommandLine, Parser, known_name, whole_number

ANIMATED_EPISODES = 6
CHECKPOINTS = ("latest", "best")


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
    add_threads(parser)


def run(line: CommandLine) -> int:
    """Load a run, play, and print the means with their standard errors."""
    import torch

    from spnpolicy.experiments.media.animation import shots_of, write_gif
    from spnpolicy.experiments.media.video import check_video_support, write_video
    from spnpolicy.training.evaluation import EvaluationStopped, evaluate
    from spnpolicy.training.interrupts import StopRequest
    from spnpolicy.training.learning import close_env
    from spnpolicy.training.runs import load_run

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
        with StopRequest() as stop:
            count, seed, should_stop = options.episodes, options.seed, lambda: stop.requested
            result = evaluate(loaded.algorithm, loaded.env, count, discount, seed, should_stop=should_stop)
    except EvaluationStopped:
        # As Ctrl-C ends every command, and SIGTERM too: with a word and its exit code.
        raise KeyboardInterrupt from None
    finally:
        close_env(loaded.env)
    print(f"{loaded.config.algorithm} on {loaded.config.env} after {loaded.step:,} env steps of training")
    print(f"{options.episodes:,} greedy episodes from seed {options.seed}, mean and standard error:")
    print("\n".join(aligned(result.rows(discount), indent="  ")))
    if faults := sum(getattr(loaded.env, "faults_total", {}).values()):
        print(
            f"faults of the environment: {faults:,}; an episode that failed is in no score, another was played instead"
        )
    if options.gif is not None:
        write_gif(shots_of(pictures), options.gif)
        print(f"animation: {options.gif}")
    if options.video is not None:
        write_video(shots_of(pictures), options.video)
        print(f"video: {options.video}")
    return 0


def _played(options: Any):
    from spnpolicy.experiments.media.animation import load_to_draw, play
    from spnpolicy.training.learning import close_env

    loaded = load_to_draw(options.run, num_envs=ANIMATED_EPISODES, checkpoint=options.checkpoint)
    try:
        return play(loaded, seed=options.seed)
    finally:
        close_env(loaded.env)


COMMAND = Command(
    "evaluate",
    "Play a trained policy greedily and show how well it does.",
    "evaluate RUN [--checkpoint latest|best] [--episodes N] [--seed N] [--gif FILE] [--video FILE]",
    "It also reads a run that was interrupted or killed, or that is still going on.",
    ("evaluate runs/x", "evaluate runs/x --episodes 5000 --seed 1", "evaluate runs/x --checkpoint best --video x.mp4"),
    _add_arguments,
    run,
)
