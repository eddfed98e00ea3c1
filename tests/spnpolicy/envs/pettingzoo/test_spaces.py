"""Observations of every kind of space become the vectors that gymnasium makes of them, and wrong ones are named."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple, flatdim, flatten

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.faults import BadValueError
from spnpolicy.envs.pettingzoo.spaces import observation_encoder

SPACES = {
    "box": Box(-3, 5, (2, 3)),
    "box of whole numbers": Box(0, 255, (4,), np.uint8),
    "single number": Box(-1, 1, ()),
    "no numbers": Box(-1, 1, (0,)),
    "discrete": Discrete(5),
    "discrete from 3": Discrete(4, start=3),
    "bits": MultiBinary(6),
    "board of bits": MultiBinary([2, 3]),
    "choices": MultiDiscrete([2, 5, 3]),
    "board of choices": MultiDiscrete([[2, 5], [3, 4]], start=[[0, -2], [1, 7]]),
    "tuple": Tuple((Discrete(3), Box(0, 1, (2,)), MultiBinary(2))),
    "dict": Dict({"place": Box(-1, 1, (2,)), "door": Discrete(2), "keys": MultiBinary(3)}),
    "nested": Dict({"a": Tuple((Discrete(2, start=1), Dict({"b": MultiDiscrete([2, 2])}))), "action_mask": Box(0, 9)}),
    "dict of one": Dict({"x": Discrete(2)}),
}


@pytest.mark.parametrize("name", SPACES)
def test_vectors_are_those_of_gymnasium(name):
    space = SPACES[name] if name != "nested" else SPACES[name]["a"]
    space.seed(0)
    encoder = observation_encoder("game", "agent", space)
    assert encoder.size == flatdim(space)
    for _ in range(20):
        value = space.sample()
        vector = encoder.encode(value)
        np.testing.assert_array_equal(vector, np.asarray(flatten(space, value), np.float32))
        assert vector.dtype == np.float32
        assert ((vector >= encoder.low) & (vector <= encoder.high)).all()


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), np.array(3, np.uint8)])
def test_a_number_may_come_as_an_array_without_axes(value):
    assert observation_encoder("game", "agent", Discrete(4)).encode(value).tolist() == [0, 0, 0, 1]


def test_a_mask_beside_the_observation_is_no_part_of_it():
    encoder = observation_encoder("game", "agent", SPACES["nested"])
    value = SPACES["nested"].sample()
    vector = np.asarray(flatten(SPACES["nested"]["a"], value["a"]), np.float32)
    np.testing.assert_array_equal(encoder.encode(value), vector)
    # but one that stands alone is what there is to see
    assert observation_encoder("game", "agent", Dict({"action_mask": MultiBinary(2)})).size == 2


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (Discrete(3), 3, "is 3; its space says a whole number, 0 .. 2"),
        (Discrete(3, start=2), np.array(1), "is 1; its space says a whole number, 2 .. 4"),
        (Discrete(3), 1.0, "has dtype float64; it must be whole numbers"),
        (Discrete(3), True, "has dtype bool"),
        (Discrete(3), np.array([1]), "has shape (1,); its space says ()"),
        (MultiDiscrete([2, 3]), np.array([1, 3]), "is 3; its space says a whole number, 0 .. 2"),
        (MultiDiscrete([2, 3]), np.array([1]), "has shape (1,); its space says (2,)"),
        (MultiBinary(2), np.array([1, 2]), "holds other numbers than 0 and 1"),
        (MultiBinary(2), np.array([1.0, 0.0]), "has dtype float64"),
        (Tuple((Discrete(2), Discrete(2))), (1,), "has 1 parts; its space says 2"),
        (Tuple((Discrete(2), Discrete(2))), 1, "is a int; its space says a tuple"),
        (Tuple((Discrete(2), Discrete(2))), (1, 5), "[1] is 5; its space says a whole number, 0 .. 1"),
        (Dict({"x": Discrete(2), "y": Box(0, 1, (2,))}), {"x": 0}, "is a dict without the key 'y'"),
        (Dict({"x": Discrete(2), "y": Box(0, 1, (2,))}), {"x": 0, "y": np.zeros(3)}, "['y'] has shape (3,)"),
        (
            Dict({"observation": Discrete(2), "action_mask": MultiBinary(2)}),
            1,
            "is a int without the key 'observation'",
        ),
        (Box(0, 1, (2,)), [[1.0], 2.0], "is not an array"),
        (Box(0, 1, (2,)), np.array(["x", "y"]), "has dtype <U1; it must be numbers"),
    ],
)
def test_what_the_space_does_not_allow_is_named(space, value, words):
    encoder = observation_encoder("game", "agent", space)
    with pytest.raises(BadValueError) as error:
        encoder.encode(value)
    assert words in f"{error.value.text}"


def test_other_spaces_are_refused():
    message = r"game: the observation space of agent has a part that is Text.*Wrap the environment"
    for space in (
        Text(5),
        Tuple((Discrete(2), Text(5))),
        Dict({"observation": Text(5), "action_mask": MultiBinary(2)}),
    ):
        with pytest.raises(ConfigError, match=message):
            observation_encoder("game", "agent", space)
