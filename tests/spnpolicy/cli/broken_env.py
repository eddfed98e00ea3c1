"""An environment whose reward is nan, named on the command line as broken_env:NanReward."""

import numpy as np

from spnpolicy.envs.matrix_games import MatrixGame
from spnpolicy.envs.protocol import Step


class NanReward(MatrixGame):
    """A matrix game that pays nan."""

    def step(self, actions) -> Step:
        """Play on, and spoil the reward."""
        step = super().step(actions)
        return step._replace(reward=np.full_like(step.reward, np.nan))
