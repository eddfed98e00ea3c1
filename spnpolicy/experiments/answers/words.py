"""Answers in words: states, marginals, joint actions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from spnpolicy.data.env import Step
from spnpolicy.experiments.answers.inference import Answer, EvidenceByAgent, Surprise

WORTH_MENTION = 0.005
"""Marginals below this are left out of sentences."""
LEAST_SPREAD = 1e-6
"""A policy with less spread is certain; dividing by it would show rounding errors."""


def joint_action(actions: Sequence[int], names: Sequence[str]) -> str:
    """Return a joint action as "0 up, 1 stay, 2 left"."""
    return ", ".join(f"{agent} {names[action]}" for agent, action in enumerate(actions))


def state(env: Any, step: Step, index: int = 0) -> list[str]:
    """Return lines about one state: the board where there is one, else what every agent observes."""
    if not hasattr(env, "board"):
        rows = step.observation[index]
        return [f"agent {agent} observes {np.array2string(row, precision=3)}" for agent, row in enumerate(rows)]
    board = env.board(index)
    agents, goals = board.agent_cells[0].tolist(), board.goal_cells[0].tolist()
    cells = [["."] * env.size for _ in range(env.size)]
    for goal in goals:
        cells[goal // env.size][goal % env.size] = "*"
    for agent, cell in enumerate(agents):
        cells[cell // env.size][cell % env.size] = str(agent)
    width = max(len(text) for row in cells for text in row)
    lines = [" ".join(text.rjust(width) for text in row) for row in cells]
    done = ", ".join(f"agent {agent}" for agent in range(len(agents)) if board.agent_flags[0, agent])
    places = ", ".join(str(divmod(goal, env.size)) for goal in goals)
    lines.append(f"digits are agents, goals lie at (row, column) {places}")
    return [*lines, f"on a goal already: {done}"] if done else lines


def marginals(
    before: Float[np.ndarray, "agents actions"], after: Float[np.ndarray, "agents actions"] | None, names: Sequence[str]
) -> list[str]:
    """Return one line per agent: its actions with their probabilities, most probable first, before -> after."""
    lines: list[str] = []
    for agent, row in enumerate(before):
        new = row if after is None else after[agent]
        order = np.argsort(-np.maximum(row, new), kind="stable")
        shown = [action for action in order if max(row[action], new[action]) >= WORTH_MENTION]
        parts = [
            f"{names[action]} {row[action]:.3f}" + ("" if after is None else f" -> {new[action]:.3f}")
            for action in shown
        ]
        lines.append(f"agent {agent}: " + ", ".join(parts))
    return lines


def evidence(given: EvidenceByAgent, names: Sequence[str]) -> str:
    """Return evidence as "agent 1 does stay, agent 2 does up or left"."""
    return ", ".join(f"agent {agent} does {' or '.join(names[a] for a in actions)}" for agent, actions in given.items())


def conditional_mode(answer: Answer, names: Sequence[str]) -> str:
    """Return the most probable joint action with its probability."""
    return f"{joint_action(answer.mode, names)} (probability {answer.mode_probability:.3g})"


def surprise(found: Surprise, entropy: float, spread: float) -> str:
    """Return how surprising a joint action is against what the policy itself expects."""
    score = f", {(found.total - entropy) / spread:+.1f} standard deviations" if spread > LEAST_SPREAD else ""
    # Adding zero turns a rounded -0.0 into 0.0.
    likelihood, total, expected = (round(value, 2) + 0.0 for value in (found.log_likelihood, found.total, entropy))
    return f"log-likelihood {likelihood:.2f}, surprise {total:.2f} nats against {expected:.2f} expected{score}"
