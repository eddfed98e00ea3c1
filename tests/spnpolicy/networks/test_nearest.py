"""The nearest joint actions against enumeration; embeddings; networks that take points."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spnpolicy.data.env import EnvSpec
from spnpolicy.networks.encoders import Network
from spnpolicy.networks.nearest import (
    ContextNetwork,
    JointCritic,
    JointEmbedding,
    best_of,
    nearest_joint_actions,
)


def points_by_hand(cardinalities, kind):
    """Every joint action and its point, written out."""
    listed = list(itertools.product(*map(range, cardinalities)))
    points = []
    for joint in listed:
        point = []
        for action, k in zip(joint, cardinalities, strict=True):
            if kind == "one_hot":
                point += [float(other == action) for other in range(k)]
            else:
                point.append(-1.0 + 2.0 * action / (k - 1) if k > 1 else 0.0)
        points.append(point)
    return listed, points


@pytest.mark.parametrize("kind", ["one_hot", "code"])
@pytest.mark.parametrize("cardinalities", [(4,), (2, 3, 4), (3, 1, 2, 2)])
def test_the_neighbours_are_those_of_enumeration(cardinalities, kind, generator):
    embedding = JointEmbedding(cardinalities, kind)
    listed, points = points_by_hand(cardinalities, kind)
    torch.testing.assert_close(embedding(torch.tensor(listed)), torch.tensor(points))
    proto = torch.randn(20, embedding.size, generator=generator)
    allowed = torch.rand(20, len(cardinalities), max(cardinalities), generator=generator) < 0.7
    allowed[..., 0] = True
    distance = embedding.distances(proto).masked_fill(~allowed, math.inf)
    for row in range(20):
        squares = {
            joint: math.dist(point, proto[row].tolist()) ** 2
            for joint, point in zip(listed, points, strict=True)
            if all(allowed[row, agent, action] for agent, action in enumerate(joint))
        }
        expected = sorted(squares.values())
        for count in (1, 2, 5, len(listed), len(listed) + 3):
            joint, total = (found[row] for found in nearest_joint_actions(distance, count))
            chosen = [tuple(action) for action in joint.tolist()]
            assert len(chosen) == min(count, max(cardinalities) ** len(cardinalities))
            num = min(count, len(squares))
            assert total[:num].tolist() == pytest.approx(expected[:num], abs=1e-4)
            assert [squares[action] for action in chosen[:num]] == pytest.approx(expected[:num], abs=1e-4)
            assert len(set(chosen[:num])) == num
            # Where masks leave fewer, the nearest one fills the rest: nothing forbidden comes back.
            assert all(action == chosen[0] for action in chosen[num:])


@given(st.data())
def test_sums_equal_enumeration_and_sets_are_nested_even_with_ties(data):
    cardinalities = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    # Small integers: sums are exact, and many of them are equal.
    small = st.integers(0, 3)
    rows = [data.draw(st.lists(small, min_size=k, max_size=k)) for k in cardinalities]
    width = max(cardinalities)
    table = torch.tensor([[*map(float, row), *[math.inf] * (width - len(row))] for row in rows])
    sums = sorted(sum(choice) for choice in itertools.product(*rows))
    before: list[list[int]] = []
    for count in range(1, len(sums) + 1):
        joint, total = nearest_joint_actions(table, count)
        assert total.tolist() == sums[:count]
        assert [sum(row[a] for row, a in zip(rows, one, strict=True)) for one in joint.tolist()] == sums[:count]
        assert joint[:-1].tolist() == before
        before = joint.tolist()
    assert len({tuple(one) for one in before}) == len(sums)


def test_the_search_does_not_enumerate():
    # 10^30 joint actions; the two best differ in the agent whose choice costs least.
    table = torch.arange(10.0).expand(30, 10).clone()
    table[17] *= 0.5
    joint, total = nearest_joint_actions(table, 3)
    assert total.tolist() == [0.0, 0.5, 1.0]
    assert joint[1].nonzero().tolist() == [[17]]


def test_the_best_candidate_is_the_first_of_the_largest_and_nan_is_seen():
    class Fixed(nn.Module):
        def forward(self, state, actions):
            return state.unsqueeze(-2).expand(*actions.shape[:-1], 1).squeeze(-1) * actions[..., 0]

    candidates = torch.tensor([[0, 2], [3, 0], [3, 1], [1, 1]]).expand(3, 5, 4, 2)
    state = torch.ones(3, 5, 1)
    state[2] = -1.0
    chosen, value = best_of(Fixed(), state, candidates)
    assert chosen[0].tolist() == [[3, 0]] * 5
    assert chosen[2].tolist() == [[0, 2]] * 5
    assert value[:, 0].tolist() == [3.0, 3.0, 0.0]
    state[1, 1] = math.nan
    assert best_of(Fixed(), state, candidates)[1].isnan().nonzero().tolist() == [[1, 1]]


def test_many_candidates_are_valued_in_parts_with_the_same_result(generator):
    spec = EnvSpec((3, 4), 2, 5, False)
    critic = JointCritic(spec, Network(hidden=(16,)))
    state = torch.randn(7, 3, 5, generator=generator)
    candidates = torch.stack([torch.randint(k, (7, 3, 900), generator=generator) for k in (3, 4)], -1)
    with torch.no_grad():
        values = critic(state, candidates)
        chosen, value = best_of(critic, state, candidates)
        torch.testing.assert_close(value, values.amax(-1))
        torch.testing.assert_close(critic(state, chosen.unsqueeze(-2)).squeeze(-1), value)


def test_a_context_network_is_an_mlp_of_both(generator):
    network = ContextNetwork(3, 2, (8, 4), 5, output_gain=1.0)
    context = torch.randn(6, 3, generator=generator)
    points = torch.randn(6, 7, 2, generator=generator)
    both = torch.cat([context.unsqueeze(1).expand(6, 7, 3), points], -1)
    inner = network.rest[1]
    expected = inner[2](torch.relu(inner[0](torch.relu(network.first(both)))))
    torch.testing.assert_close(network(context, points), expected)
    nothing = ContextNetwork(3, 0, (8,), 2)
    assert nothing(context, points[..., :0]).shape == (6, 7, 2)
