"""Every number of every setting, nested ones included, is refused by name or trains: read off the annotations."""

import dataclasses
import math
import random
import typing
from functools import partial

import pytest
import torch

from spnpolicy.algorithms import ALGORITHMS, config_class, make_algorithm
from spnpolicy.base.decoding import decode
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.learning import Learning
from spnpolicy.training.loop import train
from spnpolicy.training.player import needs_of
from spnpolicy.training.storage.state_tree import flatten
from tests.spnpolicy.algorithms.test_algorithms import INSTALLED, OWN
from tests.spnpolicy.chain_env import ChainEnv, make_chain
from tests.spnpolicy.learning_cases import play, store_for

NEVER = (-1, math.nan, math.inf, "", -math.inf, 10**400)
"""No number may be one of these."""
PERHAPS = {int: (0, 10**12), float: (0.0, 1e30)}
"""Each of these may be refused, or else it must train."""
SMALL = OWN | {name: {"rollout": 4} for name in ("ippo", "mappo")}
"""For speed: as many minibatches as there are rows."""
OPEN_LISTS = (("pairs",), ("scopes",))
"""Lists that may be empty."""


def leaves(hint):
    """The plain types of an annotation, whatever stands around them."""
    if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is typing.Literal:
        return set()
    parts = typing.get_args(hint)
    return set().union(*map(leaves, parts)) if parts else {hint}


def settings(kind, path=()):
    """Every setting of numbers: its path, the type of its numbers, and whether it is a list of them."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, here = hints[field.name], (*path, field.name)
        if dataclasses.is_dataclass(hint):
            yield from settings(hint, here)
        elif numbers := leaves(hint) & {int, float}:
            yield here, min(numbers, key=str), tuple in map(typing.get_origin, [hint, *typing.get_args(hint)])


def nested(path, value):
    for name in reversed(path):
        value = {name: value}
    return value


def merged(first, second):
    both = {name for name in first.keys() & second.keys() if isinstance(first[name], dict)}
    return first | second | {name: merged(first[name], second[name]) for name in both}


def values(path, number, is_list):
    """What no setting may be, and what it may be or not."""
    if path in OPEN_LISTS:
        return [*NEVER, ((0, -1),), ((0, math.nan),)], [(), ((0, 10**12),)]
    if is_list:
        return [*NEVER, (), *((8, value) for value in NEVER)], [(value,) for value in PERHAPS[number]]
    if path[-1] == "learning_rate":  # so large that learning diverges it ends a run with an exit code of its own
        return [*NEVER, ()], [0.0]
    return [*NEVER, ()], list(PERHAPS[number])


def owner(kind, path):
    """The record that declares a setting, and the setting's name there."""
    for name in path[:-1]:
        kind = typing.get_type_hints(kind)[name]
    return next(record for record in kind.__mro__ if path[-1] in record.__dict__.get("__annotations__", {})), path[-1]


def around(name, path):
    """Settings beside one, without which it is refused because it would have no influence."""
    if path == ("sequence_length",):
        return {"rollout": None, "windows": True} if "rollout" in fields(name) else {"windows": True}
    if path == ("burn_in",) and "recurrent" in config_class(name).network_kinds:
        return {"rollout": None, "network": {"kind": "recurrent"}}
    return {"graph": "scopes"} if path == ("scopes",) else {}


def fields(name):
    return {field.name for field in dataclasses.fields(config_class(name))}


def train_a_little(name, path, value):
    """Play and learn with a setting: all numbers are finite, and something is learned."""
    options = merged({"network": {"hidden": (8,)}} | SMALL.get(name, {}), around(name, path))
    env = ChainEnv(8, cardinalities=(2, 3))
    algorithm = make_algorithm(name, env.spec, Streams(0), **merged(options, nested(path, value)))
    store = store_for(algorithm, env.spec)
    before = networks(algorithm)
    player, step = play(algorithm, env, store, needs_of(algorithm).rollout or 10)
    for progress in (0.0, 1.0):
        numbers = algorithm.update(store.draw(32), progress=progress)
        assert all(map(math.isfinite, numbers.values())), numbers
        player, step = play(algorithm, env, store, needs_of(algorithm).rollout or 1, progress, player, step)
    after = networks(algorithm)
    assert any(not torch.equal(before[place], after[place]) for place in before), "nothing was learned"


def networks(algorithm):
    places = flatten(algorithm.state_dict())[1]
    learning = ("actor/", "critic/", "learner/actor/", "learner/critic/")
    return {place: tensor.clone() for place, tensor in places.items() if place.startswith(learning)}


def refused_or(path, work):
    """Do some work, and say whether it was refused; a refusal must name the setting."""
    try:
        work()
        return False
    except ConfigError as problem:
        text = str(problem)
    assert ".".join(path) in text
    return True


def perhaps(name):
    return [(path, value) for path, *kind in settings(config_class(name)) for value in values(path, *kind)[1]]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", INSTALLED)
def test_what_no_setting_may_be_is_refused_by_name(name):
    kind = config_class(name)
    for path, *number in settings(kind):
        for value in values(path, *number)[0]:
            options = merged(around(name, path), nested(path, value))
            refused = refused_or(path, partial(decode, kind, options, path=name))
            assert refused, f"{'.'.join(path)} was {value!r}"


OWNERS = {}
"""One fast algorithm for every field of a record and every value: it means the same wherever it is inherited."""
for name in sorted(INSTALLED, key=lambda name: ALGORITHMS[name].has_joint_policy):
    for path, value in perhaps(name):
        OWNERS.setdefault((*owner(config_class(name), path), repr(value)), (name, path, value))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", sorted({name for name, *_ in OWNERS.values()}))
def test_other_settings_are_refused_by_name_or_train(name):
    for case, path, value in OWNERS.values():
        if case == name:
            refused_or(path, partial(train_a_little, name, path, value))


@pytest.mark.full
@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", INSTALLED)
def test_so_they_are_in_every_algorithm(name):
    for path, value in perhaps(name):
        refused_or(path, partial(train_a_little, name, path, value))


@pytest.mark.usefixtures("as_installed")
def test_the_settings_of_a_run_are_refused_by_name_or_train(tmp_path):
    few = {"num_envs": 4, "batch_size": 8, "replay_capacity": 100, "warmup_steps": 0, "evaluation_episodes": 1}
    for path, *number in settings(TrainConfig):
        never, perhaps = values(path, *number)
        for value in never:
            assert refused_or(path, partial(decode, TrainConfig, nested(path, value), path="train")), (path, value)
        for value in perhaps:
            refused_or(path, partial(learn_a_little, few | nested(path, value), tmp_path))


def learn_a_little(options, folder):
    config = RunConfig("vdn", "chain", {"network": {"hidden": (8,)}}, train=decode(TrainConfig, options, path="train"))
    learning = Learning(config, make_chain, device="cpu", dumps=folder, on_fault=lambda fault: None)
    learning.begin()
    for _ in range(3):
        learning.iterate()
        assert all(math.isfinite(number) for numbers in learning.learn_if_due() for number in numbers.values())


@pytest.mark.parametrize("name", INSTALLED)
def test_a_run_in_which_nothing_would_be_learned_is_refused_by_name(name, tmp_path):
    few = {"num_envs": 4, "steps": 40, "evaluation_episodes": 1}
    options = {"network": {"hidden": (8,)}} | SMALL.get(name, {})
    if "rollout" in fields(name) and config_class(name)().rollout is not None:
        cases = [({}, {"rollout": 11}, "rollout is 11, but .* after 11: .* train.steps at least 44")]
    else:
        cases = [
            ({}, {}, r"train.warmup_steps is 1000, .* \(40\) .* \(4\) .* has 10 it.* after 250: .* at least 1000"),
            ({"train_every": 11, "warmup_steps": 0}, {}, "train.train_every is 11, but .* after 11: .* at least 44"),
            ({"train_every": 6, "warmup_steps": 30}, {}, "train.warmup_steps is 30, but .* after 12: .* at least 48"),
        ]
    for train_options, own, message in cases:
        config = RunConfig(name, "chain", options | own, train=TrainConfig(**few, **train_options))
        with pytest.raises(ConfigError, match=message):
            train(config, tmp_path / "run", make_env=make_chain)
    assert not (tmp_path / "run").exists()


def test_it_is_refused_exactly_where_the_loop_would_make_no_update(tmp_path):
    for seed in range(30):
        draw = random.Random(seed).randint
        rollout = draw(1, 6) if seed % 3 == 0 else None
        options = {"network": {"hidden": (4,)}, "rollout": rollout}
        given = {"steps": draw(1, 12), "num_envs": draw(1, 3), "evaluation_episodes": 1}
        if rollout is None:
            given |= {"warmup_steps": draw(0, 9), "train_every": draw(1, 4), "updates": 1, "batch_size": 2}
        settings = TrainConfig(**given)
        learning = Learning(
            RunConfig("vdn", "chain", options, train=settings), make_chain,
            device="cpu", dumps=tmp_path, on_fault=lambda fault: None,
        )  # fmt: skip
        learning.begin()
        while learning.step_count < settings.steps:
            learning.iterate()
            learning.learn_if_due()
        learns = not refused_or((), partial(settings.require_an_update, rollout))
        assert learns == (learning.updates > 0), given | {"rollout": rollout}


def test_numbers_without_a_range_are_found():
    """Every number of every setting says what it may be: a field that is added later as well."""
    for kind in (*map(config_class, INSTALLED), TrainConfig):
        for path, *_ in settings(kind):
            record, field = owner(kind, path)
            hint = typing.get_type_hints(record, include_extras=True)[field]
            assert "Range" in repr(hint), f"{record.__name__}.{field}"
