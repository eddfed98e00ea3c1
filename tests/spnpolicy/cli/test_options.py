import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnpolicy.cli.options import Parser, UsageError, parse_value, read_command_line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("-3", -3), ("200_000", 200_000), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("False", False),
        ("none", None), ("latch", "latch"), ("64,64", [64, 64]), ("64,", [64]), ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ('{"rate": 0.1}', {"rate": 0.1}), ("", ""), ("inf", math.inf), ("-inf", -math.inf), ('"3"', "3"),
    ],
)  # fmt: skip
def test_values(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(st.integers(), min_size=1))
def test_numbers_and_lists_survive(value):
    text = ",".join(map(str, value)) + "," if isinstance(value, list) else str(value)
    assert parse_value(text) == value


def test_dotted_flags_anywhere_do_not_shift_other_words():
    parser = Parser(prog="test")
    parser.add_argument("first")
    parser.add_argument("--num-envs")
    words = ["--env.size", "8", "word", "--num_envs=3", "--algorithm.target.rate=0.5", "--algorithm.double-q", "false"]
    line = read_command_line(parser, words, takes_settings=True)
    assert (line.options.first, line.options.num_envs) == ("word", "3")
    assert line.settings == {"env": {"size": 8}, "algorithm": {"target": {"rate": 0.5}, "double_q": False}}


@given(st.lists(st.text(max_size=12) | st.sampled_from(["--env.", "--env.a", "--algorithm.b.c", "-h", "--", "="])))
def test_no_words_crash_the_reader(words):
    parser = Parser(prog="test")
    parser.add_argument("name", nargs="?")
    try:
        settings = read_command_line(parser, words, takes_settings=True).settings
    except UsageError:
        return
    assert set(settings) == {"env", "algorithm"}
