"""SPNPolicy and the objective: shapes, gradients, head size, and the exact ELBO against enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch

import circuits
import factor_q
import spnpolicy
from spnpolicy.base.errors import ConfigError, NonFiniteError

CARDINALITIES = (2, 3, 2, 3)
BUILDERS = {
    "mean_field": lambda: circuits.structures.mean_field(CARDINALITIES),
    "markov_chain": lambda: circuits.structures.markov_chain(CARDINALITIES, order=2),
    "tree": lambda: circuits.structures.tree(CARDINALITIES, [-1, 0, 0, 1]),
    "keep_set": lambda: circuits.structures.keep_set(CARDINALITIES, labels=6),
}


@pytest.mark.parametrize("per_agent", [False, True])
@pytest.mark.parametrize("structure", BUILDERS)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_every_structure_gives_a_distribution_and_gradients_reach_all_parameters(structure, per_agent, batch):
    torch.manual_seed(0)
    circuit = BUILDERS[structure]()
    policy = spnpolicy.SPNPolicy(circuit, 7, hidden=(16, 8), rank=4, per_agent=per_agent)
    shape = (*batch, 4, 7) if per_agent else (*batch, 7)
    pi = policy(torch.randn(shape))
    assert pi.batch_shape == batch
    total = pi.log_prob(pi.enumerate_support()).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(batch))
    (pi.expectation([((0, 3), torch.randn(2, 3))]) + pi.entropy()).sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("per_agent", [False, True])
def test_a_new_policy_is_nearly_uniform_over_each_sum(per_agent):
    torch.manual_seed(1)
    circuit = BUILDERS["mean_field"]()
    policy = spnpolicy.SPNPolicy(circuit, 5, per_agent=per_agent)
    entropy = policy(torch.randn(100, 4, 5) if per_agent else torch.randn(100, 5)).entropy()
    largest = sum(math.log(k) for k in CARDINALITIES)
    assert (entropy > 0.99 * largest).all()


def test_batch_rows_do_not_mix():
    torch.manual_seed(2)
    policy = spnpolicy.SPNPolicy(BUILDERS["keep_set"](), 5, per_agent=True).double()
    observations = torch.randn(6, 4, 5, dtype=torch.float64)
    together = policy(observations).logits
    for row in range(6):
        torch.testing.assert_close(policy(observations[row]).logits, together[row])


def test_the_head_is_far_smaller_than_one_linear_layer():
    circuit = circuits.structures.keep_set([6] * 32, labels=36)
    assert circuit.num_parameters > 16_000
    by_state = spnpolicy.SPNPolicy(circuit, 8, hidden=(128, 128))
    by_agent = spnpolicy.SPNPolicy(circuit, 8, hidden=(128, 128), per_agent=True)
    one_layer = 128 * circuit.num_parameters
    for policy in (by_state, by_agent):
        size = sum(parameter.numel() for parameter in policy.parameters())
        assert size < one_layer / 2


def test_potentials_can_hold_any_pairwise_boltzmann_policy_when_every_edge_is_decided():
    """One region that decides all pairs: logits that are sums of pair tables give exp(Q) exactly."""
    torch.manual_seed(3)
    cards = (2, 3, 2)
    circuit = circuits.structures.keep_set(cards, labels=6)
    policy = spnpolicy.SPNPolicy(circuit, 4, hidden=(32,), per_agent=True).double()
    graph = policy.network.tables.graph
    flat = torch.randn(graph.num_entries, dtype=torch.float64)
    q = factor_q.Factors.from_flat(graph, flat)
    logits = policy.network.logits(flat.unsqueeze(0)).squeeze(1)
    pi = circuits.CircuitDistribution(circuit, logits)
    values = pi.enumerate_support()
    expected = torch.log_softmax(q(values), 0)
    torch.testing.assert_close(pi.log_prob(values), expected, rtol=0, atol=1e-12)


def test_elbo_equals_enumeration_and_never_exceeds_the_soft_value():
    generator = torch.Generator().manual_seed(4)
    graph = factor_q.complete(CARDINALITIES)
    for name, build in BUILDERS.items():
        circuit = build()
        logits = torch.randn(9, circuit.num_parameters, generator=generator, dtype=torch.float64)
        flat = 2 * torch.randn(9, graph.num_entries, generator=generator, dtype=torch.float64)
        pi, q = circuits.CircuitDistribution(circuit, logits), factor_q.Factors.from_flat(graph, flat)
        for temperature in (0.05, 1.0, 3.0):
            value = spnpolicy.elbo(pi, q, temperature)
            values = torch.tensor(list(itertools.product(*map(range, CARDINALITIES))))
            log_p = pi.log_prob(values[:, None].expand(-1, 9, -1))
            payoff = q(values[:, None].expand(-1, 9, -1))
            expected = (log_p.exp() * (payoff - temperature * log_p)).sum(0)
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-10, msg=name)
            soft_value = temperature * torch.logsumexp(payoff / temperature, 0)
            assert (value <= soft_value + 1e-9).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"observation_size": 0}, "observation_size 0"),
        ({"hidden": ()}, r"hidden \(\)"),
        ({"rank": 0}, "rank 0"),
        ({"pairs": [(0, 1)]}, "per_agent=True"),
        ({"pairs": [(0, 9)], "per_agent": True}, r"pairs holds \(0, 9\); give two agents each, of 0 to 3"),
        ({"pairs": [0], "per_agent": True}, "pairs holds 0; give two agents each"),
        ({"observation_size": 2.5}, "observation_size 2.5, .* must be positive whole numbers"),
        ({"observation_size": True}, "observation_size True"),
        ({"observation_size": None}, "observation_size None"),
        ({"hidden": 5}, r"hidden 5 must be .* a list with at least one of them, such as \(128, 128\)"),
        ({"hidden": (2.5,)}, r"hidden \(2.5,\)"),
        ({"hidden": "ab"}, "hidden 'ab'"),
        ({"rank": "4"}, "rank '4'"),
        *(({name: 10**12}, "weights, more than 1,073,741,824") for name in ("observation_size", "rank")),
        ({"hidden": (10**9, 10**9)}, "make layers of 1,000,000,096,000,000,000 weights"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_bad_options_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        spnpolicy.SPNPolicy(BUILDERS["mean_field"](), **options)


def test_a_wrong_observation_shape_is_refused():
    policy = spnpolicy.SPNPolicy(BUILDERS["mean_field"](), 5, per_agent=True)
    with pytest.raises(ConfigError, match=r"must end in \(4, 5\)"):
        policy(torch.zeros(2, 5))


@pytest.mark.parametrize("per_agent", [False, True])
def test_what_is_not_finite_is_refused_and_its_row_named(per_agent):
    policy = spnpolicy.SPNPolicy(circuits.structures.keep_set([2, 3]), 4, per_agent=per_agent)
    observation = torch.zeros(5, *policy.input_shape)
    for number in (torch.nan, torch.inf):
        observation[3].view(-1)[1] = number
        with pytest.raises(NonFiniteError, match="the observation of row 3 of the batch"):
            policy(observation)
    with torch.no_grad():
        next(policy.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="row 0 of the batch are not finite; its weights have diverged"):
        policy(torch.zeros(2, *policy.input_shape))


@pytest.mark.parametrize("per_agent", [False, True])
def test_a_batch_may_be_empty(per_agent):
    policy = spnpolicy.SPNPolicy(circuits.structures.keep_set([2, 3]), 4, per_agent=per_agent)
    pi = policy(torch.zeros(2, 0, *policy.input_shape))
    assert pi.batch_shape == pi.entropy().shape == (2, 0)
    assert pi.sample().shape == (2, 0, 2)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool])
def test_another_type_of_observation_is_refused(dtype):
    with pytest.raises(ConfigError, match=f"the observation is {dtype}, but the network torch.float32"):
        spnpolicy.SPNPolicy(circuits.structures.keep_set([2, 3]), 4)(torch.zeros(5, 4, dtype=dtype))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("wrong", [[0.0] * 4, None, "a", np.zeros(4, np.float32)])
def test_an_observation_that_is_no_tensor_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"the observation is a \w+; pass a tensor"):
        spnpolicy.SPNPolicy(circuits.structures.keep_set([2, 3]), 4)(wrong)


@pytest.mark.usefixtures("as_installed")
def test_an_elbo_of_something_else_is_refused():
    circuit = circuits.structures.keep_set([2, 3])
    pi = circuits.CircuitDistribution(circuit, torch.zeros(4, circuit.num_parameters))
    q = factor_q.Factors(factor_q.FactorGraph([2, 3], [(0, 1)]), [torch.zeros(3, 2, 3)])
    for first, second in ((q, pi), (None, q), (pi, "q"), (pi, None)):
        with pytest.raises(ConfigError, match="elbo takes a CircuitDistribution and Factors, in this order, not a"):
            spnpolicy.elbo(first, second)
    for wrong in (None, "1", True):
        with pytest.raises(ConfigError, match="the temperature is .* give a number"):
            spnpolicy.elbo(pi, q, wrong)
    for other, temperature in ((q, 1.0), (q.from_flat(q.graph, q.flat[:1]), torch.ones(3))):
        with pytest.raises(circuits.StructureError, match=r"elbo: .* the batch shapes \(4,\), .* do not broadcast"):
            spnpolicy.elbo(pi, other, temperature)


@pytest.mark.parametrize("temperature", [-1.0, math.nan, torch.tensor([1.0, -0.1])])
def test_a_negative_temperature_is_refused(temperature):
    policy = spnpolicy.SPNPolicy(circuits.structures.keep_set([2, 3]), 4)
    q = factor_q.FactorQ(factor_q.FactorGraph([2, 3], [(0, 1)]), 4)
    with pytest.raises(ConfigError, match="must be at least 0"):
        spnpolicy.elbo(policy(torch.zeros(2, 4)), q(torch.zeros(2, 4)), temperature)


@pytest.mark.usefixtures("as_installed")
def test_a_policy_is_made_of_a_circuit():
    circuit = BUILDERS["mean_field"]()
    pi = circuits.CircuitDistribution(circuit, torch.zeros(circuit.num_parameters))
    with pytest.raises(ConfigError, match="SPNPolicy takes a Circuit, not a CircuitDistribution"):
        spnpolicy.SPNPolicy(pi, 4)
