"""Three questions that only a tractable joint policy can answer, asked of a trained one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuits import CircuitDistribution
from spnpolicy.experiments.answers import inference, picture, words
from spnpolicy.experiments.answers.inference import Answer
from spnpolicy.training.runs import LoadedRun, all_policies

STATES = 256
"""Fresh states among which the one to ask about is chosen; load the run with as many environments."""
PLAUSIBLE = 0.001
"""Conditioning on something rarer asks about behaviour that training hardly ever saw."""
CONSIDERED = 0.1
"""Share of the states that stay in the choice when being stuck is rarer than that almost everywhere."""


@dataclass(frozen=True)
class _Case:
    """The state that is asked about."""

    env: Any
    index: int
    policy: CircuitDistribution
    agent: int
    action: int
    answer: Answer
    """What follows when the agent is stuck."""
    change: float
    considered: int
    """Number of states that were left to choose from."""
    lines: list[str]
    """The state in words."""


def write_answers(run: LoadedRun, text_path: Path, picture_path: Path, *, seed: int, agent: int = 1) -> str:
    """Ask a trained policy the three questions, write text and picture, and return the text.

    The state is the one, among fresh layouts, where knowing that the agent is stuck changes most what the others do.

    Args:
        run: a run with a joint policy, loaded with `STATES` environments of at least two agents.
        text_path: where to write the words.
        picture_path: where to write the picture (PNG).
        seed: fixes the layouts and the sampled action.
        agent: the agent that is stuck.
    """
    case = _choose_case(run, seed, agent)
    names = run.env.action_names
    sections = [
        _about_state(case, run),
        ["(a) What does each agent do here? Its exact marginals:", *words.marginals(case.answer.before, None, names)],
        _about_stuck_agent(case, names),
        _about_surprise(case, names, seed),
    ]
    text = "\n\n".join("\n  ".join(section) for section in sections) + "\n"
    text_path.write_text(text, encoding="utf-8")
    picture.draw_answer(
        picture_path,
        board=picture.state_of(run.env, case.index),
        before=case.answer.before,
        after=case.answer.after,
        action_names=names,
        cardinalities=run.env.spec.cardinalities,
        title=f"Agent {agent} is stuck: what should the others do?",
        notes={agent: f": stuck; P({names[case.action]}) was {case.answer.probability:.2g}"},
    )
    return text


def _choose_case(run: LoadedRun, seed: int, agent: int) -> _Case:
    step = run.env.reset(seed=seed)
    action = run.env.action_names.index("stay") if "stay" in run.env.action_names else 0
    probability, change = inference.change_by_evidence(all_policies(run, step), agent, action)
    is_considered = probability >= min(PLAUSIBLE, np.quantile(probability, 1.0 - CONSIDERED))
    index = int(np.argmax(np.where(is_considered, change, -1.0)))
    policy = inference.joint_policy(run, step, index)
    answer = inference.ask(policy, {agent: [action]})
    lines = words.state(run.env, step, index)
    considered = int(is_considered.sum())
    return _Case(run.env, index, policy, agent, action, answer, float(change[index]), considered, lines)


def _about_state(case: _Case, run: LoadedRun) -> list[str]:
    everything = case.env.num_envs
    among = (
        f"among {everything} fresh layouts"
        if case.considered == everything
        else f"among the {case.considered} of {everything} fresh layouts where being stuck is least implausible"
    )
    return [
        f"The policy: {run.config.algorithm}, seed {run.config.train.seed}. The state: {among},",
        f"the one where agent {case.agent} being stuck changes the others' marginals most ({case.change:.2f} in total "
        "variation):",
        *case.lines,
    ]


def _about_stuck_agent(case: _Case, names: Any) -> list[str]:
    free = inference.ask(case.policy, {})
    probability = case.answer.probability
    caution = ["That is so rare that training hardly ever saw it: the answer extrapolates."] * (probability < PLAUSIBLE)
    return [
        f"(b) Agent {case.agent} is stuck: it can only {names[case.action]}. What should the others do?",
        f"The policy by itself would let it {names[case.action]} with probability {probability:.2g}.",
        *caution,
        f"most probable joint action before: {words.conditional_mode(free, names)}",
        f"most probable joint action now:    {words.conditional_mode(case.answer, names)}",
        "marginals before -> now:",
        *words.marginals(case.answer.before, case.answer.after, names),
    ]


def _about_surprise(case: _Case, names: Any, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    entropy = case.policy.entropy().item()
    spread = inference.spread_of_surprise(case.policy, generator=generator)
    cardinalities = case.policy.circuit.cardinalities
    rarest = [int(np.argmin(row[:size])) for row, size in zip(case.answer.before, cardinalities, strict=True)]
    actions = {
        "the most probable one": case.policy.mode.tolist(),
        "one drawn from the policy": case.policy.sample((), generator=generator).tolist(),
        "an odd one (each agent's rarest action)": rarest,
    }
    lines = [
        "(c) How surprising is a joint action? The policy expects a surprise of its entropy, "
        f"{entropy:.2f} nats, give or take {spread:.2f}:"
    ]
    for label, chosen in actions.items():
        found = inference.surprise(case.policy, chosen)
        culprit = int(np.argmax(found.by_agent))
        lines.append(f"{label}: {words.joint_action(chosen, names)}")
        lines.append(f"    {words.surprise(found, entropy, spread)}; most unexpected given the others: agent {culprit}")
    return lines
