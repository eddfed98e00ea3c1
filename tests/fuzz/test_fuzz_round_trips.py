"""Whatever can be written comes back exactly: configs, states and circuits."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

import circuits
from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.strict_json import dump_json, parse_json
from spnpolicy.training.config import Curriculum, RunConfig, TrainConfig
from spnpolicy.training.storage.checkpoints import load_checkpoint, save_checkpoint
from spnpolicy.training.storage.tensor_files import NAME_OF_DTYPE
from tests import strategies
from tests.identical import assert_identical

COUNTS = [100, pytest.param(2000, marks=pytest.mark.slow)]

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**80), 10**80), st.floats(allow_nan=False), st.text()
).filter(lambda value: value not in (float("inf"), float("-inf")))
OPTIONS = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


def examples(count):
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


@st.composite
def train_configs(draw):
    counts = st.integers(1, 10**12)
    most = {"batch_size": 10**6, "evaluation_episodes": 10**6, "updates": 10**5}
    num_envs = draw(st.integers(1, 10**6))
    names = ("steps", "batch_size", "train_every", "updates", "log_every", "evaluate_every", "checkpoint_every")
    settings = {
        name: min(draw(counts), most.get(name, 10**12))
        for name in (*names, "evaluation_episodes")
        if draw(st.booleans())
    }
    if draw(st.booleans()):
        settings["on_env_fault"] = draw(st.sampled_from(["raise", "drop-episode"]))
    capacity = num_envs + draw(st.integers(0, 10**9))
    seed, discount = draw(st.integers(0, 2**63 - 1)), draw(st.floats(0, 1))
    return TrainConfig(num_envs=num_envs, replay_capacity=capacity, seed=seed, discount=discount, **settings)


def option_tables(reserved):
    return st.dictionaries(st.text().filter(lambda name: name != reserved), OPTIONS, max_size=5)


CURRICULA = st.just({}) | st.fixed_dictionaries(
    {"stages": st.lists(option_tables("num_envs").filter(bool), min_size=1, max_size=3).map(tuple)},
    optional={"success": st.floats(0, 1), "episodes": st.integers(1, 10**6)},
)
RUN_SETTINGS = st.fixed_dictionaries(
    {
        "algorithm": st.text(),
        "env": st.text(),
        "algorithm_options": option_tables("discount"),
        "env_options": option_tables("num_envs"),
        "train": train_configs(),
        "curriculum": CURRICULA,
    }
)


@pytest.mark.parametrize("count", COUNTS)
def test_run_configs(count):
    @examples(count)
    @given(RUN_SETTINGS)
    def check(given_settings):
        # Made here and not in the strategy: the type checks of the tests look at a random stage of a curriculum, and
        # strategies may not draw from `random`.
        config = RunConfig(**given_settings | {"curriculum": Curriculum(**given_settings["curriculum"])})
        text = dump_json(encode(config))
        again = decode(RunConfig, parse_json(text.encode(), source="c", error=ConfigError), path="c")
        assert again == config
        assert_identical(encode(again), encode(config))
        assert dump_json(encode(again)) == text

    check()


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(sorted(NAME_OF_DTYPE, key=str)))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    size = int(np.prod(shape)) * dtype.itemsize
    content = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == torch.bool:
        content = bytearray(byte & 1 for byte in content)
    if not size:
        return torch.zeros(shape, dtype=dtype)
    tensor = torch.frombuffer(content, dtype=dtype).reshape(shape)
    return draw(st.sampled_from([tensor, tensor.transpose(0, -1), tensor[..., :1]] if tensor.ndim else [tensor]))


ARRAYS = numpy_strategies.arrays(
    st.sampled_from(
        [np.dtype(kind) for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u1", "?", "c8")]
    ),
    numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
LEAVES = st.one_of(PLAIN, st.floats(), tensors(), ARRAYS, ARRAYS.filter(lambda a: a.size > 0).map(lambda a: a.flat[0]))
KEYS = st.text() | st.integers() | st.sampled_from(["$tensor", "$", "0", "a/b", "__metadata__"])
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=3).map(tuple), st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=15,
)
PARTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)


@pytest.mark.parametrize("count", COUNTS)
def test_states(count, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # nothing here has to outlive a crash

    @examples(count)
    @given(st.dictionaries(PARTS, TREES, max_size=3))
    def check(state):
        save_checkpoint(tmp_path, state, keep=1)
        assert_identical(load_checkpoint(tmp_path), state)

    check()


@pytest.mark.parametrize("count", COUNTS)
def test_circuits(count, tmp_path):
    @examples(count)
    @given(strategies.recipes(), st.sampled_from(strategies.BATCHES), st.integers(0, 2**31))
    def check(recipe, batch, number):
        circuit = strategies.circuit_of(*recipe)
        noise = torch.Generator().manual_seed(number)
        logits = torch.randn(*batch, circuit.num_parameters, generator=noise)
        path = tmp_path / "circuit.safetensors"
        circuits.save(path, circuit, logits)
        again, numbers = circuits.load(path)
        assert (again.name, again.cardinalities, again.nodes) == (circuit.name, circuit.cardinalities, circuit.nodes)
        assert_identical(numbers, logits)

    check()
