"""An environment whose reward is nan, named on the command line as broken_env:NanReward."""

import numpy as np

from spnpolicy.data.env import Step
from spnpolicy.envs.games.matrix_games import MatrixGame


class NanReward(MatrixGame):
    """A matrix game that pays nan."""

    def step(self, actions) -> Step:
        """Play on, and spoil the reward."""
        step = super().step(actions)
        return step._replace(reward=np.full_like(step.reward, np.nan))
