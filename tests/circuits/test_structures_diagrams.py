"""Decision diagrams: random tables, automata of your own, and the constraints made of them."""

from itertools import product
from math import comb

import pytest
import torch

from circuits import Circuit, CircuitDistribution, StructureError, operations, structures


def support(circuit: Circuit) -> set[tuple[int, ...]]:
    """Joint values that are possible with equal weights."""
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters, dtype=torch.float64))
    values = torch.tensor(list(product(*map(range, circuit.cardinalities))))
    return set(map(tuple, values[pi.log_prob(values).isfinite()].tolist()))


def joint_values(cards: list[int]) -> list[tuple[int, ...]]:
    return list(product(*map(range, cards)))


def test_width_one_is_mean_field_and_enough_width_is_the_table_of_joint_values() -> None:
    cards = [2, 3, 2, 2]
    assert structures.decision_diagram(cards, width=1).num_parameters == structures.mean_field(cards).num_parameters
    assert structures.decision_diagram(cards, width=12).num_parameters == 2 + 6 + 12 + 24


@pytest.mark.parametrize("number", range(5))
def test_the_values_of_a_state_lead_to_different_states(number: int, generator: torch.Generator) -> None:
    """With width for all values of the first variable, each value has a continuation of its own."""
    circuit = structures.decision_diagram([4, 3, 3], width=4, seed=number)
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64)
    pi = CircuitDistribution(circuit, logits)
    rows = torch.stack([pi.condition({0: value}).marginals()[1] for value in range(4)])
    assert torch.pdist(rows).min() > 1e-6


def test_a_thousand_variables_in_linear_size() -> None:
    circuit = structures.decision_diagram([3] * 1000, width=8)
    assert circuit.is_deterministic
    assert circuit.is_structured
    assert circuit.num_parameters == 3 + 9 + 998 * 24
    logits = torch.zeros(circuit.num_parameters, dtype=torch.float64)
    pi = CircuitDistribution(circuit, logits)
    torch.testing.assert_close(pi.entropy(), 1000 * torch.tensor(3.0, dtype=torch.float64).log())


def test_seeds_repeat_and_differ() -> None:
    one, same, other = (structures.decision_diagram([3] * 6, width=5, seed=seed) for seed in (0, 0, 1))
    assert one.nodes == same.nodes
    assert one.nodes != other.nodes


def test_a_transition_decides_what_is_possible_and_what_is_shared() -> None:
    """No two neighbours act (value 1): the state is the last value, as a string."""
    cards = [2, 2, 2, 2, 2]
    circuit = structures.decision_diagram(
        cards, transition=lambda t, state, value: None if state == "1" and value else str(value), start="0"
    )
    assert support(circuit) == {
        x for x in joint_values(cards) if not any(a and b for a, b in zip(x, x[1:], strict=False))
    }
    assert circuit.is_deterministic
    assert circuit.num_parameters == 2 * len(cards)  # the state "1" has one allowed value, which needs no number


def test_a_transition_may_look_at_the_variable_and_the_states_may_be_tuples() -> None:
    cards = [2, 3, 2]
    circuit = structures.decision_diagram(cards, transition=lambda t, state, value: (*state, (t, value)), start=())
    assert support(circuit) == set(joint_values(cards))
    assert circuit.num_parameters == 2 + 6 + 12


def test_accept_keeps_only_values_that_can_still_end_well() -> None:
    cards = [3, 3, 3, 3]
    circuit = structures.decision_diagram(
        cards, transition=lambda t, state, value: (state + value) % 4, accept=lambda state: state == 2
    )
    assert support(circuit) == {x for x in joint_values(cards) if sum(x) % 4 == 2}
    assert circuit.is_deterministic


def test_a_state_that_remembers_the_last_value_is_a_markov_chain() -> None:
    cards = [2, 3, 4, 2]
    diagram = structures.decision_diagram(cards, transition=lambda t, state, value: value)
    assert diagram.num_parameters == structures.markov_chain(cards).num_parameters


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"accept": bool}, "pass one"),
        ({"start": 1}, "pass one"),
        ({"transition": lambda t, s, v: 2 * s + v, "width": 3}, "more than 3 states after variable 1"),
        (
            {"transition": lambda t, s, v: [v]},
            r"after variable 0 the transition returned \[\[0\], \[1\]\], of which some are not hashable",
        ),
        ({"transition": lambda t, s, v: None}, "no joint value"),
        ({"transition": lambda t, s, v: v, "accept": lambda s: False}, "no joint value"),
    ],
)
def test_wrong_options_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        structures.decision_diagram([2, 2, 2], **keywords)


@pytest.mark.parametrize(
    ("cards", "count", "action"),
    [
        ([2, 2, 2, 2], 2, 1),
        ([2, 2, 2, 2], 0, 1),
        ([2, 2, 2, 2], 4, 1),
        ([3, 2, 4, 1], 1, 2),
        ([3, 2, 3], range(3), 0),
        ([3, 2, 3], [0, 3], range(1, 3)),
    ],
)
def test_exactly_allows_the_joint_values_with_these_counts(cards: list, count: object, action: object) -> None:
    counts, actions = ({x} if isinstance(x, int) else set(x) for x in (count, action))
    circuit = operations.exactly(cards, count, action=action)
    wanted = {x for x in joint_values(cards) if sum(value in actions for value in x) in counts}
    assert support(circuit) == wanted
    assert circuit.is_deterministic
    assert circuit.num_parameters <= sum(k * min(t + 1, max(counts) + 1) for t, k in enumerate(cards))
    assert circuit.name.startswith("exactly(count=")


def test_exactly_of_a_thousand_agents(generator: torch.Generator) -> None:
    """Whatever the numbers are, the expected count and the count of every sample are the one asked for."""
    circuit = operations.exactly([2] * 1000, 5)
    assert circuit.num_parameters <= 1000 * 2 * 6
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64)
    pi = CircuitDistribution(circuit, logits)
    torch.testing.assert_close(pi.marginals()[:, 1].sum(), torch.tensor(5.0, dtype=torch.float64))
    assert (pi.sample((100,), generator=generator).sum(-1) == 5).all()
    assert pi.mode.sum() == 5


@pytest.mark.parametrize(
    ("cards", "exempt"), [([3, 3, 3], ()), ([2, 4, 3], ()), ([3, 3, 3, 3], [0]), ([4, 2, 3, 1], [0, 1]), ([2, 3], [9])]
)
def test_all_different_allows_the_joint_values_without_a_repeat(cards: list, exempt: object) -> None:
    circuit = operations.all_different(cards, exempt=exempt)
    chosen = {x: [value for value in x if value not in set(exempt)] for x in joint_values(cards)}
    assert support(circuit) == {x for x, values in chosen.items() if len(values) == len(set(values))}
    assert circuit.is_deterministic
    counted = len(set(range(max(cards))) - set(exempt))
    bound = sum(k * sum(comb(counted, i) for i in range(t + 1)) for t, k in enumerate(cards))
    assert circuit.num_parameters <= bound


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: operations.exactly([2, 2], 3), "no joint value"),
        (lambda: operations.exactly([2, 2], -1), "count is -1"),
        (lambda: operations.exactly([2, 2], []), r"count is \[\]"),
        (lambda: operations.exactly([2, 2], 1, action=2), "action is 2; it must be within 0 to 1"),
        (lambda: operations.exactly([2, 2], 1, action=[]), r"action is \[\]"),
        (lambda: operations.all_different([2, 2, 2]), "no joint value"),
        (lambda: operations.all_different([2, 2], exempt=[-1]), r"exempt is \[-1\]"),
        (lambda: operations.exactly([], 1), "cardinalities"),
    ],
)
def test_impossible_and_wrong_constraints_are_refused(build: object, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        build()
