"""The rules of the coverage gridworld as plain loops. Slow, obvious, and without a line of the package."""

MOVES = {0: (0, 0), 1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1), 5: (0, 0)}


class OracleGame:
    def __init__(self, size, agents, goals, variant, episode_limit, breaks=None, announced=True):
        self.size = size
        self.agents = [tuple(position) for position in agents]
        self.goals = [tuple(position) for position in goals]
        self.variant = variant
        self.episode_limit = episode_limit
        self.agent_flags = [False] * len(self.agents)
        self.goal_flags = [False] * len(self.goals)
        self.steps = 0
        self.announced = announced
        self.breaks = breaks or [10**9] * len(self.agents)

    def is_broken(self, i):
        return self.steps >= self.breaks[i]

    def step(self, actions):
        """Return (reward, terminated, truncated)."""
        for i, action in enumerate(actions):
            if self.is_broken(i) or self.variant != "simultaneous" and self.agent_flags[i]:
                continue
            row, column = self.agents[i]
            row_shift, column_shift = MOVES[action]
            if 0 <= row + row_shift < self.size and 0 <= column + column_shift < self.size:
                self.agents[i] = (row + row_shift, column + column_shift)
        if self.variant == "simultaneous":
            self.agent_flags = [agent in self.goals for agent in self.agents]
            self.goal_flags = [goal in self.agents for goal in self.goals]
        else:
            for i, action in enumerate(actions):
                for g, goal in enumerate(self.goals):
                    tries = self.variant == "latch" or action == 5 and not self.is_broken(i)
                    if self.agents[i] == goal and not self.goal_flags[g] and not self.agent_flags[i] and tries:
                        self.agent_flags[i] = True
                        self.goal_flags[g] = True
        self.steps += 1
        success = all(self.goal_flags)
        return (1.0 if success else 0.0), success, self.steps >= self.episode_limit and not success

    def observation(self):
        """Return one list of numbers per agent."""
        last = self.size - 1
        rows = []
        for i, (row, column) in enumerate(self.agents):
            stands = [flag or (self.announced and self.is_broken(j)) for j, flag in enumerate(self.agent_flags)]
            seen = [row / last, column / last, float(stands[i])]
            for g, goal in enumerate(self.goals):
                seen += [(goal[0] - row) / last, (goal[1] - column) / last, float(self.goal_flags[g])]
            for distance in range(1, len(self.agents)):
                j = (i + distance) % len(self.agents)
                other = self.agents[j]
                seen += [(other[0] - row) / last, (other[1] - column) / last, float(stands[j])]
            rows.append(seen)
        return rows
