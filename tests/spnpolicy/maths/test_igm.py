"""Whether joint and individual best actions agree: the check itself, and what VDN and QMIX promise about it."""

import itertools

import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from tests.spnpolicy.maths.igm import check_igm

NETWORKS = 1000
CARDINALITIES = (3, 2, 4)


def tensors(*rows):
    return [torch.tensor(row) for row in rows]


def test_both_inclusions_equal_their_definition_on_tables_full_of_ties():
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(300):
        sizes = [int(size) for size in torch.randint(1, 4, (3,), generator=generator)]
        table = torch.randint(0, 3, sizes, generator=generator).double()
        utilities = [torch.randint(0, 2, (size,), generator=generator).double() for size in sizes]
        everything = list(itertools.product(*map(range, sizes)))
        joint = {u for u in everything if table[u] == max(table[v] for v in everything)}
        own = {u for u in everything if all(q[a] == max(q) for q, a in zip(utilities, u, strict=True))}
        found = check_igm(table, utilities, tol=0.1)
        assert found.joint_only in (joint - own or {None})
        assert found.individual_only in (own - joint or {None})
        assert found.holds == (joint == own)
        seen.add((joint <= own, own <= joint))
    assert len(seen) == 4


def test_a_witness_says_which_side_is_wrong():
    utilities = tensors([0.0, 1.0], [0.0, 1.0])
    assert check_igm(torch.tensor([[0.0, 1.0], [1.0, 2.0]]), utilities).holds
    # the best joint action lies off the product of the agents' best actions
    assert check_igm(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), utilities) == ((0, 0), (1, 1))
    # the first agent does not matter: its worse action is as good
    assert check_igm(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), utilities) == ((0, 1), None)
    # utilities that cannot tell the best from another
    assert check_igm(torch.tensor([[0.0, 1.0], [1.0, 2.0]]), tensors([1.0, 1.0], [0.0, 1.0])) == (None, (0, 1))


def test_near_ties_and_impossible_actions():
    utilities = tensors([0.0, 1.0, -torch.inf], [1.0, 1.0 - 0.9e-3])
    own = sum(torch.meshgrid(*utilities, indexing="ij"))
    assert check_igm(own, utilities, tol=1e-3).holds
    lower = own.clone()
    lower[1, 1] -= 0.01
    assert check_igm(lower, utilities, tol=1e-3) == (None, (1, 1))
    assert check_igm(lower, utilities, tol=1e-4).holds


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"lengths \(2, 3\) of the table's axes, got \(3, 2\)"):
        check_igm(torch.zeros(2, 3), [torch.zeros(3), torch.zeros(2)])
    with pytest.raises(ValueError, match=r"tol is -1"):
        check_igm(torch.zeros(2), [torch.zeros(2)], tol=-1.0)


def randomized(module, generator):
    """The same network with new random weights, large enough for its layers to bend."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    return module


def agreements(name, disturb=None, count=NETWORKS, **options):
    """Agreement of joint value and utilities in a random state, for random networks of an algorithm."""
    spec = EnvSpec(CARDINALITIES, 2, 3, False)
    algorithm = make_algorithm(
        name, spec, Streams(0), network={"hidden": (4,), "features": {"frequencies": 0}}, **options
    )
    network = algorithm.critic.double()
    utilities_of = network if name == "vdn" else network.utilities
    joint = torch.tensor(list(itertools.product(*map(range, CARDINALITIES))))
    generator = torch.Generator().manual_seed(0)
    found = []
    with torch.no_grad():
        for _ in range(count):
            randomized(network, generator)
            if disturb is not None:
                disturb(network)
            observation = torch.randn(1, 3, 2, generator=generator, dtype=torch.float64)
            state = torch.randn(1, 3, generator=generator, dtype=torch.float64)
            seen = (observation.expand(len(joint), -1, -1), state.expand(len(joint), -1))
            values = algorithm.joint_value(*seen[: 1 if name == "vdn" else 2], joint)
            utilities = [row[:size] for row, size in zip(utilities_of(observation)[0], CARDINALITIES, strict=True)]
            found.append(check_igm(values.reshape(CARDINALITIES), utilities, tol=1e-9))
    return found


def test_vdn_agrees_on_random_networks():
    assert all(agreement.holds for agreement in agreements("vdn"))


def without_first_agent(network):
    """Make every first-layer mixing weight of the first agent 0."""
    last = network.mixer.first_weight
    rows = len(last.bias) // len(CARDINALITIES)
    last.weight[:rows] = 0.0
    last.bias[:rows] = 0.0


def test_best_utilities_are_always_best_together_for_qmix():
    sizes = {"embedding": 3, "mixer_hidden": 4}
    found = agreements("qmix", **sizes)
    assert all(agreement.individual_only is None for agreement in found)
    # most of these weights are above 0, where both inclusions hold
    assert sum(agreement.holds for agreement in found) > 0.8 * NETWORKS


def test_a_weight_of_zero_breaks_the_other_inclusion_unless_weights_are_strictly_positive():
    options = {"disturb": without_first_agent, "count": 100, "embedding": 3, "mixer_hidden": 4}
    broken = agreements("qmix", **options)
    assert all(agreement.joint_only is not None and agreement.individual_only is None for agreement in broken)
    assert all(
        agreement.individual_only is None for agreement in agreements("qmix", mixing_weights="softplus", **options)
    )
    kept = agreements("qmix", mixing_weights="softplus", **options)
    assert sum(agreement.holds for agreement in kept) > 80
