from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.strict_json import parse_json
from spnpolicy.training.config import RunConfig, TrainConfig


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int
    name: str = "a"
    flag: bool = False
    hidden: tuple[int, ...] = (1,)
    pair: tuple[int, str] = (1, "x")
    mode: Literal["fast", "slow"] = "fast"
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    extra: dict[str, Any] = field(default_factory=dict)


def test_round_trip():
    value = Outer(3, "b", True, (1, 2), (4, "y"), "slow", 7, Inner(2.0), {"x": [1]})
    assert decode(Outer, encode(value), path="config") == value
    assert decode(Outer, {"count": 1, "inner": {"rate": 1}}, path="config").inner.rate == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuont": 1}, r"config: unknown setting 'cuont'. Did you mean 'count'\?"),
        ({"count": True}, r"config.count is True, but must be of type int"),
        ({"count": 2.5}, r"config.count is 2.5"),
        ({"count": "2"}, r"config.count is '2'"),
        ({"flag": 1}, r"config.flag is 1, but must be of type bool"),
        ({"hidden": [1, "2"]}, r"config.hidden\[1\] is '2'"),
        ({"hidden": 3}, r"config.hidden is 3, but must be a list"),
        ({"pair": [1]}, r"config.pair has 1 entries, but must have 2"),
        ({"mode": "fats"}, r"config.mode is 'fats', but must be one of 'fast', 'slow'"),
        ({"limit": "x"}, r"config.limit is 'x'"),
        ({"inner": {"rate": float("nan")}}, r"config.inner.rate is not a finite number"),
        ({"inner": {"rate": 10**400}}, r"config.inner.rate is not a finite number"),
        ({"inner": {"rte": 1}}, r"config.inner: unknown setting 'rte'. Did you mean 'rate'\?"),
        ({"inner": 3}, r"config.inner is 3, but must be an object"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        decode(Outer, {"count": 1} | change, path="config")


def test_missing_setting():
    with pytest.raises(ConfigError, match="config: setting 'count' is missing"):
        decode(Outer, {}, path="config")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[1e999]", "1e999 is too large"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "c.json"),
        ('{"a": \n1,}', "c.json:2:"),
        (b"\xff", "c.json"),
        ("", "c.json:1:1"),
    ],
)
def test_strict_json(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_json(text, source="c.json", error=ConfigError)


def test_run_config_has_one_discount_and_checks_ranges():
    with pytest.raises(ConfigError, match=r"set train\.discount"):
        RunConfig("vdn", "coverage", algorithm_options={"discount": 0.9})
    with pytest.raises(ConfigError, match=r"set train\.num_envs"):
        RunConfig("vdn", "coverage", env_options={"num_envs": 3})
    for bad in ({"steps": 0}, {"discount": 1.1}, {"seed": -1}, {"replay_capacity": 8, "num_envs": 9}):
        with pytest.raises(ConfigError, match=f"{next(iter(bad))} is"):
            TrainConfig(**bad)
