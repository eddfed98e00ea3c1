"""PerAgent: truly separate learners, one for each agent, behind the face of one algorithm."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Algorithm, Batch, Memory, Needs
from spnpolicy.parts.learner import saves


@saves("learners")
class PerAgent:
    """Every agent has a learner of its own, which sees nothing of the other agents but what the environment shows it.

    `share_parameters` false gives each agent its own weights too, but one loss, one optimiser and one limit of the
    gradient for all. Here nothing is common: where one agent's gradient explodes, only its own learner stands still.

    Args:
        make: builds the learner of one agent from its part of the task and its own random streams.
        spec: the task of all agents.
        streams: source of all randomness.

    Example:
        PerAgent(lambda spec, streams: make_algorithm("iql", spec, streams), env.spec, Streams(0))
    """

    def __init__(self, make: Callable[[EnvSpec, Streams], Algorithm], spec: EnvSpec, streams: Streams) -> None:
        self._num_actions = spec.cardinalities
        agents = range(spec.num_agents)
        self.learners = _Learners(make(spec.of(agent), streams.child(f"agent_{agent}")) for agent in agents)
        first: Any = self.learners[0]
        self.config, self.needs = first.config, getattr(first, "needs", Needs())

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Let each agent's learner choose its action."""
        chosen, remembered = [], []
        for agent, learner in enumerate(self.learners):
            options: dict[str, Any] = {"explore": explore, "progress": progress}
            if memory is not None and memory.hidden is not None:
                options["memory"] = Memory(memory.hidden[:, agent : agent + 1])
            chosen.append(learner.act(step.of(agent, self._num_actions[agent]), **options))
            remembered += [options["memory"].hidden] if "memory" in options else []
        if memory is not None and remembered:
            memory.hidden = torch.cat(remembered, 1)
        return np.concatenate(chosen, 1)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Let each agent's learner learn from what the agent has of the batch; names end with the agent's number."""
        numbers: dict[str, float] = {}
        for agent, learner in enumerate(self.learners):
            own = learner.update(batch.of(agent, self._num_actions[agent]), progress=progress)
            numbers |= {f"{name}_{agent}": number for name, number in own.items()}
        return numbers


class _Learners(list[Any]):
    """Learners that are saved and moved together."""

    def state_dict(self) -> dict[str, Any]:
        return {f"agent_{agent}": learner.state_dict() for agent, learner in enumerate(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for agent, learner in enumerate(self):
            learner.load_state_dict(state[f"agent_{agent}"])

    def to(self, device: torch.device) -> None:
        for learner in self:
            learner.to(device)
