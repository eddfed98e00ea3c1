"""`spnpolicy evaluate` and `spnpolicy query`: their flags; light, because the overview of all commands loads it."""

from pathlib import Path

from spnpolicy.cli.command import Command
from spnpolicy.cli.flags import FILE, add_run, add_threads, offer
from spnpolicy.cli.options import Parser, whole_number


def _add_evaluate(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "--episodes", type=whole_number(1, 100_000), default=1_000, metavar="N", help="how many (default: 1000)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="fixes the episodes (default: 0)")
    checkpoint = "latest, or best: that of the best evaluation while training (default: latest)"
    offer(parser.add_argument("--checkpoint", default="latest", metavar="NAME", help=checkpoint), ["latest", "best"])
    gif = "also write an animation of a few episodes"
    offer(parser.add_argument("--gif", type=Path, metavar="FILE", help=gif), FILE)
    video = "the same as a video for browsers (MP4, H.264; needs pip install 'spnpolicy[video]')"
    offer(parser.add_argument("--video", type=Path, metavar="FILE", help=video), FILE)
    add_threads(parser)


def _add_query(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "--given", action="append", default=[], metavar="AGENT=ACTION[,ACTION]",
        help="what is known: the agent does this action, or one of these; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--ask", metavar="AGENT[,AGENT]", help="show the joint table of these agents (default: only marginals)"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="seed of the episode whose state is asked about"
    )
    parser.add_argument(
        "--at-step",
        type=whole_number(0, 100_000),
        default=0,
        metavar="N",
        help="after so many greedy steps of it (default: 0)",
    )
    picture = "also draw the state and the marginals (PNG)"
    offer(parser.add_argument("--picture", type=Path, metavar="FILE", help=picture), FILE)
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")
    add_threads(parser)


EVALUATE = Command(
    "evaluate",
    "Play a trained policy greedily and show how well it does.",
    "evaluate RUN [--checkpoint latest|best] [--episodes N] [--seed N] [--gif FILE] [--video FILE]",
    "It also reads a run that was interrupted or killed, or that is still going on.",
    ("evaluate runs/x", "evaluate runs/x --episodes 5000 --seed 1", "evaluate runs/x --checkpoint best --video x.mp4"),
    _add_evaluate,
    "spnpolicy.cli.evaluate",
)

QUERY = Command(
    "query",
    "Ask a trained joint policy about one state: what if, how likely, and who with whom.",
    "query RUN [--given AGENT=ACTION] [--ask AGENTS] [flags]",
    "All answers are exact. Agents are counted from 0; actions go by name or number.\n"
    "Algorithms that learn only action values have no joint distribution and cannot be asked.",
    (
        "query runs/x",
        "query runs/x --given 1=stay --ask 0,2",
        "query runs/x --given 0=up,left --seed 4 --at-step 2 --picture answer.png",
    ),
    _add_query,
    "spnpolicy.cli.query",
)
