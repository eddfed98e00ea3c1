"""PSDD files: what is written comes back on every joint value, and what is malformed is refused where it stands."""

from itertools import product
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import circuits
from circuits import CircuitBuilder, CircuitDistribution, FormatError, NotTractableError, StructureError, structures
from circuits.formats import psdd_text
from tests import strategies

VTREE = "vtree 3\nL 0 1\nL 2 2\nI 1 0 2\n"
PSDD = """\
psdd 5
L 0 0 1
L 1 0 -1
T 2 2 2 -1.6094379124341003 -0.2231435513142097
L 3 2 -2
D 4 1 2 0 2 -0.35667494393873245 1 3 -1.2039728043259361
"""


def binary(rng: Random) -> circuits.Circuit:
    count = rng.randint(1, 8)
    family = rng.choice(["mean_field", "markov_chain", "tree", "keep_set"])
    cards = [2] * count
    if family == "markov_chain":
        return structures.markov_chain(cards, order=rng.randint(0, 3))
    if family == "tree":
        return structures.tree(cards, strategies.random_parents(rng, count))
    if family == "keep_set":
        return structures.keep_set(cards, strategies.random_scopes(rng, count), labels=2 ** rng.randint(0, 3))
    return structures.mean_field(cards)


def round_trip(folder: Path, pi: CircuitDistribution) -> CircuitDistribution:
    circuits.save_psdd(folder / "x.psdd", pi)
    return CircuitDistribution(*circuits.load_psdd(folder / "x.psdd"))


def written(folder: Path, vtree: str = VTREE, psdd: str = PSDD) -> Path:
    (folder / "x.vtree").write_bytes(vtree.encode())
    (folder / "x.psdd").write_bytes(psdd.encode())
    return folder / "x.psdd"


@given(st.integers(0, 1 << 30))
@settings(max_examples=60)
def test_round_trip_keeps_every_probability(tmp_path_factory: pytest.TempPathFactory, number: int) -> None:
    rng = Random(number)
    circuit = binary(rng)
    pi = CircuitDistribution(circuit, strategies.random_logits(rng, circuit, ()))
    back = round_trip(tmp_path_factory.mktemp("psdd"), pi)
    values = pi.enumerate_support()
    torch.testing.assert_close(back.log_prob(values), pi.log_prob(values), atol=1e-10, rtol=0)
    assert back.circuit.is_deterministic
    assert back.circuit.is_structured


def test_conditionals_round_trip(tmp_path: Path, seed: int) -> None:
    circuit = structures.keep_set([2] * 5, labels=4)
    pi = CircuitDistribution(circuit, strategies.random_logits(Random(seed), circuit, ())).condition({2: 1, 4: 0})
    values = pi.enumerate_support()
    torch.testing.assert_close(round_trip(tmp_path, pi).log_prob(values), pi.log_prob(values), atol=1e-10, rtol=0)


@pytest.mark.full
def test_long_chains_stay_small(tmp_path: Path, generator: torch.Generator) -> None:
    circuit = structures.markov_chain([2] * 1200)
    pi = CircuitDistribution(circuit, torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64))
    back = round_trip(tmp_path, pi)
    assert back.circuit.num_nodes < 2 * circuit.num_nodes
    values = pi.sample((4,), generator=generator)
    torch.testing.assert_close(back.log_prob(values), pi.log_prob(values), atol=1e-8, rtol=0)


def test_tiny_probabilities_survive(tmp_path: Path) -> None:
    circuit = structures.markov_chain([2, 2])
    logits = torch.zeros(circuit.num_parameters, dtype=torch.float64)
    logits[0] = -2000.0
    pi = CircuitDistribution(circuit, logits)
    values = pi.enumerate_support()
    torch.testing.assert_close(round_trip(tmp_path, pi).log_prob(values), pi.log_prob(values))


def test_the_text_is_the_published_format() -> None:
    b = CircuitBuilder([2, 2])
    same = [b.product(b.input(0, [v]), b.input(1, [v])) for v in (0, 1)]
    circuit = b.build(b.sum(*same))
    vtree, psdd = psdd_text(CircuitDistribution(circuit, torch.tensor([0.25, 0.75], dtype=torch.float64).log()))
    assert [line for line in vtree.splitlines() if line[0] != "c"] == ["vtree 3", "L 0 1", "L 2 2", "I 1 0 2"]
    lines = [line for line in psdd.splitlines() if line[0] != "c"]
    assert lines[0] == "psdd 5"
    assert sorted(line.split(maxsplit=2)[2] for line in lines[1:5]) == ["0 -1", "0 1", "2 -2", "2 2"]
    kind, _, place, count, *elements = lines[5].split()
    assert (kind, place, count) == ("D", "1", "2")
    assert sorted(map(float, elements[2::3])) == pytest.approx([-1.3862943611198906, -0.2876820724517809])


def test_a_file_of_another_program_is_read(tmp_path: Path) -> None:
    circuit, logits = circuits.load_psdd(written(tmp_path))
    pi = CircuitDistribution(circuit, logits)
    expected = {(1, 0): 0.7 * 0.2, (1, 1): 0.7 * 0.8, (0, 0): 0.3, (0, 1): 0.0}
    for values in product((0, 1), repeat=2):
        assert pi.log_prob(torch.tensor(values)).exp().item() == pytest.approx(expected[values])


def test_one_log_probability_false_nodes_comments_and_odd_whitespace(tmp_path: Path) -> None:
    psdd = "c by hand\r\n\n  psdd\t6\r\n" + PSDD.split("\n", 1)[1].replace("T 2 2 2 -1.6094379124341003 ", "T 2 2 2 ")
    psdd = psdd.replace("D 4 1 2", "c more\n\n F 9 \nD  4 1 3").replace("\nD  4 1 3", "\n D\t4 1 3 2 9 -inf")
    psdd = psdd.replace("2 9 -inf", "1 9 -inf")
    path = written(tmp_path, VTREE.replace("\n", " \r\n"), psdd)
    (tmp_path / "x.vtree").rename(tmp_path / "other")
    circuit, logits = circuits.load_psdd(path, vtree=tmp_path / "other")
    pi = CircuitDistribution(circuit, logits)
    assert pi.log_prob(torch.tensor([1, 1])).exp().item() == pytest.approx(0.56)


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("psdd 5", "psdd 4", "1:6", "promises 4 nodes and has 5"),
        ("psdd 5", "psdd 999999999999", "1:6", "more than 4,194,304"),
        ("psdd 5", "sdd 5", "1:1", "must be 'psdd <number of nodes>'"),
        ("psdd 5", "psdd -5", "1:6", "at least 1"),
        ("L 0 0 1", "L 0 0", "2:1", "a literal must be"),
        ("L 0 0 1", "X 0 0 1", "2:1", "must be a node"),
        ("L 0 0 1", "L 0 7 1", "2:5", "vtree node 7 does not exist"),
        ("L 0 0 1", "L 0 0 2", "2:7", "holds variable 1"),
        ("L 0 0 1", "L 0 1 1", "2:7", "is not a leaf"),
        ("L 0 0 1", "L 0 0 0", "2:7", "variable 0"),
        ("L 0 0 1", "L 0 0 1.0", "2:7", "must be an integer"),
        ("L 1 0 -1", "L 0 0 -1", "3:3", "node 0 appears twice"),
        ("T 2 2 2", "T 2 2 2 0 0", "4:1", "a true node must be"),
        ("-0.2231435513142097", "-0.5", "4:9", "sum to 0.806531"),
        ("-0.2231435513142097", "nan", "4:29", "not a log probability"),
        ("-0.2231435513142097", "1_0", "4:29", "not a log probability"),
        ("-0.2231435513142097", "2.5", "4:29", "not a log probability"),
        ("D 4 1 2", "D 4 0 2", "6:5", "is a leaf"),
        ("D 4 1 2", "D 4 1 3", "6:7", "3 elements need 9 words, but 6 follow"),
        ("D 4 1 2", "D 4 1 99999999999", "6:7", "elements need"),
        ("D 4 1 2 0 2", "D 4 1 2 0 8", "6:11", "sub 8 does not stand above"),
        ("D 4 1 2 0 2", "D 4 1 2 2 2", "6:9", "prime 2 belongs to vtree node 2"),
        ("-1.2039728043259361", "-0.3", "6:7", "sum to"),
        ("L 3 2 -2", "F 3", "6:38", "above zero"),
    ],
)
def test_malformed_files_are_refused_where_they_are_wrong(
    tmp_path: Path, old: str, new: str, where: str, message: str
) -> None:
    assert old in PSDD
    path = written(tmp_path, psdd=PSDD.replace(old, new, 1))
    with pytest.raises(FormatError, match=message) as error:
        circuits.load_psdd(path)
    assert str(error.value).startswith(f"{path}:{where}: ")


@pytest.mark.parametrize(
    ("vtree", "where", "message"),
    [
        ("", "1:1", "empty"),
        ("vtree 3\nL 0 1\nL 0 2\nI 1 0 2\n", "3:3", "appears twice"),
        ("vtree 3\nL 0 1\nL 2 1\nI 1 0 2\n", "3:5", "two leaves"),
        ("vtree 3\nL 0 1\nL 2 3\nI 1 0 2\n", "4:3", "variable 2 has no leaf"),
        ("vtree 3\nL 0 1\nL 2 99999999\nI 1 0 2\n", "3:5", "out of range"),
        ("vtree 3\nL 0 1\nL 2 2\nI 1 0 0\n", "4:7", "must stand above and have no other parent"),
        ("vtree 2\nL 0 1\nL 2 2\n", "3:3", "2 roots"),
        ("vtree 1\nI 1 0 2\n", "2:5", "must stand above"),
        ("vtree 1\nQ 1 0 2\n", "2:1", "'L id variable'"),
    ],
)
def test_malformed_vtrees_are_refused(tmp_path: Path, vtree: str, where: str, message: str) -> None:
    path = written(tmp_path, vtree)
    with pytest.raises(FormatError, match=message) as error:
        circuits.load_psdd(path)
    assert str(error.value).startswith(f"{tmp_path / 'x.vtree'}:{where}: ")


def test_every_cut_is_refused_or_missing(tmp_path: Path) -> None:
    for length in range(0, len(PSDD) - 20):
        with pytest.raises(FormatError):
            circuits.load_psdd(written(tmp_path, psdd=PSDD[:length]))
    path = written(tmp_path)
    path.write_bytes(b"psdd 1\nL \xff 0 1\n")
    with pytest.raises(FormatError, match=r"x\.psdd:2:3: .*not a text file"):
        circuits.load_psdd(path)
    with pytest.raises(FileNotFoundError):
        circuits.load_psdd(tmp_path / "missing.psdd")


def test_the_root_must_cover_all_variables(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"x\.psdd:2:1: the last node is the root.*vtree node 1"):
        circuits.load_psdd(written(tmp_path, psdd="psdd 1\nL 0 0 1\n"))


def distribution(circuit: circuits.Circuit, *batch: int) -> CircuitDistribution:
    return CircuitDistribution(circuit, torch.zeros(*batch, circuit.num_parameters))


def unstructured() -> circuits.Circuit:
    b = CircuitBuilder([2, 2, 2])
    x = [b.input(i) for i in range(3)]
    first = b.product(b.input(0, [0]), b.product(x[1], x[2]))
    return b.build(b.sum(first, b.product(b.product(b.input(0, [1]), x[1]), x[2])))


def sums_that_decide_on_different_parts() -> circuits.Circuit:
    b = CircuitBuilder([2, 2, 2])
    by_first = b.sum(*(b.product(b.input(0, [v]), b.input(1)) for v in (0, 1)))
    by_second = b.sum(*(b.product(b.input(0), b.input(1, [v])) for v in (0, 1)))
    return b.build(b.sum(b.product(by_first, b.input(2, [0])), b.product(by_second, b.input(2, [1]))))


def test_what_has_no_exact_form_is_refused_with_the_node(tmp_path: Path) -> None:
    b = CircuitBuilder([2])
    mixture = b.build(b.sum(b.input(0), b.input(0)))
    for circuit, kind, message in [
        (structures.mean_field([2, 3]), StructureError, "variable 1 has 3 values"),
        (unstructured(), StructureError, "split variables {0, 1, 2} in different ways"),
        (mixture, NotTractableError, "sum node 2 .* mixes children 0 and 1"),
        (sums_that_decide_on_different_parts(), NotTractableError, "would be primes of one decision node"),
    ]:
        with pytest.raises(kind, match=message):
            circuits.save_psdd(tmp_path / "x.psdd", distribution(circuit))
    chain = structures.markov_chain([2, 2])
    with pytest.raises(StructureError, match=r"batch shape \(3,\)"):
        circuits.save_psdd(tmp_path / "x.psdd", distribution(chain, 3))
    with pytest.raises(StructureError, match="name of the vtree"):
        circuits.save_psdd(tmp_path / "x.vtree", distribution(chain))
    assert not list(tmp_path.iterdir())


def test_growth_is_bounded(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    from circuits.formats.psdd import write as psdd_write

    monkeypatch.setattr(psdd_write, "_MAX_ELEMENTS", 10)
    circuit = structures.keep_set([2] * 8, labels=8)
    with pytest.raises(NotTractableError, match="more than 10 elements"):
        psdd_text(CircuitDistribution(circuit, strategies.random_logits(Random(seed), circuit, ())))
