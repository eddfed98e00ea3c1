"""Evidence and agents as they are written on the command line."""

from collections.abc import Sequence

from spnpolicy.base.decoding import unknown_name
from spnpolicy.cli.options import UsageError

FORM = "write it like --given 2=stay or --given 0=up,left"


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
            raise UsageError(f"--given {text!r} is no evidence: {FORM}.")
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
