"""Learning from data: weights by closed form, EM or gradient; trees, cutset networks and more as structures.

>>> import torch, circuits
>>> c = circuits.structures.markov_chain([2, 2])
>>> logits = circuits.learning.maximum_likelihood(c, torch.tensor([[0, 1], [1, 0], [0, 1]]), smoothing=0.0)
>>> circuits.CircuitDistribution(c, logits).log_prob(torch.tensor([0, 1])).exp()
tensor(0.6667, dtype=torch.float64)
"""

from circuits.learning.chow_liu import chow_liu, chow_liu_tree
from circuits.learning.cutset_network import learn_cutset_network
from circuits.learning.expectation_maximization import expectation_maximization
from circuits.learning.fit import Fit, FitOptions
from circuits.learning.gradient import fit_gradient
from circuits.learning.latent_tree import learn_latent_tree
from circuits.learning.maximum_likelihood import maximum_likelihood
from circuits.learning.split.learner import Growth, SplitOptions, grow_structure

__all__ = [
    "Fit",
    "FitOptions",
    "Growth",
    "SplitOptions",
    "chow_liu",
    "chow_liu_tree",
    "expectation_maximization",
    "fit_gradient",
    "grow_structure",
    "learn_cutset_network",
    "learn_latent_tree",
    "maximum_likelihood",
]
