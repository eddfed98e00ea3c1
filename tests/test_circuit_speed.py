"""The benchmark of circuits beside other engines: what it builds, checks and writes. No peer is installed here."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import circuits


def load(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.circuit_speed.{name}")


def result(engine: str, milliseconds: float | None, **changes: object):
    results = load("results")
    first = results.Result("cp", 6, "gradient", 256, engine, "1.0", "2.13.0", 1104, 720)
    if milliseconds is not None:
        first = replace(first, **results.times([1e-3 * milliseconds], [1e-3 * milliseconds], 1.0), rows=256)
    return replace(first, **changes)


@pytest.mark.parametrize("size", [4, 6, 20, 100, 500])
def test_the_region_tree_is_complete_and_balanced(size: int) -> None:
    task = load("task").Task.random("cp", size)
    assert sorted(v for leaf in task.leaves for v in leaf) == list(range(size))
    assert len(task.leaves) == 2 ** int(math.log2(size))
    level = [len(leaf) for leaf in task.leaves]
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=True))
        assert all(abs(left - right) <= 1 for left, right in pairs)
        level = [sum(pair) for pair in pairs]
    assert load("task").Task.read(task.record()) == task


@pytest.mark.parametrize(
    ("layer", "size", "parameters", "edges"),
    [
        ("cp", 6, 1104, 720),
        ("cp", 20, 5520, 4400),
        ("cp", 100, 25488, 19504),
        ("tucker", 6, 2460, 2760),
        ("tucker", 20, 15300, 17300),
        ("tucker", 100, 68100, 75700),
    ],
)
def test_our_circuit_has_the_task_s_parameters_and_edges(layer: str, size: int, parameters: int, edges: int) -> None:
    task = load("task").Task.random(layer, size)
    circuit = load("engines.circuits").build_circuit(task)
    assert (task.num_parameters, task.num_edges) == (parameters, edges)
    assert circuit.num_parameters == parameters
    single = sum(len(leaf) == 1 for leaf in task.leaves)
    assert circuit.num_edges == edges - task.units * single  # we have no product over a single variable


@pytest.mark.parametrize("layer", ["cp", "tucker"])
def test_our_adapter_sums_to_one_over_all_values(layer: str) -> None:
    task = load("task").Task.random(layer, 4)
    adapter = load("engines.circuits").CircuitsAdapter()
    model = adapter.build(task)
    values = torch.cartesian_prod(*[torch.arange(task.categories)] * task.size)
    with torch.no_grad():
        assert adapter.log_prob(model, values).exp().sum().item() == pytest.approx(1.0, abs=1e-4)
    load("worker").check(adapter, model, task)


def test_the_check_refuses_what_is_no_distribution() -> None:
    worker, engine = load("worker"), load("engines.circuits")

    class Broken(engine.CircuitsAdapter):
        def log_evidence(self, model: object, evidence: torch.Tensor) -> torch.Tensor:
            return super().log_evidence(model, evidence) * 1.1

    class Clamped(engine.CircuitsAdapter):
        def log_prob(self, model: object, values: torch.Tensor) -> torch.Tensor:
            return super().log_prob(model, values).clamp_min(-3.0)

        def own_log_prob(self, model: object, weights: object, values: torch.Tensor) -> torch.Tensor:
            return super().own_log_prob(model, weights, values).clamp_min(-3.0)

    task = load("task").Task.random("cp", 6)
    with pytest.raises(ValueError, match="log marginal without variable 0 is .* but it should be"):
        worker.check(Broken(), Broken().build(task), task)
    caveat = worker.check(Clamped(), Clamped().build(task), task)
    assert caveat.startswith("wrong about small probabilities: log marginal without variable 0 alone is")


@pytest.mark.parametrize(
    "work", ["log_prob", "gradient", "marginal", "sample", "own_log_prob", "own_gradient", "build"]
)
def test_the_worker_answers_for_every_work(work: str) -> None:
    worker = load("worker").Worker(load("engines.circuits").CircuitsAdapter())
    task = load("task").Task.random("cp", 6)
    assert worker.open(task.record()) == {"parameters": 1104, "edges": 688, "caveat": ""}
    assert worker.prepare(work, 3, 0.0) == {"rows": 3}
    reply = worker.time(0.0)
    assert len(reply["cpu"]) == len(reply["wall"]) == 1


def test_weights_per_state_get_the_gradient_of_each_state() -> None:
    worker, engine = load("worker"), load("engines.circuits")
    adapter = engine.CircuitsAdapter()
    model = adapter.build(load("task").Task.random("tucker", 6))
    own = worker.own_weights(adapter.parameters(model), 3, requires_grad=True)
    values = torch.randint(6, (3, 6))
    adapter.own_log_prob(model, own, values).sum().backward()
    for row in range(3):
        logits = own["logits"].detach()[row].requires_grad_()
        circuits.CircuitDistribution(model.circuit, logits).log_prob(values[row]).backward()
        torch.testing.assert_close(own["logits"].grad[row], logits.grad)


STUB = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "sleep":
        time.sleep(60)
    if request["do"] == "die":
        sys.exit(3)
    print(json.dumps({"did": request["do"]}), flush=True)
"""


def test_a_process_that_dies_or_hangs_is_reported_and_started_again() -> None:
    process = load("process").Process([sys.executable, "-S", "-c", STUB], memory=1.0, limit=5.0)
    try:
        assert process.open({"layer": "cp"}) == {"did": "open"}
        assert process.ask("die") == {"error": "the process ended with code 3"}
        assert process.ask("time") == {"did": "time"}
        process.limit = 0.1
        assert process.ask("sleep") == {"error": "no answer in 0.1 s"}
        process.limit = 5.0
        assert process.ask("time") == {"did": "time"}
    finally:
        process.close()


def test_a_peer_that_does_not_install_is_reported(tmp_path: Path) -> None:
    engines = load("engines")
    (tmp_path / "spflow").mkdir()
    with pytest.raises(RuntimeError, match="is no virtual environment"):
        engines.ready_python(engines.ENGINES["spflow"], tmp_path)
    assert engines.ready_python(engines.ENGINES["circuits"], tmp_path) == Path(sys.executable)


def test_tables_show_lost_cells_and_reasons() -> None:
    report = load("report")
    found = [
        result("circuits", 2.0),
        result("libcirkit", 1.0),
        result("spflow", 30.0, rows=64, caveat="wrong about small probabilities"),
        result("deeprob-kit", None, error="has no layer of element-wise products"),
    ]
    text = report.work_table(found, "cp", "gradient", [r.engine for r in found])
    assert "| 6 | 256 | 2.00 (2.00) | 1.00 (1.00) | 30.0 (30.0) ×64 [1] | no [2] | **0.50** |" in text
    assert "[1] wrong about small probabilities" in text
    assert "[2] has no layer of element-wise products" in text
    assert "| forward and backward | **0.50** (1 of 1) |" in report.summary_table(found)
    verdict = report.verdict(found)
    assert "Of 1 cells that we and some peer can do, a peer is faster in 1;" in verdict
    assert "| forward and backward, cp | 6 | 256 | 2.00 | 1.00 | libcirkit | 0.50 |" in verdict
    assert "No cell" in report.verdict(found[:1])


def test_footnotes_that_differ_in_sizes_only_are_one() -> None:
    notes = load("report").Notes([])
    shapes = [f"RuntimeError: shape '[{batch}, 6]' is invalid" for batch in (1, 256)]
    assert [notes.mark(text) for text in (*shapes, "out of memory", shapes[0])] == ["[1]", "[1]", "[2]", "[1]"]


def test_numbers_keep_their_digits() -> None:
    number = load("report").number
    assert [number(v) for v in (0.000281, 0.056, 4.567, 45.67, 4567.8)] == ["0.0003", "0.06", "4.57", "45.7", "4568"]


def test_results_and_pictures_are_written(tmp_path: Path) -> None:
    results, plots = load("results"), load("plots")
    found = [
        result(name, time, work="own_gradient", size=size, floor=0.5)
        for name, time in (("circuits", 2.0), ("spflow", None))
        for size in (6, 20)
    ]
    results.write_csv(found, tmp_path / "results.csv")
    lines = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("layer,size,work,batch,engine,version")
    assert lines[1].endswith(",0.5,,,4")
    plots.draw(found, "own_gradient", ["circuits", "spflow"], "title", tmp_path / "own.png")
    assert (tmp_path / "own.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "2"], "2 is out of range; it must be at least 4"),
        (["--sizes", "six"], "invalid int value: 'six'"),
        (["--layers", "dense"], "invalid choice: 'dense'"),
        (["--engines", "pyjuice"], "invalid choice: 'pyjuice'"),
        (["--repeats", "0"], "0 is out of range"),
        (["--seconds", "nan"], "nan is out of range"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load("__main__").main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.full
def test_the_whole_program_with_our_engine_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--engines", "circuits-torch", "--sizes", "6", "--batches", "2", "--layers", "cp", "--repeats", "1"]
    assert load("__main__").main([*arguments, "--seconds", "0.001", "--out", str(tmp_path)]) == 0
    assert "[  7/7] cp n=6 batch=2 own_gradient: circuits" in capsys.readouterr().out
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "python -m benchmarks.circuit_speed --engines circuits-torch --sizes 6" in text
    assert str(tmp_path) not in text
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md",
        "results.csv",
        "gradient.png",
        "own_gradient.png",
    }
