"""Pictures: what they show agrees with the distribution, nothing overlaps, and wrong requests are refused."""

import io
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from random import Random

import matplotlib.patches
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import circuits
from circuits import CircuitBuilder, CircuitDistribution, EvidenceError, ImpossibleEvidenceError, StructureError
from circuits.draw.layout import layered_layout
from circuits.draw.style import number
from tests import strategies


def distribution_of(
    circuit: circuits.Circuit, generator: torch.Generator, *, scale: float = 1.0
) -> CircuitDistribution:
    logits = scale * torch.randn(circuit.num_parameters, dtype=torch.float64, generator=generator)
    return CircuitDistribution(circuit, logits)


def texts(figure: Figure, kind: str | None = None) -> list[str]:
    found = [text for axes in figure.axes for text in axes.texts] + list(figure.texts)
    return [text.get_text() for text in found if text.get_text() and (kind is None or text.get_gid() == kind)]


def patches(figure: Figure, kind: str) -> list[matplotlib.patches.Patch]:
    return [patch for axes in figure.axes for patch in axes.patches if patch.get_gid() == kind]


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def weather() -> circuits.Circuit:
    b = CircuitBuilder([2, 3], name="weather")
    sun, rain = b.input(0, [0]), b.input(0, [1])
    return b.build(b.sum(b.product(sun, b.input(1)), b.product(rain, b.input(1, [1, 2]))))


def weather_distribution() -> CircuitDistribution:
    circuit = weather()
    numbers = {6: [0.25, 0.75], 2: [0.5, 0.3, 0.2], 4: [0.1, 0.9]}
    return CircuitDistribution(circuit, strategies.logits_from(circuit, {k: np.log(v) for k, v in numbers.items()}))


def test_a_small_circuit_shows_every_node_edge_weight_and_name() -> None:
    figure = circuits.draw(
        weather_distribution(), names=["sky", "clothes"], value_names=[["sun", "rain"], ["shirt", "coat", "boots"]]
    )
    assert [len(patches(figure, kind)) for kind in ("sum", "product", "input", "edge")] == [1, 2, 4, 6]
    assert texts(figure, "sum label") == ["+"]
    assert texts(figure, "product label") == ["×", "×"]
    assert texts(figure, "input label") == ["sky = sun", "sky = rain", "clothes", "clothes"]
    assert texts(figure, "weight") == [".25", ".75"]
    assert texts(figure, "value") == ["shirt", "coat", "boots", "coat", "boots"]
    assert texts(figure, "probability") == [".50", ".30", ".20", ".10", ".90"]
    assert texts(figure, "scope") == ["sky, clothes", "sky, clothes"]
    assert texts(figure, "title") == ["weather: 2 variables, 7 nodes, 6 edges, 7 parameters"]


def test_evidence_changes_weights_shades_and_title() -> None:
    pi = weather_distribution()
    figure = circuits.draw(pi, evidence={1: 1}, names=["sky", "clothes"])
    conditional = pi.condition({1: 1}).marginals()[0, :2].tolist()
    assert texts(figure, "weight") == [number(p) for p in conditional]
    assert "given clothes = 1" in texts(figure, "title")
    before, after = (
        [patch.get_facecolor() for patch in patches(drawn, "input")] for drawn in (circuits.draw(pi), figure)
    )
    assert before != after
    impossible = circuits.draw(pi, evidence={0: 1, 1: [1, 2]})
    assert texts(impossible, "weight") == ["0", "1"]
    assert "given x0 = 1, x1 ∈ {1, 2}" in texts(impossible, "title")


def test_structure_alone_has_no_numbers() -> None:
    figure = circuits.draw(weather())
    assert texts(figure, "weight") == texts(figure, "probability") == texts(figure, "key") == []
    assert texts(figure, "input label") == ["x0 = 0", "x0 = 1", "x1", "x1 ∈ {1, 2}"]


@pytest.mark.parametrize(
    "circuit",
    [
        circuits.structures.markov_chain([3, 3, 3]),
        circuits.structures.keep_set([2] * 5, labels=4),
        circuits.structures.tree([2, 3, 2, 2], [-1, 0, 0, 1]),
    ],
    ids=lambda circuit: circuit.name,
)
def test_boxes_and_weights_do_not_overlap_and_all_weights_are_there(circuit, generator: torch.Generator) -> None:
    pi = distribution_of(circuit, generator)
    figure = circuits.draw(pi, evidence={2: 1})
    drawn = sum(len(node.children) for node in circuit.nodes if isinstance(node, circuits.Sum))
    assert len(texts(figure, "weight")) == drawn
    assert len(patches(figure, "edge")) == circuit.num_edges
    FigureCanvasAgg(figure).draw()
    frames = [patch.get_window_extent() for kind in ("sum", "product", "input") for patch in patches(figure, kind)]
    assert len(frames) == circuit.num_nodes
    words = [text for text in figure.axes[0].texts if text.get_gid() == "weight"]
    frames += [text.get_window_extent().padded(-1) for text in words]
    assert not [pair for pair in combinations(frames, 2) if pair[0].overlaps(pair[1])]
    page = figure.bbox
    assert all(page.x0 <= frame.x0 and frame.x1 <= page.x1 for frame in frames)


def test_text_fits_its_box() -> None:
    names = ["a quite long variable name WWW", "x"]
    figure = circuits.draw(weather_distribution(), names=names, value_names=["first value", "second", "third"])
    FigureCanvasAgg(figure).draw()
    labels = [text.get_window_extent() for text in figure.axes[0].texts if text.get_gid() == "input label"]
    for label, box in zip(labels, patches(figure, "input"), strict=True):
        frame = box.get_window_extent()
        assert frame.x0 <= label.x0
        assert label.x1 <= frame.x1


def test_shades_are_the_probability_of_use(seed: int) -> None:
    """In a chain, exactly one indicator of each variable is used: its flow is the marginal."""
    circuit = circuits.structures.markov_chain([3, 2, 3])
    pi = CircuitDistribution(circuit, strategies.random_logits(Random(seed), circuit, ()))
    from circuits.draw.boxes import flows_and_weights

    flows, weights = flows_and_weights(pi)
    marginals = pi.marginals()
    for index, node in enumerate(circuit.nodes):
        if isinstance(node, circuits.Input):
            assert flows[index] == pytest.approx(marginals[node.variable, node.values[0]].item(), abs=1e-12)
        if isinstance(node, circuits.Sum):
            assert sum(weights[index]) == pytest.approx(1.0)


def test_a_large_circuit_becomes_regions(generator: torch.Generator) -> None:
    circuit = circuits.structures.keep_set([6] * 16, [(i, i + 1) for i in range(15)], labels=6)
    figure = circuits.draw(distribution_of(circuit, generator), evidence={3: 2})
    scopes = set(circuit.scopes)
    assert len(patches(figure, "region")) == len(scopes) == 31
    assert len(patches(figure, "edge")) == 30
    assert len(patches(figure, "unit")) == 1 + 6 * 30
    assert any("721 nodes are too many to draw" in title for title in texts(figure, "title"))
    labels = texts(figure, "region label")
    assert "x0–x15" in labels
    assert labels.count("6 units, 6 values") == 16
    assert sum(int(label.split()[2]) for label in labels if label.endswith("edges")) == circuit.num_edges


def test_a_huge_circuit_shows_the_regions_nearest_to_the_root() -> None:
    circuit = circuits.structures.markov_chain([2] * 300)
    figure = circuits.draw(circuit)
    assert len(patches(figure, "region")) == 120
    assert [label for label in texts(figure, "region label") if label.endswith("below")] == ["+ 1 region below"]


def test_one_node_and_unstructured_circuits_can_be_drawn(seed: int) -> None:
    b = CircuitBuilder([3])
    assert len(patches(circuits.draw(b.build(b.input(0))), "input")) == 1
    for circuit in (strategies.circuit_of("hand_built", seed), strategies.circuit_of("hand_built_mixture", seed)):
        figure = circuits.draw(CircuitDistribution(circuit, torch.zeros(circuit.num_parameters)))
        assert png(figure)


def test_a_child_twice_gets_one_line_with_both_weights() -> None:
    b = CircuitBuilder([2])
    x, y = b.input(0, [0]), b.input(0, [1])
    circuit = b.build(b.sum(x, y, x))
    logits = torch.tensor([0.1, 0.5, 0.4]).log()
    figure = circuits.draw(CircuitDistribution(circuit, logits))
    assert texts(figure, "weight") == [".50", ".50"]


def test_equal_requests_give_equal_files(tmp_path: Path, generator: torch.Generator) -> None:
    pi = distribution_of(circuits.structures.markov_chain([2, 2]), generator)
    for ending in ("png", "svg", "pdf"):
        first, second = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
        circuits.draw(pi, path=first)
        circuits.draw(pi, path=str(second))
        assert first.read_bytes() == second.read_bytes()
    circuits.draw_table(pi, [0, 1], path=tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_importing_circuits_does_not_import_matplotlib() -> None:
    program = "import sys, circuits; assert callable(circuits.draw); print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_pair_shows_every_cell_and_both_margins(generator: torch.Generator) -> None:
    pi = distribution_of(circuits.structures.keep_set([3, 2, 4], labels=12), generator)
    figure = circuits.draw_table(pi, [2, 0], given={1: 1}, names=["a", "b", "c"])
    before, after = pi.marginal([2, 0]), pi.condition({1: 1}).marginal([2, 0])
    expected = [number(p) for table in (before, after) for p in table.flatten().tolist()]
    assert texts(figure, "cell") == expected
    assert texts(figure)[-2:] == ["P(c, a)", "P(c, a | b = 1)"]
    margins = [bar.get_height() for bar in figure.axes[1].patches]
    assert margins == pytest.approx(pi.marginals()[0, :3].tolist())
    beside = [bar.get_width() for bar in figure.axes[2].patches]
    assert beside == pytest.approx(pi.marginals()[2].tolist())


def test_one_variable_shows_bars_before_and_after(generator: torch.Generator) -> None:
    pi = distribution_of(circuits.structures.markov_chain([3, 2]), generator)
    figure = circuits.draw_table(pi, 0, given={1: 0}, value_names=["low", "middle", "high"])
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([*pi.marginals()[0].tolist(), *pi.condition({1: 0}).marginals()[0].tolist()])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["low", "middle", "high"]
    assert len(circuits.draw_table(pi, [1]).axes[0].patches) == 2


def test_large_tables_leave_the_numbers_out() -> None:
    circuit = circuits.structures.mean_field([40, 3])
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters))
    assert texts(circuits.draw_table(pi, [0, 1]), "cell") == []
    assert png(circuits.draw_table(pi, [0, 1], value_names=[[f"a long value {i}" for i in range(40)], ["a", "b", "c"]]))


def test_pictures_that_nobody_could_read_are_refused() -> None:
    circuit = circuits.structures.mean_field([2000, 3])
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters))
    with pytest.raises(circuits.StructureError, match="at most 750 either way can be read; draw fewer"):
        circuits.draw_table(pi, 0)


def test_wrong_requests_are_refused_in_plain_words(tmp_path: Path) -> None:
    circuit = weather()
    pi = weather_distribution()
    batch = CircuitDistribution(circuit, torch.zeros(2, circuit.num_parameters))
    for wrong, message in [
        (lambda: circuits.draw(circuit, evidence={0: 1}), "evidence needs probabilities"),
        (lambda: circuits.draw(batch), r"batch shape \(2,\).*logits\[row\]"),
        (lambda: circuits.draw(batch, evidence={0: 1}), "batch shape"),
        (lambda: circuits.draw(pi, evidence=torch.zeros(3, 2, 3)), r"batch shape \(3,\)"),
        (lambda: circuits.draw(pi, names=["a"]), "names has 1 entries, but there are 2 variables"),
        (lambda: circuits.draw(pi, value_names=["a", "b"]), "variable 1 2 names, but it has 3 values"),
        (lambda: circuits.draw(pi, value_names=[["a", "b"]]), "value_names has 1 lists"),
        (lambda: circuits.draw(pi, path=tmp_path / "x.jpeg"), "must end in .png"),
        (lambda: circuits.draw_table(batch, [0]), "batch shape"),
        (lambda: circuits.draw_table(pi, []), "not 0"),
        (lambda: circuits.draw_table(CircuitDistribution(circuits.structures.mean_field([1] * 3), torch.zeros(0)),
                                     [0, 1, 2]), "not 3"),
    ]:  # fmt: skip
        with pytest.raises(StructureError, match=message):
            wrong()
    assert not list(tmp_path.iterdir())
    for chosen, message in [([0, 0], "not distinct"), ([5], "variable 5 does not exist")]:
        with pytest.raises(EvidenceError, match=message):
            circuits.draw_table(pi, chosen)
    with pytest.raises(ImpossibleEvidenceError):
        circuits.draw(pi, evidence={0: 1, 1: 0})


def test_layout_untangles_what_can_be_untangled() -> None:
    # Two paths written crosswise: 5 -> 3 -> 0 and 4 -> 2 -> 1.
    layout = layered_layout([(0.3, 0.3)] * 7, [(6, 5), (6, 4), (5, 3), (4, 2), (3, 0), (2, 1)])
    x = layout.centers[:, 0]
    assert np.sign(x[5] - x[4]) == np.sign(x[3] - x[2]) == np.sign(x[0] - x[1])
    assert [len(layer) for layer in layout.layers] == [1, 2, 2, 2]


def test_long_edges_bend_in_every_layer_between() -> None:
    layout = layered_layout([(1.0, 0.3)] * 4, [(3, 2), (2, 1), (1, 0), (3, 0)])
    assert [len(route) for route in layout.routes] == [2, 2, 2, 4]
    bends = layout.routes[3][1:3]
    assert (np.abs(bends[:, 0] - layout.centers[[2, 1], 0]) > 0.5).all()


def test_numbers_are_short_and_never_round_to_certainty() -> None:
    assert [number(p) for p in (0, 1e-9, 0.004, 0.005, 0.25, 0.994, 0.997, 1 - 1e-9, 1)] == [
        "0", "<.01", "<.01", ".01", ".25", ".99", ">.99", "1", "1",
    ]  # fmt: skip
