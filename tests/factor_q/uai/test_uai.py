"""UAI models: what is read, what is written, what comes back, and what is refused where it stands."""

import itertools
import math
import random
import re
import tracemalloc
from decimal import Context, Decimal
from pathlib import Path

import pytest
import torch

from circuits import FormatError
from factor_q import FactorGraph, Factors, StructureError
from factor_q.uai.models import parse_uai, read_uai, uai_text, write_uai
from factor_q.uai.numbers import is_writable, logs_of, word_of
from tests.factor_q import factor_oracle
from tests.factor_q import solve_with_toulbar2 as by_hand
from tests.factor_q.uai import fuzz

MODELS = sorted([*by_hand.MODELS.glob("*.uai"), *by_hand.MODELS.glob("own/*.uai")])
PLAIN = "MARKOV\n3\n2 3 2\n3\n1 0\n3 2 0 1\n0\n\n2\n0.25 0\n\n12\n1 2 3 4 5 6 7 8 9 10 11 12\n\n1\n2.5\n"


def same(left: Factors, right: Factors) -> bool:
    return left.graph == right.graph and left.dtype == right.dtype and torch.equal(left.flat, right.flat)


def test_tables_are_natural_logs_and_the_last_variable_changes_fastest() -> None:
    f = parse_uai(PLAIN)
    assert f.graph == FactorGraph([2, 3, 2], [(0,), (2, 0, 1), ()])
    assert f.dtype == torch.float64
    assert f.batch_shape == ()
    assert f.tables[0].tolist() == [math.log(0.25), -math.inf]
    assert f.tables[2].item() == math.log(2.5)
    for number, (c, a, b) in enumerate(itertools.product(range(2), range(2), range(3)), 1):
        assert f.tables[1][c, a, b].item() == math.log(number)


def test_there_are_59_models() -> None:
    assert len(MODELS) == 59


@pytest.mark.one_in(6)
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_model_reads_as_an_independent_reader_reads_it_and_comes_back_bit_by_bit(path: Path) -> None:
    f = read_uai(path)
    cards, factors = by_hand.read_model(path)
    assert f.cardinalities == tuple(cards)
    assert {frozenset(scope) for scope in f.scopes} == {frozenset(scope) for scope, _ in factors}
    rng = random.Random(path.stem)
    for _ in range(20):
        values = [rng.randrange(k) for k in cards]
        expected = by_hand.value_of(cards, factors, values)
        assert f(torch.tensor(values)).item() == pytest.approx(expected, rel=1e-12, abs=1e-10)
    assert same(parse_uai(uai_text(f)), f)


@pytest.mark.parametrize("seed", range(40))
def test_random_models_come_back_bit_by_bit(seed: int, tmp_path: Path) -> None:
    instance = factor_oracle.random_instance(seed)
    graph = FactorGraph(instance.cardinalities, instance.scopes)
    rng = random.Random(seed)
    logs = [
        rng.choice([-math.inf, rng.uniform(-700, 700), rng.gauss(0, 1), rng.gauss(0, 1) * 10 ** rng.uniform(-320, 0)])
        for _ in range(graph.num_entries)
    ]
    f = Factors.from_flat(graph, torch.tensor(logs, dtype=torch.float64))
    path = tmp_path / "x.uai"
    write_uai(path, f)
    assert same(read_uai(path), f)
    # Whoever reads plain float64 numbers gets the exponentials.
    _, factors = by_hand.read_model(path)
    numbers = torch.tensor([entry for _, table in factors for entry in table], dtype=torch.float64)
    torch.testing.assert_close(numbers, f.flat.exp(), rtol=2e-13, atol=0)
    write_uai(path, f.to(dtype=torch.float32) if torch.isfinite(f.flat.float()).all() else f)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.uai"]


def test_float32_is_written_without_loss() -> None:
    f = Factors(FactorGraph([3], [(0,)]), [torch.tensor([0.1, -2.0, 3.3])])
    assert torch.equal(parse_uai(uai_text(f)).flat, f.flat.double())


@pytest.mark.parametrize(
    "log",
    [0.0, 5e-324, -5e-324, 1e-300, -1e-16, 2.0**-53, -(2.0**-54), 1e-8, 0.5, -0.75, 1.0, 1.3, 2.7, 2.8, -708.3, 709.7]
    + [math.log(2.2250738585072014e-308), math.log(1.7976931348623157e308)],
)
def test_every_log_has_a_text(log: float) -> None:
    assert is_writable(log)
    word = word_of(log)
    assert logs_of([word]) == [log]
    assert abs(Context(prec=400).exp(Decimal(log)) / Decimal(word) - 1) < Decimal(2) ** -43 * max(1, int(abs(log)))


@pytest.mark.parametrize(
    ("word", "log"),
    [
        ("0", -math.inf),
        ("-0.0", -math.inf),
        ("0e5", -math.inf),
        ("1e-400", -400 * math.log(10)),
        ("3e400", math.log(3) + 400 * math.log(10)),
        ("4.9e-324", math.log(4.9) - 324 * math.log(10)),
        ("1.00000000000000000001", 1e-20),
        ("0.99999999999999999999", -1e-20),
        ("+.5e-3", math.log(0.0005)),
        ("007", math.log(7)),
        ("2.", math.log(2)),
        ("3E+1", math.log(30)),
    ],
)
def test_numbers_lose_nothing(word: str, log: float) -> None:
    assert logs_of([word])[0] == pytest.approx(log, rel=1e-15)


def test_tables_over_the_same_variables_are_added_in_any_order() -> None:
    scopes, tables = "4  2 0 1  1 1  2 1 0  3 2 1 0", "6 1 2 3 4 5 6  3 1 1 0  6 10 20 30 40 50 60  6 1 1 1 1 1 7"
    f = parse_uai(f"BAYES 3  2 3 1   {scopes}   {tables}")
    assert f.scopes == ((0, 1), (1,), (2, 1, 0))
    expected = torch.tensor([[1 * 10, 2 * 30, 3 * 50], [4 * 20, 5 * 40, 6 * 60.0]], dtype=torch.float64).log()
    torch.testing.assert_close(f.tables[0], expected)
    assert f(torch.tensor([1, 2, 0])).item() == -math.inf


def test_axes_of_one_value_are_not_limited_in_number() -> None:
    scope = " ".join(map(str, range(100)))
    back = " ".join(map(str, reversed(range(100))))
    text = f"MARKOV 100 {'1 ' * 98} 2 3  2  100 {scope}  100 {back}  6 1 2 3 4 5 6  6 1 2 3 4 5 6"
    f = parse_uai(text)
    assert f.graph.num_factors == 1
    expected = torch.tensor([1 * 1, 2 * 3, 3 * 5, 4 * 2, 5 * 4, 6 * 6], dtype=torch.float64)
    torch.testing.assert_close(f.flat.exp(), expected)
    assert same(parse_uai(uai_text(f)), f)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("\n", " "),
        PLAIN.replace(" ", "\n\t "),
        PLAIN.rstrip(),
        "\ufeff" + PLAIN,
        "\n\n  " + PLAIN + "\n \t\n",
        PLAIN.replace("MARKOV", "BAYES"),
        PLAIN.replace("MARKOV", "Markov"),
        "c made by hand\n  c 1 2 3\nc\n" + PLAIN + "c end",
        "# caf\u00e9 1 2\n" + PLAIN.replace("1 0\n", "1 0 # first\n").replace("2.5", "2.5# last"),
        ("c a\n" + PLAIN.replace("2.5", "#\n2.5")).replace("\n", "\r"),
        PLAIN.replace("0.25", "25e-2").replace("2.5", "+.25E+1").replace(" 10 ", " 0010.000 "),
    ],
)
def test_layout_and_comments_do_not_matter(text: str, tmp_path: Path) -> None:
    assert same(parse_uai(text), parse_uai(PLAIN))
    path = tmp_path / "x.uai"
    path.write_bytes(text.encode())
    assert same(read_uai(path), parse_uai(PLAIN))


@pytest.mark.parametrize("text", ["MARKOV 0 0", "MARKOV 0\n\n1\n0\n1 3", "MARKOV 2 1 5 0", "MARKOV 1 1 1 1 0 1 0"])
def test_small_models(text: str) -> None:
    f = parse_uai(text)
    assert f.dtype == torch.float64
    assert same(parse_uai(uai_text(f)), f)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "1:1", "begin with MARKOV or BAYES"),
        ("LOGMARKOV 0 0", "1:1", "'LOGMARKOV'"),
        ("bayeſ 0 0", "1:1", "begin with MARKOV"),
        ("\x00MARKOV 0 0", "1:1", "begin with MARKOV"),
        ("MARKOV", "1:7", "ends before the number of variables"),
        ("MARKOV\n1000000000", "2:11", "1,000,000,000 numbers must follow, but there are 0"),
        ("MARKOV\n1\n100000000000000000\n0", "3:1", "has 100,000,000,000,000,000 values"),
        ("MARKOV\n1\n0\n0", "3:1", "has 0 values"),
        ("MARKOV\n1\n-2\n0", "3:1", "whole number"),
        ("MARKOV\n1\n2.0\n0", "3:1", "whole number"),
        ("MARKOV\n1\n99999999999999999999\n0", "3:1", "at most 18 digits"),
        ("MARKOV\n1\n2\n999999999\n1 0", "4:1", "999,999,999 factors"),
        ("MARKOV\n2\n2 2\n1\n2 0 0\n4 1 1 1 1", "5:5", "variable 0 twice"),
        ("MARKOV\n2\n2 2\n1\n2 0 2\n4 1 1 1 1", "5:5", "variables are 0 to 1"),
        ("MARKOV\n2\n2 2\n1\n3 0 1 0\n4 1 1 1 1", "5:1", "has 3 variables, but the model has 2"),
        ("MARKOV\n2\n2 2\n1\n2 0 1\n5 1 1 1 1 1", "6:1", r"lists 5 entries, but its scope \(variables 0, 1\) needs 4"),
        ("MARKOV\n2\n2 2\n1\n2 0 1\n4 1 1 1", "6:3", "4 numbers must follow, but there are 3"),
        ("MARKOV\n2\n2 2\n1\n2 0 1\n4 1 1 1 1\n\n1", "8:1", "1 more words"),
        ("MARKOV\n1\n2\n1\n0\n2 1 1", "6:1", r"lists 2 entries, but its scope \(variables none\) needs 1"),
        ("MARKOV\n1\n2\n1\n1 0\n2 0.5 -0.5", "6:7", "entry -0.5 is negative"),
        ("MARKOV\n1\n2\n1\n1 0\n2 0.5 -1e-999", "6:7", "negative"),
        ("MARKOV\n1\n2\n1\n1 0\n2 0.5\n  nan", "7:3", "'nan' is not a number"),
        ("MARKOV\n1\n2\n1\n1 0\n2 inf 1", "6:3", "'inf' is not a number"),
        ("MARKOV\n1\n2\n1\n1 0\n2 1 1_0", "6:5", "'1_0' is not a number"),
        ("MARKOV\n1\n2\n1\n1 0\n2 1 1e", "6:5", "'1e' is not a number"),
        ("MARKOV\n1\n2\n1\n1 0\n2 1 0x1", "6:5", "'0x1' is not a number"),
        ("MARKOV\n1\n2\n1\n1 0\n2 1 \u0661", "6:5", "is not a number"),
        ("MARKOV\n1\n2\n1\n1 0\n2 1\u00a01", "6:3", "is not a number"),
        ("MARKOV\n1\n2\n1\n1 0\n2 1 1\x00", "6:5", "is not a number"),
        ("MARKOV\n1\n2\n1\n1 0\n2 1 1e9999999999999999999", "6:5", "exponent"),
        ("MARKOV\n1\n2\n1\n1 0\n2 1 " + "1" * 1001, "6:5", "1,001 characters"),
        ("MARKOV 3 16777216 16777216 16777216 1 3 0 1 2 9 1", "1:47", "needs at least 2,147,483,648"),
        ("# x\r\nc y\r\nMARKOV\r\n1\r\n0", "5:1", "has 0 values"),
    ],
)
def test_faults_are_refused_where_they_stand(text: str, place: str, says: str) -> None:
    with pytest.raises(FormatError, match=f"^m.uai:{place}: .*{says}"):
        parse_uai(text, "m.uai")


@pytest.mark.parametrize("gap", [" ", "\n"])
def test_long_files_are_read_in_pieces(gap: str) -> None:
    numbers = [repr(0.1 + i / 7) for i in range(2**15)]
    words = ["MARKOV", "15", *["2"] * 15, "1", "15", *map(str, range(15)), str(2**15), *numbers]
    f = parse_uai(gap.join(words))
    assert f.flat.tolist() == [math.log(float(number)) for number in numbers]
    words[-2] = "-" + words[-2]
    column = len(gap.join(words[:-2])) + 2
    with pytest.raises(
        FormatError, match=f"^<text>:{f'1:{column}' if gap == ' ' else f'{len(words) - 1}:1'}: .*negative"
    ):
        parse_uai(gap.join(words))


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.uai"
    path.write_bytes(b"MARKOV\n1\n2\n0 \xff")
    with pytest.raises(FormatError, match=re.escape(f"{path}:4:3: this is not a text file")):
        read_uai(path)
    path.write_bytes(b"\xef\xbb\xbfMARKOV \xff")
    with pytest.raises(FormatError, match=":1:"):
        read_uai(path)
    path.write_bytes("MARKOV 0 0".encode("utf-16"))
    with pytest.raises(FormatError, match="not a text file"):
        read_uai(path)
    with pytest.raises(FileNotFoundError):
        read_uai(tmp_path / "missing.uai")


@pytest.mark.parametrize(
    "text",
    [
        "MARKOV 1000000000",
        "MARKOV 999999999999999999 2",
        "MARKOV 1 999999999999999999 1 1 0 999999999999999999 1",
        "MARKOV 4 16777216 16777216 16777216 16777216 1 4 0 1 2 3 79228162514264337 1",
        "MARKOV 1 16777216 1 1 0 16777216 1",
        "MARKOV 1 2 999999999999999999 1 0 2 1 1",
        "MARKOV 1 2 1 999999999999999999 0",
    ],
)
def test_promises_cost_no_memory(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            parse_uai(text)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_comment_is_written_and_skipped() -> None:
    f = parse_uai(PLAIN)
    text = uai_text(f, comment="made by hand\n1 2 3")
    assert text.startswith("c made by hand\nc 1 2 3\nMARKOV\n")
    assert same(parse_uai(text), f)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (torch.zeros(5, 2), r"batch shape \(5,\).*from_flat"),
        (torch.tensor([0.0, torch.nan]), r"entry 1 of factor 0 over variables \(1,\) is nan"),
        (torch.tensor([0.0, torch.inf]), "is inf, but entries must be finite"),
        (torch.tensor([0.0, 710.0]), "is 710.0, whose exponential is beyond"),
        (torch.tensor([-709.0, 0.0]), "entry 0 .*is -709.0, whose exponential is beyond.*Subtract"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_and_the_old_file_stays(
    table: torch.Tensor, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.uai"
    path.write_text("old")
    with pytest.raises(StructureError, match=says):
        write_uai(path, Factors(FactorGraph([3, 2], [(1,)]), [table]))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.uai"]


def test_factors_that_need_gradients_are_written() -> None:
    f = Factors(FactorGraph([2], [(0,)]), [torch.zeros(2, requires_grad=True)])
    assert parse_uai(uai_text(f)).flat.tolist() == [0.0, 0.0]


@pytest.mark.full
def test_500_texts_of_the_fuzzer() -> None:
    tally = fuzz.fuzz(500, seed=1)
    assert min(tally["valid"], tally["refused"]) > 50


@pytest.mark.parametrize(
    "broken",
    [lambda text, name="": parse_uai(text, name) * 1.0000001, lambda text, name="": parse_uai(text.split("#")[0], "")],
)
def test_the_fuzzer_finds_a_broken_reader(broken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "parse_uai", broken)
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        fuzz.fuzz(500, seed=1)
    assert isinstance(caught.value.fuzz_text, str)
