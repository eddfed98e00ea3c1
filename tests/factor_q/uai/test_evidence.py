"""Evidence files of UAI models."""

from pathlib import Path

import pytest

from circuits import EvidenceError, FormatError
from factor_q.uai.evidence import parse_uai_evidence, read_uai_evidence, write_uai_evidence
from factor_q.uai.models import read_uai
from tests.factor_q import solve_with_toulbar2 as by_hand

FILES = sorted(by_hand.MODELS.glob("*.evid"))


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("", {}),
        (" \n", {}),
        ("0", {}),
        ("0\n", {}),
        ("1\n0\n", {}),
        ("2 0 1 3 0", {0: 1, 3: 0}),
        ("2\n0 1\n3 0\n", {0: 1, 3: 0}),
        ("1\n2 0 1 3 0\n", {0: 1, 3: 0}),
        ("1 2 0 1 3 0", {0: 1, 3: 0}),
        ("1\r\n1\r\n3 0", {3: 0}),
        ("1 1 2", {1: 2}),
        ("1\n1 1 2", {1: 2}),
        ("\ufeffc seen\n1 # one\n3 0 # off", {3: 0}),
        ("3 9 1 4 2 0 0", {9: 1, 4: 2, 0: 0}),
    ],
)
def test_forms_of_evidence(text: str, evidence: dict[int, int], tmp_path: Path) -> None:
    assert list(parse_uai_evidence(text).items()) == list(evidence.items())
    path = tmp_path / "x.evid"
    path.write_bytes(text.encode())
    assert read_uai_evidence(path, [10] * 10) == evidence
    write_uai_evidence(path, evidence)
    assert read_uai_evidence(path) == evidence
    assert by_hand.read_evidence(path) == evidence
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.evid"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_evidence_file_reads_as_an_independent_reader_reads_it(path: Path) -> None:
    evidence = read_uai_evidence(path, read_uai(path.with_suffix("")).cardinalities)
    assert evidence
    assert evidence == by_hand.read_evidence(path)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("1 0", "1:1", "1 observed variables need 2 words, but 1 follow"),
        ("2\n0 1", "1:1", "need 4 words, but 2 follow"),
        ("1 0 1 3 0", "1:1", "need 2 words, but 4 follow"),
        ("2\n1 0 1\n1 3 1\n 5", "1:1", "promises 2"),
        ("0\n0", "1:1", "promises 0"),
        ("1\n2 0 1", "2:1", "2 observed variables need 4 words, but 2 follow"),
        ("2 0 1\n0 1", "2:1", "variable 0 is observed twice"),
        ("1 0 -1", "1:5", "value of variable 0 is '-1'"),
        ("1 0 1.0", "1:5", "whole number"),
        ("1 x 1", "1:3", "'x' is not a number"),
        ("1\n3 0", "2:1", "variable 3 is observed, but the variables are 0 to 2"),
        ("2 0 1\n1 4", "2:3", "variable 1 is observed as 4, but its values are 0 to 3"),
        ("999999999999999999 0 1", "1:1", "words"),
    ],
)
def test_faults_are_refused_where_they_stand(text: str, place: str, says: str) -> None:
    with pytest.raises(FormatError, match=f"^m.evid:{place}: .*{says}"):
        parse_uai_evidence(text, [2, 4, 2], name="m.evid")


@pytest.mark.parametrize("evidence", [{-1: 0}, {0: -1}, {0: True}, {0: 1.0}, {"0": 1}])
@pytest.mark.usefixtures("without_type_checks")
def test_what_is_not_evidence_is_not_written(evidence: dict, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="whole numbers"):
        write_uai_evidence(tmp_path / "x.evid", evidence)
    assert not list(tmp_path.iterdir())
