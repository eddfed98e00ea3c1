"""Decision diagrams: random tables, and automata of your own."""

from itertools import product

import pytest
import torch

from circuits import Circuit, CircuitDistribution, StructureError, structures


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


@pytest.mark.full
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
