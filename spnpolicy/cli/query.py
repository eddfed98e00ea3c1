"""`spnpolicy query`: exact answers from a trained joint policy in one state."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spnpolicy.base.decoding import unknown_name
from spnpolicy.cli.checks import check_new_file
from spnpolicy.cli.command import FILE, Command, add_json, add_run, add_threads, offer
from spnpolicy.cli.options import CommandLine, Parser, UsageError, whole_number

if TYPE_CHECKING:
    import numpy as np

    from circuits import CircuitDistribution
    from spnpolicy.data.env import Step
    from spnpolicy.experiments.answers.inference import Answer, Surprise
    from spnpolicy.training.runs import LoadedRun

MAX_TABLE = 1 << 16
SHOWN_ROWS = 12
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


@dataclass(frozen=True)
class _Reply:
    """A question and all that was found."""

    loaded: "LoadedRun"
    step: "Step"
    policy: "CircuitDistribution"
    evidence: dict[int, list[int]]
    answer: "Answer"
    asked: list[int]
    table: "np.ndarray | None"
    """Joint table of the asked agents given the evidence; None if nobody was asked about."""


def run(line: CommandLine) -> int:
    """Answer, in words or as JSON, and draw if asked to."""
    import torch

    from spnpolicy.training.learning import close_env
    from spnpolicy.training.runs import load_run

    options = line.options
    check_new_file("--picture", options.picture, ".png")
    torch.set_num_threads(options.threads)
    loaded = load_run(options.run, num_envs=1)
    try:
        return _show(_reply(loaded, options), options)
    finally:
        close_env(loaded.env)


def _show(reply: _Reply, options: Any) -> int:
    if options.picture is not None:
        _draw(reply, options.picture)
    if options.json:
        print(json.dumps(_as_json(reply), indent=1))
        return 0
    config = reply.loaded.config
    title = f"{config.algorithm} on {config.env}, seed {options.seed}, step {options.at_step}:"
    print("\n\n".join("\n  ".join(part) for part in _in_words(reply, title)))
    return 0


def _reply(loaded: "LoadedRun", options: Any) -> _Reply:
    from spnpolicy.experiments.answers.inference import ask, joint_policy

    names, cardinalities = loaded.env.action_names, loaded.env.spec.cardinalities
    evidence = read_evidence(options.given, names, cardinalities)
    asked = [] if options.ask is None else read_agents(options.ask, len(cardinalities))
    if prod(cardinalities[agent] for agent in asked) > MAX_TABLE:
        raise UsageError(f"--ask {options.ask}: the joint table has more than {MAX_TABLE:,} entries; ask fewer agents.")
    step = _state_at(loaded, options.seed, options.at_step)
    policy = joint_policy(loaded, step)
    answer = ask(policy, evidence)
    return _Reply(loaded, step, policy, evidence, answer, asked, _joint_table(policy, evidence, asked))


def _state_at(loaded: "LoadedRun", seed: int, at_step: int) -> "Step":
    from spnpolicy.training.player import Player

    player = Player(loaded.algorithm)
    step = loaded.env.reset(seed=seed)
    for played in range(at_step):
        step = loaded.env.step(player.act(step, explore=False))
        if step.terminated[0] or step.truncated[0]:
            raise UsageError(f"--at-step {at_step}: the greedy episode of seed {seed} is over after step {played + 1}.")
    return step


def _joint_table(
    policy: "CircuitDistribution", evidence: dict[int, list[int]], asked: list[int]
) -> "np.ndarray | None":
    if not asked:
        return None
    import torch

    with torch.no_grad():
        return policy.condition(evidence).marginal(asked).numpy()


def _in_words(reply: _Reply, title: str) -> list[list[str]]:
    from spnpolicy.experiments.answers import words

    answer, evidence = reply.answer, reply.evidence
    names = reply.loaded.env.action_names
    parts = [[title, *words.state(reply.loaded.env, reply.step)]]
    if evidence:
        parts.append([f"P({words.evidence(evidence, names)}) = {answer.probability:.4g}"])
        parts.append(["marginals before -> given that:", *words.marginals(answer.before, answer.after, names)])
    else:
        parts.append(["marginals:", *words.marginals(answer.before, None, names)])
    given = " given that:" if evidence else ":"
    parts.append([f"most probable joint action{given}", words.conditional_mode(answer, names)])
    if reply.table is not None:
        parts.append(_table_lines(reply.table, reply.asked, names))
    found, entropy, spread = _surprise_of_mode(reply)
    without = " to the policy without evidence" if evidence else ""
    parts.append([f"how surprising that joint action is{without}:", words.surprise(found, entropy, spread)])
    return parts


def _table_lines(table: "np.ndarray", asked: list[int], names: Any) -> list[str]:
    title = f"joint table of agents {', '.join(map(str, asked))}"
    if len(asked) == 2:
        rows, columns = table.shape
        width = max(6, *map(len, names))
        head = " " * (width + 2) + "  ".join(name.rjust(width) for name in names[:columns])
        body = [
            names[row].rjust(width) + "  " + "  ".join(f"{value:{width}.3f}" for value in table[row])
            for row in range(rows)
        ]
        return [f"{title} (rows: agent {asked[0]}, columns: agent {asked[1]}):", head, *body]
    order = (-table).argsort(axis=None)[:SHOWN_ROWS]
    choices = list(product(*(range(size) for size in table.shape)))
    lines = [
        f"{table.flat[place]:.4f}  " + ", ".join(f"{a} {names[u]}" for a, u in zip(asked, choices[place], strict=True))
        for place in order
    ]
    return [f"{title}, the {len(lines)} most probable entries:", *lines]


def _surprise_of_mode(reply: _Reply) -> "tuple[Surprise, float, float]":
    import torch

    from spnpolicy.experiments.answers.inference import spread_of_surprise, surprise

    spread = spread_of_surprise(reply.policy, generator=torch.Generator().manual_seed(0))
    return surprise(reply.policy, reply.answer.mode), reply.policy.entropy().item(), spread


def _as_json(reply: _Reply) -> dict[str, Any]:
    found, entropy, _ = _surprise_of_mode(reply)
    answer = reply.answer
    result: dict[str, Any] = {
        "action_names": list(reply.loaded.env.action_names),
        "probability_of_evidence": answer.probability,
        "marginals": answer.before.tolist(),
        "marginals_given_evidence": answer.after.tolist(),
        "mode_given_evidence": list(answer.mode),
        "probability_of_mode_given_evidence": answer.mode_probability,
        "log_likelihood_of_mode": found.log_likelihood,
        "entropy": entropy,
    }
    return result if reply.table is None else result | {"asked": reply.asked, "joint_table": reply.table.tolist()}


def _draw(reply: _Reply, path: Path) -> None:
    from spnpolicy.experiments.answers import words
    from spnpolicy.experiments.answers.picture import draw_answer

    env: Any = reply.loaded.env
    answer, evidence = reply.answer, reply.evidence
    given = words.evidence(evidence, env.action_names)
    draw_answer(
        path,
        board=env.render(0, cell=max(24, 300 // env.size)) if hasattr(env, "render") else None,
        before=answer.before,
        after=answer.after if evidence else None,
        action_names=env.action_names,
        cardinalities=env.spec.cardinalities,
        title=f"Given that {given}: P = {answer.probability:.3g}" if evidence else "What does each agent do here?",
    )


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
