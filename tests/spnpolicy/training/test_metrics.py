import math

import numpy as np
import pytest

from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.training.metrics import read_metrics, record_line


def test_round_trip_keeps_numbers_that_are_not_finite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = {"kind": "train", "step": 3, "loss": 0.1, "flag": True, "none": None, "up": math.inf, "bad": math.nan}
    path.write_text(record_line(record) + record_line({"loss": np.float32(0.5), "down": -np.inf, "count": np.int64(4)}))
    first, second = read_metrics(path).records
    assert math.isnan(first.pop("bad"))
    assert first == {key: value for key, value in record.items() if key != "bad"}
    assert second == {"loss": 0.5, "down": -math.inf, "count": 4}


def test_a_torn_last_line_is_dropped_and_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = "".join(record_line({"step": step}) for step in range(3)).encode()
    for cut in range(1, len(b'{"step": 2}\n')):
        path.write_bytes(whole[:-cut])
        metrics = read_metrics(path)
        assert [record["step"] for record in metrics.records] == [0, 1]
        assert metrics.torn_lines == 1


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"\xff", b""])
def test_damage_in_the_middle_names_file_and_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(SpnPolicyError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)
