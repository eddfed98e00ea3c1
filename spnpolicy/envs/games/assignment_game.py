"""The assignment game: every agent picks a task, and a task pays once; scales to hundreds of agents."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer

from spnpolicy.base.errors import ConfigError
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.envs.games.payoffs import discounted_sum
from spnpolicy.envs.options import (
    begun,
    check_saved_options,
    checked_actions,
    checked_seed,
    reading_saved_state,
    true_or_false,
    whole_number,
)

MAX_TABLE_BYTES = 2**30


class AssignmentGame:
    """A batch of one-step games in which agents divide tasks among themselves.

    Agent i is worth w[i, j] at task j. All choose at once; a task that several choose pays its best chooser's worth
    and no more, a task that nobody chooses pays nothing. Everybody is paid the sum over tasks, divided by the number
    of agents or tasks, whichever is smaller, so that rewards are in [0, 1]:

        reward = 1 / min(agents, tasks) * sum over j of max over i with action j of w[i, j]

    The best joint action is a maximum-weight assignment: the optimum is known exactly, for any number of agents. Every
    step terminates the episode. Worths are independent and uniform on [0, 1). With 100 agents and 100 tasks random
    play earns about 0.37, agents that all take their own best task 0.63, and the optimum is 0.98.

    Agent i sees its own row of w, of length `tasks`; the state is all rows side by side, agent 0 first, a view of the
    same memory. The number of an agent is not shown.

    With `shown` an agent sees that many of its best tasks only, best first, each with its worth and its number, and
    action j is to choose the j-th of these: what agents see and choose among then does not grow with the team. Optima
    are those of the tasks that are shown. With 1,024 agents, 16 tasks leave more than 0.999 of the optimum of all.

    Args:
        agents: number of agents, 1 or more.
        tasks: number of tasks, 1 or more; None means as many as agents.
        shown: most tasks that an agent sees; None means all, in their own order.
        idle: add a last action that chooses no task.
        fixed: play the same table, drawn from `table_seed`, in every episode instead of a new one in each.
        table_seed: seed of the fixed table.
        num_envs: number of games in the batch.

    Raises:
        ConfigError: an option has the wrong type or range, or the tables would need more than 1 GiB.
    Source: Burkard, Dell'Amico & Martello 2009, chapter 4 (linear sum assignment).
    """

    name = "assignment_game"
    episode_limit = 1

    def __init__(
        self,
        *,
        agents: int = 4,
        tasks: int | None = None,
        shown: int | None = None,
        idle: bool = False,
        fixed: bool = False,
        table_seed: int = 0,
        num_envs: int = 1,
    ) -> None:
        self.agents = whole_number(self.name, "agents", agents, 1)
        self.tasks = self.agents if tasks is None else whole_number(self.name, "tasks", tasks, 1)
        self.idle, self.fixed = (true_or_false(self.name, *pair) for pair in (("idle", idle), ("fixed", fixed)))
        self.table_seed = whole_number(self.name, "table_seed", table_seed, 0)
        self.num_envs = whole_number(self.name, "num_envs", num_envs, 1)
        table_bytes = self.num_envs * self.agents * self.tasks * np.float32().nbytes
        if table_bytes > MAX_TABLE_BYTES:
            raise ConfigError(
                f"assignment_game: agents={self.agents}, tasks={self.tasks} and num_envs={self.num_envs} need tables "
                f"of {table_bytes / 2**30:.1f} GiB; use fewer."
            )
        self.shown = None if shown is None else min(whole_number(self.name, "shown", shown, 1), self.tasks)
        seen = self.tasks if self.shown is None else self.shown
        actions = seen + idle
        # An agent sees nothing of itself, only what each task is worth to it.
        if self.shown is None:
            tasks_seen, most = EntitySet("tasks", 0, seen, 1, is_shared=True), 1.0
            names = [f"task {j}" for j in range(seen)]
        else:
            tasks_seen, most = EntitySet("tasks", 0, seen, 2, identity=1), float(max(1, self.tasks - 1))
            names = [f"own best {j + 1}" for j in range(seen)]
        self.action_names = (*names, *["idle"] * idle)
        entities = Entities(EntitySet("itself", 0, 1, 0), (tasks_seen,), state_is_observations=True, actions="tasks")
        counts, size = (actions,) * self.agents, tasks_seen.stop
        self.spec = EnvSpec(counts, size, self.agents * size, False, entities=entities, observation_bounds=(0.0, most))
        self._available = np.broadcast_to(True, (self.num_envs, self.agents, actions))
        self._fixed_table: Float[np.ndarray, "agents tasks"] | None = None
        if fixed:
            self._fixed_table = self._draw(np.random.default_rng(self.table_seed), 1)[0]
        self._generator: np.random.Generator | None = None
        self._before_table: dict[str, Any] = {}
        self._worth: Float[np.ndarray, "envs agents tasks"] | None = None
        self._order: Int[np.ndarray, "envs agents shown"] | None = None

    def reset(self, *, seed: int | None = None) -> Step:
        """Start a new game everywhere; a seed makes all tables that follow reproducible."""
        checked_seed(self.name, seed)
        if seed is not None or self._generator is None:
            self._generator = np.random.default_rng(seed)
        self._next_table(self._generator)
        return Step.showing(self._observation(), self._available)

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Step:
        """Pay all agents of a game the same for the tasks that were chosen, and begin again: every game terminates."""
        worth = self._started()
        assert self._generator is not None, "a table exists only after a stream was opened"
        actions = checked_actions(self.name, actions, self.num_envs, np.array(self.spec.cardinalities))
        reward, seen = self._paid(worth, self._tasks_of(actions)), self._observation()
        self._next_table(self._generator)
        return Step.showing(
            self._observation(),
            self._available,
            reward=np.repeat(reward[:, None], self.agents, axis=1),
            terminated=np.ones(self.num_envs, bool),
            final_observation=seen,
        )

    def _observation(self) -> Float[np.ndarray, "envs agents features"]:
        worth = self._started()
        if self._order is None:
            return worth
        seen = np.take_along_axis(worth, self._order, 2)
        return np.stack([seen, self._order.astype(np.float32)], -1).reshape(*worth.shape[:2], -1)

    def _tasks_of(self, actions: Integer[np.ndarray, "envs agents"]) -> Integer[np.ndarray, "envs agents"]:
        """Return the tasks that actions choose; the number behind the last task for none."""
        if self._order is None:
            return actions
        seen = self._order.shape[-1]
        chosen = np.take_along_axis(self._order, np.minimum(actions, seen - 1)[..., None], 2)[..., 0]
        return np.where(actions < seen, chosen, self.tasks)

    def _paid(
        self, worth: Float[np.ndarray, "envs agents tasks"], chosen: Integer[np.ndarray, "envs agents"]
    ) -> Float[np.ndarray, " envs"]:
        # One column more than tasks: what idle agents put there is never paid.
        columns = self.tasks + 1
        own = np.take_along_axis(worth, np.minimum(chosen, self.tasks - 1)[..., None], axis=2)
        best = np.zeros(self.num_envs * columns, np.float32)
        np.maximum.at(best, (chosen + columns * np.arange(self.num_envs)[:, None]).ravel(), own.ravel())
        return best.reshape(-1, columns)[:, : self.tasks].sum(axis=1) / np.float32(min(self.agents, self.tasks))

    def optimal_actions(self) -> Int[np.ndarray, "envs agents"]:
        """Return a best joint action of each current game; agents for whom no task is left choose action 0.

        Cost: O(n^3) per game, about 1 ms for 100 agents and tasks, 0.1 s for 1,024.

        Raises:
            EnvError: `reset` was never called.
        """
        # scipy takes longer to import than all the rest of this package
        from scipy.optimize import linear_sum_assignment

        actions = np.zeros((self.num_envs, self.agents), np.intp)
        for row, worth in enumerate(self._started()):
            if self._order is None:
                chosen, tasks = linear_sum_assignment(worth, maximize=True)
                actions[row, chosen] = tasks
                continue
            # A task that an agent does not see pays nothing to it.
            order = self._order[row]
            visible = np.zeros_like(worth)
            np.put_along_axis(visible, order, np.take_along_axis(worth, order, 1), 1)
            chosen, tasks = linear_sum_assignment(visible, maximize=True)
            actions[row, chosen] = (order[chosen] == tasks[:, None]).argmax(1)
        return actions

    def optimal_return(self, discount: float) -> Float[np.ndarray, " envs"]:
        """Return the best return of each current game; with a single step, no discount changes it."""
        factor = discounted_sum(self.name, [1.0], discount)
        return factor * self._paid(self._started(), self._tasks_of(self.optimal_actions())).astype(np.float64)

    def state_dict(self) -> dict[str, Any]:
        """Return the options and the place in the stream of tables, from which the current ones are drawn again."""
        self._started()
        return {"options": self._options(), "generator": self._before_table}

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on exactly from a state that `state_dict` returned; nothing changes when the state is refused."""
        generator = np.random.default_rng(0)
        with reading_saved_state(self.name):
            options = dict(state["options"])
            generator.bit_generator.state = state["generator"]
        check_saved_options(self.name, options, self._options())
        self._generator = generator
        self._next_table(generator)
        return Step.showing(self._observation(), self._available)

    def _options(self) -> dict[str, Any]:
        names = ("agents", "tasks", "shown", "idle", "fixed", "table_seed", "num_envs")
        return {name: getattr(self, name) for name in names}

    def _draw(self, generator: np.random.Generator, tables: int) -> Float[np.ndarray, "tables agents tasks"]:
        return generator.random((tables, self.agents, self.tasks), np.float32)

    def _next_table(self, generator: np.random.Generator) -> None:
        self._before_table = dict(generator.bit_generator.state)
        if self._fixed_table is not None:
            self._worth = np.repeat(self._fixed_table[None], self.num_envs, axis=0)
        else:
            self._worth = self._draw(generator, self.num_envs)
        if self.shown is not None:
            best = np.argpartition(self._worth, self.tasks - self.shown, 2)[..., self.tasks - self.shown :]
            ranks = np.argsort(-np.take_along_axis(self._worth, best, 2), 2)
            self._order = np.take_along_axis(best, ranks, 2)

    def _started(self) -> Float[np.ndarray, "envs agents tasks"]:
        return begun(self.name, self._worth)
