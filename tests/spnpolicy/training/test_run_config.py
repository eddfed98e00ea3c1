"""The record of a run: numbers that JSON does not have come back as they were."""

import json
import math

from spnpolicy.base.decoding import decode, encode
from spnpolicy.training.config import RunConfig


def test_nan_and_infinities_come_back_from_json():
    options = {"scale": math.nan, "bounds": [-math.inf, math.inf], "task": {"name": "a", "size": 3}, "word": "nano"}
    config = RunConfig("vdn", "my_package:MyEnv", env_options=options)
    text = json.dumps(encode(config), allow_nan=False)
    again = decode(RunConfig, json.loads(text), path="config.json")
    assert again == config
    assert encode(again) == encode(config)
    assert math.isnan(again.env_options["scale"])
    assert {**again.env_options, "scale": 0} == {**options, "scale": 0}
    # what came another way, such as from the command line, is the same too
    assert RunConfig("vdn", "my_package:MyEnv", env_options={**options, "scale": float("nan")}) == config
