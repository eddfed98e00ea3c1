"""Feed the reader of UAI models with random, nearly valid and damaged text: it refuses, or what it read round-trips.

    python -m tests.factor_q.uai.fuzz --count 100000 --seed 0

Anything but a FormatError on the way in, anything but a StructureError for a number beyond float64 on the way out, and
any difference after writing and reading again ends the program with exit code 1; the text is saved.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from circuits.errors import FormatError, StructureError
from factor_q.uai.evidence import parse_uai_evidence
from factor_q.uai.models import parse_uai, uai_text

ALPHABET = "0123456789 \n\t\r.eE+-#cMARKOVBYS_xnaif\x00\u0661\ufeff\u00a0\x1c"
SPACES = ["", " ", "\n", "  ", "\t", "\r\n", "\r", " # 1 2\n", "\nc 1 2\n", "\f"]
ODD_WORDS = [
    *[
        "nan",
        "inf",
        "-1",
        "-0",
        "1e400",
        "1e-400",
        "1e99999999999999999999",
        "0x1",
        "1_0",
        "1e",
        ".",
        "+",
        "-",
        "+.5e-3",
    ],
    *["99999999999999999999", "1000000000", "16777216", "16777217", "1" * 30, "0" * 30, "1" * 1001, "MARKOV", "c", "#"],
    *["1.0000000000000000000000001", "0.99999999999999999999", "2.2250738585072014e-308", "1.7976931348623157e308"],
]
ENTRIES = st.one_of(
    st.sampled_from(["0", "1", "0.5", "1e-3", "2.", ".25", "3E+1", "0.0", "-0.0", "007"]),
    st.floats(0, 1e308, allow_nan=False).map(repr),
    st.floats(0.5, 2).map(lambda x: f"{x:.25f}"),
    st.decimals(0, 3, places=40).map(str),
)


@st.composite
def valid_words(draw: st.DrawFn) -> list[str]:
    """The words of a model that breaks no rule; scopes may repeat in any order."""
    cards = draw(st.lists(st.integers(1, 4), max_size=5))
    places = st.lists(st.sampled_from(range(len(cards))), unique=True, max_size=3) if cards else st.just([])
    scopes = draw(st.lists(places, max_size=5))
    words = [draw(st.sampled_from(["MARKOV", "BAYES", "markov", "Bayes"])), str(len(cards)), *map(str, cards)]
    words.append(str(len(scopes)))
    for scope in scopes:
        words += [str(len(scope)), *map(str, scope)]
    for scope in scopes:
        size = math.prod(cards[v] for v in scope)
        words += [str(size), *draw(st.lists(ENTRIES, min_size=size, max_size=size))]
    return words


@st.composite
def joined(draw: st.DrawFn, words: list[str]) -> str:
    """Words with white space and comments between them."""
    if draw(st.booleans()):
        return " ".join(words) + draw(st.sampled_from(SPACES))
    gaps = draw(st.lists(st.sampled_from(SPACES[1:]), min_size=len(words), max_size=len(words)))
    return draw(st.sampled_from([*SPACES, "\ufeff"])) + "".join(map("".join, zip(words, gaps, strict=True)))


@st.composite
def nearly_valid(draw: st.DrawFn) -> str:
    """A valid model with a few words replaced, dropped, doubled or added."""
    words = draw(valid_words())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(words) - 1)) if words else 0
        word = draw(
            st.sampled_from(ODD_WORDS) | st.integers(-1, 9).map(str) | st.text(ALPHABET, min_size=1, max_size=5)
        )
        words[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from([[word], [], [word, word]]))
    return draw(joined(words))


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A valid text with a few characters replaced, dropped or added, or cut short."""
    text = draw(valid_words().flatmap(joined))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(ALPHABET, max_size=2)) + text[at + draw(st.integers(0, 2)) :]
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


TEXTS = st.one_of(
    valid_words().flatmap(joined),
    nearly_valid(),
    damaged(),
    st.text(ALPHABET, max_size=60),
    st.text(max_size=60).map(lambda text: "MARKOV " + text),
)


def check(text: str) -> str:
    """Read, write and read again; returns what happened, raises when something else did."""
    check_evidence(text)
    try:
        factors = parse_uai(text, "fuzz")
    except FormatError as error:
        name, line, column, _ = str(error).split(":", 3)
        assert name == "fuzz"
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert 1 <= int(line) <= len(lines), f"line {line} of {len(lines)}"
        assert 1 <= int(column) <= len(lines[int(line) - 1]) + 1, f"column {column} of line {line}"
        return "refused"
    assert factors.dtype == torch.float64
    assert not factors.batch_shape
    assert not factors.flat.isnan().any()
    assert not (factors.flat == math.inf).any()
    try:
        written = uai_text(factors)
    except StructureError:
        finite = factors.flat[factors.flat.isfinite()]
        assert (finite.abs() > 708).any(), "refused to write an ordinary model"
        return "beyond float64"
    again = parse_uai(written)
    assert again.graph == factors.graph
    assert torch.equal(again.flat, factors.flat)
    assert uai_text(again) == written
    return "valid"


def check_evidence(text: str) -> None:
    """The reader of evidence answers with whole numbers or refuses, for the same text and for its numbers alone."""
    for piece in (text, text.removeprefix("\ufeff")[7:]):
        try:
            evidence = parse_uai_evidence(piece, [2, 3, 4, 5])
        except FormatError:
            continue
        assert all(0 <= value < variable + 2 for variable, value in evidence.items())


def fuzz(count: int, seed: int, *, report: int = 0) -> dict[str, int]:
    """Check many texts; a failing one is shrunk and stands in the notes of the exception."""
    tally: dict[str, int] = {}
    start = time.perf_counter()
    last = [""]

    @hypothesis_seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(TEXTS)
    def run(text: str) -> None:
        last[0] = text
        outcome = check(text)
        tally[outcome] = tally.get(outcome, 0) + 1
        done = sum(tally.values())
        if report and done % report == 0:
            print(f"{done:>9,} texts, {time.perf_counter() - start:6.0f} s: {tally}", flush=True)

    try:
        run()
    except BaseException as error:
        error.fuzz_text = last[0]  # hypothesis replays the smallest failing text last
        raise
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, default=Path("fuzz_uai_failure.txt"), help="where a failing text goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        tally = fuzz(options.count, options.seed, report=max(1, options.count // 20))
    except Exception as error:
        text = getattr(error, "fuzz_text", "")
        options.save.write_bytes(text.encode("utf-8", "surrogatepass"))
        print(f"FAILED: {type(error).__name__}: {error}\ntext {text[:2000]!r}, saved as {options.save}")
        sys.exit(1)
    print(f"{sum(tally.values()):,} texts in {time.perf_counter() - start:.0f} s, seed {options.seed}: {tally}")


if __name__ == "__main__":
    main()
