"""Hostile configs: a ConfigError that says where, what is allowed, and which name is nearest; nothing else."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.strict_json import dump_json, parse_json
from spnpolicy.training.config import RunConfig, TrainConfig

VALID = encode(RunConfig("vdn", "coverage", {"network": {"hidden": [32, 32]}}, {"side": 3}))
TRAIN = sorted(VALID["train"])


def read(text):
    return decode(RunConfig, parse_json(text, source="run/config.json", error=ConfigError), path="run/config.json")


def refusal(text):
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith("run/config.json")
    assert len(message) < 600
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"algorithm":"vdn","env":"coverage","trian":{}}', ["unknown setting 'trian'. Did you mean 'train'?"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"sede":1}}', ["config.json.train", "Did you mean 'seed'?"]),
        ('{"algorithm":"vdn","algorithm":"iql","env":"coverage"}', ["key 'algorithm' appears twice"]),
        ('{"algorithm":"vdn","env":"coverage","env_options":{"a":{"b":1,"b":1}}}', ["key 'b' appears twice"]),
        ('{"algorithm":"vdn","env":1}', ["config.json.env is 1, but must be of type str"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"steps":1.5}}', ["train.steps is 1.5", "of type int"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"steps":true}}', ["train.steps is True", "of type int"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"discount":NaN}}', ["NaN is not a number"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"discount":1e999}}', ["1e999 is too large"]),
        ('{"algorithm":"vdn","env":"coverage","env_options":{"x":' + "[" * 100_000, ["nested too deeply"]),
        ('{"algorithm":"vdn","env":"coverage","env_options":{"x":' + "[" * 200 + "]" * 200 + "}}", ["too deeply"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"steps":' + "9" * 10_000 + "}}", ["thousands of digits"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"discount":' + "9" * 400 + "}}", ["not a finite number"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"discount":0.' + "9" * 10_000 + "9e309}}", ["is too large"]),
        ('{"algorithm":"vdn"}', ["setting 'env' is missing"]),
        ("[]", ["must be an object with named fields"]),
        ('{"algorithm":"vdn","env":"' + "x" * 100_000 + '","train":{"' + "y" * 100_000 + '":1}}', ["unknown setting"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"\\u001b[31m\\n":1}}', [r"unknown setting '\x1b[31m\n'"]),
        ('{"algorithm":"vdn","env":"coverage","train":{"\\ud800":1}}', [r"unknown setting '\ud800'"]),
        (b"\xff\xfe{}", ["codec can't decode"]),
        (b"\xef\xbb\xbf{}", ["BOM"]),
        ("", ["run/config.json:1:1: not valid JSON"]),
        ('{"algorithm":"vdn",\n"env":}', ["run/config.json:2:7: not valid JSON"]),
    ],
)
def test_hostile_configs_are_refused_with_place_and_reason(text, words):
    message = refusal(text)
    for word in words:
        assert word in message


def counts(fast, slow):
    return pytest.mark.parametrize("count", [fast, pytest.param(slow, marks=pytest.mark.slow)])


def examples(count):
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


@counts(100, 2000)
def test_a_misspelt_setting_is_refused_and_the_right_one_offered(count):
    @examples(count)
    @given(st.sampled_from(TRAIN), st.data())
    def check(name, data):
        place = data.draw(st.integers(0, len(name) - 2))
        wrong = name[:place] + name[place + 1] + name[place] + name[place + 2 :]
        if wrong in VALID["train"]:
            return
        message = refusal(json.dumps({**VALID, "train": {wrong: VALID["train"][name]}}))
        assert f"run/config.json.train: unknown setting {wrong!r}. Did you mean " in message

    check()


@counts(100, 2000)
def test_a_value_of_another_type_is_refused_by_path(count):
    values = st.one_of(
        st.none(), st.booleans(), st.text(), st.lists(st.integers()), st.dictionaries(st.text(), st.none())
    )

    @examples(count)
    @given(st.sampled_from(TRAIN), values)
    def check(name, value):
        if name == "on_env_fault" and value in ("raise", "drop-episode"):
            return
        if name == "standardise_rewards" and isinstance(value, bool):
            return
        assert f"run/config.json.train.{name}" in refusal(json.dumps({**VALID, "train": {name: value}}))

    check()


@counts(100, 2000)
def test_any_text_gives_a_config_or_a_config_error(count):
    words = st.sampled_from([*'{}[]:,"', *(f'"{name}":' for name in (*VALID, *TRAIN)), "1", "-0.0", "null", "1e400"])

    @examples(count)
    @given(st.lists(words | st.text(max_size=3), max_size=20).map("".join) | st.text() | st.binary())
    def check(text):
        try:
            config = read(text)
        except ConfigError:
            return
        assert read(dump_json(encode(config))) == config

    check()


def test_the_valid_config_is_valid():
    assert read(dump_json(VALID)) == RunConfig(
        "vdn", "coverage", {"network": {"hidden": [32, 32]}}, {"side": 3}, TrainConfig()
    )
