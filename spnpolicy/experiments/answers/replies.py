"""A question about one state of a run, and all that was found: in words, as JSON and as a picture."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuits import CircuitDistribution
from spnpolicy.base.errors import ConfigError
from spnpolicy.data.env import Step
from spnpolicy.experiments.answers import words
from spnpolicy.experiments.answers.inference import Answer, Surprise, ask, joint_policy, spread_of_surprise, surprise
from spnpolicy.experiments.answers.picture import draw_answer, state_of
from spnpolicy.training.player import Player
from spnpolicy.training.runs import LoadedRun

SHOWN_ROWS = 12


@dataclass(frozen=True)
class Reply:
    """A question and all that was found."""

    loaded: LoadedRun
    title: str
    step: Step
    policy: CircuitDistribution
    evidence: dict[int, list[int]]
    answer: Answer
    asked: list[int]
    table: np.ndarray | None
    """Joint table of the asked agents given the evidence; None if nobody was asked about."""

    def text(self) -> str:
        """Return everything in words."""
        answer, evidence, names = self.answer, self.evidence, self.loaded.env.action_names
        parts = [[self.title, *words.state(self.loaded.env, self.step)]]
        if evidence:
            parts.append([f"P({words.evidence(evidence, names)}) = {answer.probability:.4g}"])
            parts.append(["marginals before -> given that:", *words.marginals(answer.before, answer.after, names)])
        else:
            parts.append(["marginals:", *words.marginals(answer.before, None, names)])
        given = " given that:" if evidence else ":"
        parts.append([f"most probable joint action{given}", words.conditional_mode(answer, names)])
        if self.table is not None:
            parts.append(_table_lines(self.table, self.asked, names))
        spread = spread_of_surprise(self.policy, generator=torch.Generator().manual_seed(0))
        without = " to the policy without evidence" if evidence else ""
        surprised = words.surprise(self._surprise_of_mode(), self.policy.entropy().item(), spread)
        parts.append([f"how surprising that joint action is{without}:", surprised])
        return "\n\n".join("\n  ".join(part) for part in parts)

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        answer = self.answer
        result: dict[str, Any] = {
            "action_names": list(self.loaded.env.action_names),
            "probability_of_evidence": answer.probability,
            "marginals": answer.before.tolist(),
            "marginals_given_evidence": answer.after.tolist(),
            "mode_given_evidence": list(answer.mode),
            "probability_of_mode_given_evidence": answer.mode_probability,
            "log_likelihood_of_mode": self._surprise_of_mode().log_likelihood,
            "entropy": self.policy.entropy().item(),
        }
        return result if self.table is None else result | {"asked": self.asked, "joint_table": self.table.tolist()}

    def draw(self, path: Path) -> None:
        """Write a picture (PNG) of the state and the marginals."""
        env, answer = self.loaded.env, self.answer
        given = f"Given that {words.evidence(self.evidence, env.action_names)}: P = {answer.probability:.3g}"
        draw_answer(
            path,
            board=state_of(env),
            before=answer.before,
            after=answer.after if self.evidence else None,
            action_names=env.action_names,
            cardinalities=env.spec.cardinalities,
            title=given if self.evidence else "What does each agent do here?",
        )

    def _surprise_of_mode(self) -> Surprise:
        return surprise(self.policy, self.answer.mode)


def ask_run(loaded: LoadedRun, evidence: dict[int, list[int]], asked: list[int], *, seed: int, at_step: int) -> Reply:
    """Ask the joint policy of a run about a state of one of its greedy episodes.

    Args:
        loaded: a run, loaded with one environment.
        evidence: for some agents, the actions that they may do.
        asked: agents whose joint table is wanted; none for no table.
        seed: seed of the episode.
        at_step: number of steps before the state.

    Raises:
        ConfigError: the episode is over before, or the algorithm has no joint distribution.
        ImpossibleEvidenceError: the policy rules the evidence out.
    """
    step = _state_at(loaded, seed, at_step)
    policy = joint_policy(loaded, step)
    answer = ask(policy, evidence)
    with torch.no_grad():
        table = policy.condition(evidence).marginal(asked).numpy() if asked else None
    title = f"{loaded.config.algorithm} on {loaded.config.env}, seed {seed}, step {at_step}:"
    return Reply(loaded, title, step, policy, evidence, answer, asked, table)


def _state_at(loaded: LoadedRun, seed: int, at_step: int) -> Step:
    player = Player(loaded.algorithm)
    step = loaded.env.reset(seed=seed)
    for played in range(at_step):
        step = loaded.env.step(player.act(step, explore=False))
        if step.terminated[0] or step.truncated[0]:
            raise ConfigError(
                f"--at-step {at_step}: the greedy episode of seed {seed} is over after step {played + 1}."
            )
    return step


def _table_lines(table: np.ndarray, asked: list[int], names: Any) -> list[str]:
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
