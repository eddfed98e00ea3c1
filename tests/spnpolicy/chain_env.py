"""A two-state task with known values, for tests of the training code."""

import numpy as np

from spnpolicy.data.env import EnvSpec, Step


class ChainEnv:
    """Start in A; the first step leads to B for nothing, every step in B stays there and pays 1.

    With ending "terminated" the task is over after the first payment: V(B) = 1, V(A) = discount.
    With "truncated" only the clock stops there: V(B) = 1 / (1 - discount), V(A) = discount * V(B).
    The observation of the finished episode is B; the next episode begins with A.
    """

    name = "chain"
    action_names = ("x", "y", "z")
    episode_limit = 2

    def __init__(self, num_envs, ending="terminated", cardinalities=(2, 3), has_action_masks=False, bad_reward=False):
        self.num_envs = num_envs
        self.spec = EnvSpec(cardinalities, 2, 2, has_action_masks)
        self._ending = ending
        self._bad_reward = bad_reward
        self._in_b = np.zeros(num_envs, dtype=bool)
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed=None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._in_b = np.zeros(self.num_envs, dtype=bool)
        return self._show(self._in_b, np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool))

    def step(self, actions):
        reward = self._in_b.astype(np.float64)
        if self._bad_reward:
            reward[:] = np.nan
        done = self._in_b
        # Environments that were in B restart in A; the others move to B.
        self._in_b = ~self._in_b
        return self._show(np.ones(self.num_envs, dtype=bool), reward, done)

    def state_dict(self):
        return {"in_b": self._in_b.copy(), "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state):
        self._in_b = state["in_b"].copy()
        step = self._show(self._in_b, np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool))
        # Last, because the masks of this step are drawn, and the saved ones were drawn already.
        self._rng.bit_generator.state = state["rng"]
        return step

    def _show(self, final_in_b, reward, done):
        agents = self.spec.num_agents
        none = np.zeros(self.num_envs, dtype=bool)
        terminated = self._ending == "terminated"
        return Step(
            observation=self._observe(self._in_b),
            state=np.eye(2, dtype=np.float32)[self._in_b.astype(int)],
            reward=np.repeat(reward[:, None], agents, axis=1).astype(np.float32),
            terminated=done if terminated else none,
            truncated=none if terminated else done,
            available_actions=self._mask(),
            final_observation=self._observe(final_in_b),
            final_state=np.eye(2, dtype=np.float32)[final_in_b.astype(int)],
            final_available_actions=self._mask(),
        )

    def _observe(self, in_b):
        one_hot = np.eye(2, dtype=np.float32)[in_b.astype(int)]
        return np.repeat(one_hot[:, None], self.spec.num_agents, axis=1)

    def _mask(self):
        cardinalities = np.array(self.spec.cardinalities)
        exists = np.arange(cardinalities.max()) < cardinalities[:, None]
        mask = np.broadcast_to(exists, (self.num_envs, *exists.shape)).copy()
        if self.spec.has_action_masks:
            mask &= self._rng.random(mask.shape) < 0.4
            env, agent = np.nonzero(~mask.any(-1))
            mask[env, agent, self._rng.integers(cardinalities[agent])] = True
        return mask


def make_chain(name, **options):
    assert name == "chain"
    return ChainEnv(**options)
