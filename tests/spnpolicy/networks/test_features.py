"""Fourier features: size, values, and the identity at zero frequencies."""

import math

import pytest
import torch

from spnpolicy.base.errors import ConfigError
from spnpolicy.networks.features import FourierFeatures


def test_features_are_the_numbers_their_sines_and_their_cosines():
    observation = torch.tensor([[0.5, -1.0]])
    features = FourierFeatures(2)
    assert features.size(2) == 10
    angles = [0.5 * math.pi, math.pi, -math.pi, -2 * math.pi]
    expected = [0.5, -1.0, *map(math.sin, angles), *map(math.cos, angles)]
    torch.testing.assert_close(features(observation), torch.tensor([expected]), atol=1e-6, rtol=0)


def test_no_frequency_leaves_the_observation_alone():
    observation = torch.randn(3, 4, 5)
    assert FourierFeatures(0)(observation) is observation


def test_a_negative_number_of_frequencies_is_refused():
    with pytest.raises(ConfigError, match="frequencies is -1"):
        FourierFeatures(-1)
