"""`spnpolicy query`: exact answers from a trained joint policy in one state."""

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path

from spnpolicy.base.decoding import unknown_name
from spnpolicy.cli.checks import check_new_file
from spnpolicy.cli.command import FILE, Command, add_json, add_run, add_threads, offer
from spnpolicy.cli.options import CommandLine, Parser, UsageError, whole_number

MAX_TABLE = 1 << 16
_FORM = "write it like --given 2=stay or --given 0=up,left"


def _add_arguments(parser: Parser) -> None:
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
    add_json(parser)
    add_threads(parser)


def run(line: CommandLine) -> int:
    """Answer, in words or as JSON, and draw if asked to."""
    import torch

    from spnpolicy.cli.progress import PictureProgress
    from spnpolicy.experiments.answers.replies import ask_run
    from spnpolicy.experiments.media.boards import load_to_draw
    from spnpolicy.training.runs import close_env, load_run

    options = line.options
    check_new_file("--picture", options.picture, ".png")
    torch.set_num_threads(options.threads)
    loaded = (load_run if options.picture is None else load_to_draw)(options.run, num_envs=1)
    try:
        names, cardinalities = loaded.env.action_names, loaded.env.spec.cardinalities
        evidence = read_evidence(options.given, names, cardinalities)
        asked = [] if options.ask is None else read_agents(options.ask, len(cardinalities))
        if prod(cardinalities[agent] for agent in asked) > MAX_TABLE:
            most = f"the joint table has more than {MAX_TABLE:,} entries"
            raise UsageError(f"--ask {options.ask}: {most}; ask fewer agents.")
        reply = ask_run(loaded, evidence, asked, seed=options.seed, at_step=options.at_step)
        if options.picture is not None:
            with PictureProgress() as progress:
                progress(f"drawing the answers of {len(cardinalities):,} agents", 0, None)
                reply.draw(options.picture)
        print(json.dumps(reply.as_json(), indent=1) if options.json else reply.text())
    finally:
        close_env(loaded.env)
    return 0


def read_evidence(texts: Sequence[str], names: Sequence[str], cardinalities: Sequence[int]) -> dict[int, list[int]]:
    """Return agent -> allowed actions.

    Args:
        texts: such as "2=stay" or "0=up,left" or "1=3".
        names: names of the actions.
        cardinalities: number of actions of each agent.

    Raises:
        UsageError: malformed, an unknown agent or action, or an agent named twice.
    """
    evidence: dict[int, list[int]] = {}
    for text in texts:
        agent_text, equals, actions = text.partition("=")
        if not equals or not actions:
            raise UsageError(f"--given {text!r} is no evidence: {_FORM}.")
        agent = _agent(agent_text, f"--given {text!r}", len(cardinalities))
        if agent in evidence:
            raise UsageError(f"--given names agent {agent} twice: write --given {agent}=A,B for either of two actions.")
        own = names[: cardinalities[agent]]
        evidence[agent] = sorted({_action(word.strip(), own, agent) for word in actions.split(",")})
    return evidence


def read_agents(text: str, num_agents: int) -> list[int]:
    """Return the agents of a list such as "0,2".

    Raises:
        UsageError: not a list of different existing agents.
    """
    agents = [_agent(word, f"--ask {text!r}", num_agents) for word in text.split(",")]
    if len(set(agents)) < len(agents):
        raise UsageError(f"--ask {text!r} names an agent twice.")
    return agents


def _agent(text: str, where: str, num_agents: int) -> int:
    if not text.strip().isdecimal() or int(text) >= num_agents:
        raise UsageError(f"{where}: there is no agent {text.strip()!r}; agents are 0 to {num_agents - 1}.")
    return int(text)


def _action(word: str, names: Sequence[str], agent: int) -> int:
    if word in names:
        return list(names).index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    raise UsageError(unknown_name(f"action of agent {agent}", word, names))


COMMAND = Command(
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
    _add_arguments,
    run,
)
