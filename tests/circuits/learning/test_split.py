"""Structure learning by split and clone, on data whose dependencies change with the context."""

from typing import Any

import pytest
import torch

from circuits import Circuit, CircuitDistribution, EvidenceError, StructureError
from circuits.learning import Growth, SplitOptions, chow_liu_tree, grow_structure, maximum_likelihood
from tests.strategies import seeded

CARDS = [3, 2, 3, 2, 2, 4, 2, 2]


def switched(rows: int, generator: torch.Generator, keep: float = 0.85) -> torch.Tensor:
    """Variable 0 says what the others repeat: the one before them, its mirror image, or nothing."""
    values = torch.zeros(rows, len(CARDS), dtype=torch.long)
    values[:, 0] = torch.randint(3, (rows,), generator=generator)
    values[:, 1] = torch.randint(2, (rows,), generator=generator)
    for variable in range(2, len(CARDS)):
        k, before = CARDS[variable], values[:, variable - 1]
        noise = torch.randint(k, (rows,), generator=generator)
        told = torch.stack([before % k, k - 1 - before % k, noise], 1).gather(1, values[:, :1]).squeeze(1)
        same = torch.rand(rows, generator=generator) < keep
        values[:, variable] = torch.where(same, told, noise)
    return values


def score(circuit: Circuit, logits: torch.Tensor, rows: torch.Tensor) -> float:
    return float(CircuitDistribution(circuit, logits).log_prob(rows).mean())


def free_parameters(circuit: Circuit) -> int:
    slices = [circuit.parameters_of(node) for node in range(circuit.num_nodes)]
    return sum(s.stop - s.start - 1 for s in slices if s.stop > s.start)


@pytest.mark.parametrize("seed", range(3))
def test_beats_chow_liu_where_links_depend_on_the_context(seed: int) -> None:
    """Each link is a mixture over the switch for a tree, so a tree loses about half of the information."""
    generator = seeded(seed)
    train, validation, test = switched(7_000, generator).split([3_000, 1_000, 3_000])
    growth = grow_structure(train, CARDS, validation=validation)
    assert growth.circuit.is_deterministic
    assert growth.best_split > 0
    learned, from_tree = score(growth.circuit, growth.logits, test), score(*chow_liu_tree(train, CARDS), test)
    print(f"mean log-likelihood: split {learned:.4f}, tree {from_tree:.4f}, {growth.best_split} splits")
    assert learned > from_tree + 0.5


@pytest.mark.parametrize(("seed", "penalty"), [(0, 0.0), (1, 0.3), (2, 1.0), (3, 0.0), (4, 0.3), (5, 1.0)])
def test_likelihood_never_falls_and_is_what_the_circuit_gives(seed: int, penalty: float) -> None:
    """The learner counts on its own graph; the circuit, judged from outside, says the same."""
    rows = switched(400, seeded(10 + seed), keep=0.2 * seed)
    options = SplitOptions(max_splits=12, min_rows=10, penalty=penalty, clone_depth=seed % 4)
    growth = grow_structure(rows, CARDS, options=options)
    assert growth.best_split == len(growth.log_likelihoods) - 1
    pairs = zip(growth.log_likelihoods, growth.log_likelihoods[1:], strict=False)
    assert all(after >= before - 1e-9 for before, after in pairs)
    assert growth.circuit.is_deterministic
    unsmoothed = maximum_likelihood(growth.circuit, rows, smoothing=0.0)
    assert score(growth.circuit, unsmoothed, rows) == pytest.approx(growth.log_likelihoods[-1], abs=1e-9)
    torch.testing.assert_close(growth.logits, maximum_likelihood(growth.circuit, rows))


def test_the_depth_of_copies_is_an_option_that_counts() -> None:
    """Free copies are made wherever they may: on the way to the split only, or below it as well."""
    rows = switched(600, seeded(20))
    options = [SplitOptions(max_splits=12, min_rows=20, penalty=0.0, clone_depth=depth) for depth in (0, 9)]
    shallow, deep = (grow_structure(rows, CARDS, options=option).circuit.num_parameters for option in options)
    assert shallow != deep


@pytest.mark.parametrize("seed", range(2))
def test_announced_gains_are_the_gains(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from circuits.learning.split import graph as split_graph

    gains: list[float] = []
    plain = split_graph.DecisionGraph.split

    def noting(graph: split_graph.DecisionGraph, found: split_graph.Candidate) -> None:
        gains.append(found.score)  # parameters cost nothing here
        plain(graph, found)

    monkeypatch.setattr(split_graph.DecisionGraph, "split", noting)
    rows = switched(600, seeded(20 + seed))
    growth = grow_structure(rows, CARDS, options=SplitOptions(max_splits=12, min_rows=20, penalty=0.0))
    pairs = zip(growth.log_likelihoods, growth.log_likelihoods[1:], strict=False)
    found = [(after - before) * len(rows) for before, after in pairs]
    assert len(found) >= 3
    assert gains == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_splits_pay_for_their_parameters(seed: int) -> None:
    rows = switched(500, seeded(30 + seed), keep=0.3 * seed)
    growth = grow_structure(rows, CARDS, options=SplitOptions(penalty=1.0))
    tree = chow_liu_tree(rows, CARDS)[0]

    def bic(circuit: Circuit) -> float:
        weights = maximum_likelihood(circuit, rows, smoothing=0.0)
        price = free_parameters(circuit) * float(torch.tensor(len(rows)).log()) / 2
        return len(rows) * score(circuit, weights, rows) - price

    assert bic(growth.circuit) >= bic(tree) - 1e-6


def test_validation_chooses_the_number_of_splits() -> None:
    train, validation = switched(900, seeded(40)).split([300, 600])
    seen: list[tuple[int, float, float | None]] = []
    options = SplitOptions(penalty=0.0, min_rows=2, patience=4, progress=lambda *row: seen.append(row))
    growth = grow_structure(train, CARDS, validation=validation, options=options)
    held_out = growth.validation_log_likelihoods
    assert growth.best_split == held_out.index(max(held_out)) < len(held_out) - 1
    assert len(held_out) - 1 == growth.best_split + 4
    assert score(growth.circuit, growth.logits, validation) == pytest.approx(max(held_out), abs=1e-9)
    unsmoothed = maximum_likelihood(growth.circuit, train, smoothing=0.0)
    expected = growth.log_likelihoods[growth.best_split]
    assert score(growth.circuit, unsmoothed, train) == pytest.approx(expected, abs=1e-9)
    assert [row[0] for row in seen] == list(range(len(held_out)))
    assert [row[2] for row in seen] == list(held_out)


def test_no_split_is_the_chow_liu_tree() -> None:
    rows = switched(500, seeded(50))
    growth = grow_structure(rows, CARDS, options=SplitOptions(max_splits=0))
    tree, logits = chow_liu_tree(rows, CARDS)
    assert growth.circuit.num_parameters == tree.num_parameters
    assert growth.circuit.is_structured
    assert score(growth.circuit, growth.logits, rows) == pytest.approx(score(tree, logits, rows))


def test_limits_hold() -> None:
    rows = switched(800, seeded(51))
    free = grow_structure(rows, CARDS, options=SplitOptions(penalty=0.3, max_splits=15))
    small = grow_structure(rows, CARDS, options=SplitOptions(penalty=0.3, max_parameters=150))
    assert chow_liu_tree(rows, CARDS)[0].num_parameters <= small.circuit.num_parameters <= 150
    assert small.circuit.num_parameters < free.circuit.num_parameters
    assert len(free.log_likelihoods) <= 16


def test_splits_stop_when_nothing_is_left_to_say() -> None:
    generator = seeded(52)
    noise = torch.stack([torch.randint(k, (2_000,), generator=generator) for k in CARDS], 1)
    growth = grow_structure(noise, CARDS, options=SplitOptions(penalty=2.0))
    assert growth.best_split == 0


def test_row_weights_are_repeated_rows() -> None:
    rows = switched(300, seeded(53))
    repeats = torch.randint(0, 4, (300,), generator=seeded(54))
    options = SplitOptions(max_splits=10)
    weighted = grow_structure(rows, CARDS, weights=repeats, options=options)
    plain = grow_structure(rows.repeat_interleave(repeats, 0), CARDS, options=options)
    assert weighted.log_likelihoods == pytest.approx(plain.log_likelihoods)
    torch.testing.assert_close(weighted.logits, plain.logits)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_constant_single_valued_and_few_data(count: int) -> None:
    data = torch.tensor([[0, 1, 2, 0]]).repeat(count, 1)
    for cards in ([1, 2, 3, 2], [1, 2, 4, 1]):
        growth = grow_structure(data, cards, validation=data, options=SplitOptions(min_rows=0, penalty=0.0))
        pi = CircuitDistribution(growth.circuit, growth.logits, validate_args=True)
        assert pi.mode.tolist() == [0, 1, 2, 0]
        assert float(pi.log_prob(pi.enumerate_support()).exp().sum()) == pytest.approx(1.0)
    assert grow_structure(data[:, :2], [1, 2]).circuit.num_variables == 2
    assert grow_structure(data[:, :1], [1]).circuit.num_parameters == 0


@pytest.mark.full
def test_long_chains_do_not_exhaust_the_stack() -> None:
    generator = seeded(55)
    rows = torch.zeros(150, 500, dtype=torch.long)
    rows[:, 0] = torch.randint(2, (150,), generator=generator)
    for variable in range(1, 500):
        flip = torch.rand(150, generator=generator) < 0.02
        rows[:, variable] = rows[:, variable - 1] ^ flip.long()
    growth = grow_structure(rows, [2] * 500, options=SplitOptions(max_splits=1, min_rows=120, penalty=0.0))
    assert isinstance(growth, Growth)
    assert growth.circuit.is_deterministic


def test_bad_input_is_named() -> None:
    data = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(EvidenceError, match=r"grow_structure needs complete data.*row 1, variable 0"):
        grow_structure(torch.tensor([[0, 1], [-1, 0]]), [2, 2])
    with pytest.raises(EvidenceError, match="validation has shape"):
        grow_structure(data, [2, 2], validation=data[:, :1])
    with pytest.raises(EvidenceError, match="row 1 gives variable 0 the value 1"):
        grow_structure(data, [1, 2])
    with pytest.raises(StructureError, match=r"penalty -1\.0"):
        grow_structure(data, [2, 2], options=SplitOptions(penalty=-1.0))
    with pytest.raises(EvidenceError, match="smoothing is nan"):
        SplitOptions(smoothing=float("nan"))


@pytest.mark.parametrize("option", ["max_splits", "max_parameters", "clone_depth", "patience", "min_rows"])
def test_bad_options_are_named(option: str) -> None:
    wrong: dict[str, Any] = {option: -1}
    with pytest.raises(StructureError, match=f"SplitOptions {option} is -1; it must be at least"):
        SplitOptions(**wrong)
