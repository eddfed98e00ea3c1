"""CircuitQ against enumeration: every joint assignment walks down its sub-circuit and adds up the scores."""

import math
from random import Random

import numpy as np
import pytest
import torch

import circuits
from circuits import CircuitDistribution, structures
from circuits.errors import EvidenceError, ImpossibleEvidenceError, NotTractableError, StructureError
from factor_q import CircuitQ, CircuitQCritic
from tests import oracles, strategies
from tests.seeds import first_now

DETERMINISTIC = (
    "mean_field",
    "markov_chain",
    "tree",
    "keep_set",
    "selective",
    "decision_diagram",
    "constraint",
    "cutset",
    "hand_built",
)
CASES = [(family, seed) for family in DETERMINISTIC for seed in range(6)]
TEMPERATURES = (0.3, 1.0, 4.0)


def q_table(circuit, scores):
    """Q of every assignment, shape (*batch, *cards): a walk from the root; -inf outside the support."""
    nodes, own = strategies.plain_nodes(circuit), strategies.plain_logits(circuit, scores)
    supports = oracles.supports(circuit.cardinalities, nodes)
    table = np.full((*scores.shape[:-1], *circuit.cardinalities), -np.inf)
    for assignment in supports[-1]:
        total, waiting = np.zeros(scores.shape[:-1]), [len(nodes) - 1]
        while waiting:
            index = waiting.pop()
            kind, *rest = nodes[index]
            if kind == "product":
                waiting += rest[0]
                continue
            if kind == "sum":
                (choice,) = [i for i, child in enumerate(rest[0]) if assignment in supports[child]]
                waiting.append(rest[0][choice])
            else:
                choice = rest[1].index(assignment[rest[0]])
            if index in own:
                total = total + own[index][..., choice]
        table[(..., *assignment)] = total
    return table


def case(family, seed, batch=None):
    """A circuit, scores (some of them -inf in one draw of four) and the table of Q; some assignment is allowed."""
    rng = Random(f"{family} {seed}")
    batch = rng.choice(strategies.BATCHES) if batch is None else batch
    circuit = strategies.FAMILIES[family](rng)
    scores = strategies.random_logits(rng, circuit, batch, scale=2.0)
    return rng, CircuitQ(circuit, scores), q_table(circuit, scores)


def softmax_table(table, n):
    """exp(table) / Z per batch row."""
    weights = np.exp(table - table.max(oracles.axes(table, n), keepdims=True))
    return weights / weights.sum(oracles.axes(table, n), keepdims=True)


def policy_table(policy):
    """The probability of every assignment by the plain oracle, shape (*batch, *cards)."""
    nodes, circuit = strategies.plain_nodes(policy.circuit), policy.circuit
    logits = strategies.plain_logits(circuit, policy.logits)
    return oracles.joint_table(circuit.cardinalities, nodes, logits, tuple(policy.batch_shape))


def everything(circuit):
    """All assignments, shape (assignments, n), in the order of a flattened table."""
    return torch.cartesian_prod(*(torch.arange(k) for k in circuit.cardinalities)).reshape(-1, circuit.num_variables)


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(np.asarray(found.detach()), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_every_value_is_the_sum_over_the_active_sub_circuit(family, seed):
    _, q, table = case(family, seed)
    batch = q.batch_shape
    points = everything(q.circuit).reshape(-1, *(1,) * len(batch), q.circuit.num_variables)
    found = q(points)
    assert found.shape == (len(points), *batch)
    close(found.movedim(0, -1), table.reshape(*batch, -1))


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_maximum_and_max_marginals_equal_enumeration(family, seed):
    _, q, table = case(family, seed)
    n = q.circuit.num_variables
    value, assignment = q.max()
    close(value, table.max(oracles.axes(table, n)))
    close(q(assignment), value.detach().numpy())
    marginals = q.max_marginals()
    expected = np.full(tuple(marginals.shape), -np.inf)
    for v, k in enumerate(q.circuit.cardinalities):
        others = tuple(axis for axis in oracles.axes(table, n) if axis != table.ndim - n + v)
        expected[..., v, :k] = table.max(others)
    close(marginals, expected)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("family", "seed"), CASES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_value_and_boltzmann_policy_equal_enumeration(family, seed, temperature):
    _, q, table = case(family, seed)
    n = q.circuit.num_variables
    soft = q.log_partition(temperature)
    close(soft, oracles.log_partition(table / temperature, n))
    policy = q.boltzmann(temperature)
    assert policy.circuit is q.circuit
    expected = softmax_table(table / temperature, n)
    found = policy_table(policy)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(oracles.kl(expected, found, n)).max() < 1e-12
    close(q.expectation(policy) + temperature * policy.entropy(), temperature * soft.numpy())


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_proximal_step_and_expectation_equal_enumeration(family, seed):
    rng, q, table = case(family, seed)
    n, eta = q.circuit.num_variables, 0.7
    wide = rng.choice([q.batch_shape, (), (1,) * len(q.batch_shape)])
    logits = strategies.numpy_rng(rng).normal(0, 1.5, (*wide, q.circuit.num_parameters))
    old = CircuitDistribution(q.circuit, torch.from_numpy(logits))
    before = policy_table(old)
    with np.errstate(divide="ignore"):
        expected = softmax_table(np.log(before) + table / eta, n)
    new = q.proximal_step(old, eta)
    np.testing.assert_allclose(policy_table(new), expected, atol=1e-12)
    finite = CircuitQ(q.circuit, q.scores.masked_fill(q.scores == -math.inf, -3.0))
    close(finite.expectation(old), oracles.expectation(before, q_table(q.circuit, finite.scores), n))


@pytest.mark.parametrize("family", DETERMINISTIC)
def test_proximal_step_maximises_the_penalised_objective(family):
    _, q, _ = case(family, 11, batch=())
    old = CircuitDistribution(q.circuit, torch.zeros(q.circuit.num_parameters, dtype=torch.float64))
    new = q.proximal_step(old, 0.5)

    def objective(policy):
        return float(q.expectation(policy) - 0.5 * policy.kl_divergence(old))

    best = objective(new)
    for seed in range(20):
        noise = torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, q.circuit.num_parameters))
        assert objective(CircuitDistribution(q.circuit, new.logits + noise)) <= best + 1e-12


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_best_assignments_equal_a_sorted_table(family, seed):
    _, q, table = case(family, seed)
    n = q.circuit.num_variables
    flat = np.sort(table.reshape(*q.batch_shape, -1), -1)[..., ::-1]
    count = min(5, int((flat > -np.inf).sum(-1).min()))
    assignments, values = q.m_best(count)
    close(values, np.moveaxis(flat[..., :count], -1, 0))
    close(q(assignments), values.detach().numpy())
    rows = assignments.reshape(count, -1, n).movedim(0, 1)
    assert all(len(torch.unique(row, dim=0)) == count for row in rows)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("family", "seed"), first_now(sorted(CASES, key=lambda case: case[1]), 0.5))
@pytest.mark.parametrize("kind", ["value", "list", "mask", "rows", "wider"])
def test_restricting_equals_masking_the_table(family, seed, kind):
    rng, q, table = case(family, seed)
    cards, n = q.circuit.cardinalities, q.circuit.num_variables
    given, weights = strategies.random_evidence(rng, cards, tuple(q.batch_shape), kind)
    allowed = oracles.evidence_table(weights, cards) > 0
    wanted = np.where(allowed, table, -np.inf)
    support = np.broadcast_to(q_table(q.circuit, torch.zeros_like(q.scores)) > -np.inf, wanted.shape)
    if not (allowed & support).any(oracles.axes(wanted, n)).all():
        with pytest.raises(ImpossibleEvidenceError, match="restrict"):
            q.restrict(given)
        return
    found = q.restrict(given)
    np.testing.assert_allclose(q_table(q.circuit, found.scores), wanted)
    close(found.max()[0], wanted.max(oracles.axes(wanted, n)))
    if (wanted > -np.inf).any(oracles.axes(wanted, n)).all():
        np.testing.assert_allclose(policy_table(found.boltzmann()), softmax_table(wanted, n), atol=1e-12)


def test_q_starts_where_the_policy_is_closed_form():
    """By hand: a chain of two binary variables; the root input scores u_0, one input per value of u_0 scores u_1."""
    b = circuits.CircuitBuilder([2, 2])
    zero, one = (b.product(b.input(0, [v]), b.input(1)) for v in (0, 1))
    circuit = b.build(b.sum(zero, one))
    scores = torch.zeros(circuit.num_parameters, dtype=torch.float64)
    scores[circuit.parameters_of(circuit.num_nodes - 1)] = torch.tensor([1.0, 2.0], dtype=torch.float64)
    inputs = [i for i in range(circuit.num_nodes) if circuit.parameters_of(i).stop > circuit.parameters_of(i).start][:2]
    scores[circuit.parameters_of(inputs[0])] = torch.tensor([10.0, 20.0], dtype=torch.float64)
    scores[circuit.parameters_of(inputs[1])] = torch.tensor([5.0, 7.0], dtype=torch.float64)
    q = CircuitQ(circuit, scores)
    assert q(everything(circuit)).tolist() == [11.0, 21.0, 7.0, 9.0]
    value, assignment = q.max()
    assert (value.item(), assignment.tolist()) == (21.0, [0, 1])
    assert q.max_marginals().tolist() == [[21.0, 9.0], [11.0, 21.0]]


@pytest.mark.full
def test_gradients():
    circuit = structures.keep_set([2, 3, 2], [(0, 1), (1, 2)], labels=4)
    noise = np.random.default_rng(0)
    scores, logits = (
        torch.from_numpy(noise.normal(0, 1, (*batch, circuit.num_parameters))).requires_grad_()
        for batch in ((2,), (1,))
    )
    temperature = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    points = everything(circuit)[::3].unsqueeze(1)

    def queries(s, old, t):
        q, before = CircuitQ(circuit, s), CircuitDistribution(circuit, old, validate_args=False)
        step = q.proximal_step(before, t)
        return (
            q(points),
            q.max()[0],
            q.log_partition(t),
            q.boltzmann(t).log_prob(points),
            q.boltzmann(t).entropy(),
            step.log_prob(points),
            q.expectation(step),
        )

    assert torch.autograd.gradcheck(queries, (scores, logits, temperature))
    assert torch.autograd.gradgradcheck(lambda s: CircuitQ(circuit, s).log_partition(0.7), (scores,))


def test_gradient_of_the_soft_value_is_the_policy():
    _, q, _ = case("keep_set", 3, batch=(3,))
    scores = q.scores.clone().requires_grad_()
    temperature = 0.6
    (gradient,) = torch.autograd.grad(CircuitQ(q.circuit, scores).log_partition(temperature).sum(), scores)
    policy = q.boltzmann(temperature)
    used = q.circuit.compiled.edge_sum.take(policy.flows) * policy.weights
    close(gradient * temperature, used.movedim(0, -1).detach().numpy())


def test_forbidden_choices_leave_finite_gradients():
    circuit = structures.markov_chain([3, 3])
    scores = torch.zeros(2, circuit.num_parameters, dtype=torch.float64)
    scores[0, circuit.parameters_of(circuit.num_nodes - 1).start] = -math.inf
    scores = scores.requires_grad_()
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    q = CircuitQ(circuit, scores)
    policy = q.boltzmann(temperature)
    (q.log_partition(temperature) + policy.entropy() + q.expectation(policy)).sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert temperature.grad is not None
    assert temperature.grad.isfinite()


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("scale", [1e5, 1e-5])
def test_large_and_small_scores_stay_exact(batch, scale):
    _, q, _ = case("selective", 4, batch=batch)
    scores = q.scores.masked_fill(q.scores == -math.inf, 0.0) * scale
    found, table, n = CircuitQ(q.circuit, scores), q_table(q.circuit, scores), q.circuit.num_variables
    flat = table.reshape(*batch, -1)
    points = everything(q.circuit).reshape(-1, *(1,) * len(batch), n)
    np.testing.assert_allclose(found(points).movedim(0, -1).numpy(), flat, rtol=1e-12)
    np.testing.assert_allclose(found.max()[0].numpy(), flat.max(-1), rtol=1e-12)
    np.testing.assert_allclose(found.log_partition().numpy(), oracles.log_partition(table, n), rtol=1e-12)
    assert found.boltzmann(1e-3 * scale).logits.isfinite().all()


def test_temperature_may_differ_per_row_and_widen_the_batch():
    _, q, table = case("tree", 2, batch=(3,))
    n, temperatures = q.circuit.num_variables, torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    scaled = table / temperatures.numpy().reshape(2, 1, *(1,) * n)
    close(q.log_partition(temperatures), oracles.log_partition(scaled, n))
    np.testing.assert_allclose(policy_table(q.boltzmann(temperatures)), softmax_table(scaled, n), atol=1e-12)


def test_a_batch_of_zero_rows():
    circuit = structures.markov_chain([2, 2])
    q = CircuitQ(circuit, torch.zeros(0, circuit.num_parameters))
    value, assignment = q.max()
    assert (value.shape, assignment.shape) == ((0,), (0, 2))
    assert q.log_partition().shape == (0,)
    assert q.boltzmann().batch_shape == (0,)


def test_everything_forbidden():
    circuit = structures.markov_chain([2, 2])
    scores = torch.full((2, circuit.num_parameters), -math.inf)
    scores[0] = 0.0
    q = CircuitQ(circuit, scores)
    assert q.max()[0].tolist() == [0.0, -math.inf]
    assert q.log_partition().tolist()[1] == -math.inf
    with pytest.raises(ImpossibleEvidenceError, match="boltzmann: .* in batch rows 1,"):
        q.boltzmann()
    with pytest.raises(ImpossibleEvidenceError, match="proximal_step"):
        q.proximal_step(CircuitDistribution(circuit, torch.zeros(circuit.num_parameters)), 1.0)


def test_bad_input_is_refused(without_type_checks):
    circuit = structures.markov_chain([2, 2])
    scores = torch.zeros(circuit.num_parameters)
    q = CircuitQ(circuit, scores)
    mixture = structures.random_binary([2, 2, 2], sums=2, seed=0)
    with pytest.raises(NotTractableError, match="CircuitQ needs determinism"):
        CircuitQ(mixture, torch.zeros(mixture.num_parameters))
    for bad in (scores[:-1], scores.long(), scores + math.inf, scores * math.nan):
        with pytest.raises(StructureError, match="CircuitQ: scores"):
            CircuitQ(circuit, bad)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(StructureError, match="temperature"):
            q.log_partition(temperature)
        with pytest.raises(StructureError, match="temperature"):
            q.boltzmann(temperature)
    for values in (torch.tensor([0, 2]), torch.tensor([0, -1]), torch.tensor([0.0, 1.0]), torch.tensor([0])):
        with pytest.raises(EvidenceError, match="values"):
            q(values)
    other = CircuitDistribution(structures.markov_chain([2, 2]), scores)
    for query in (q.expectation, lambda policy: q.proximal_step(policy, 1.0)):
        with pytest.raises(StructureError, match="another circuit"):
            query(other)
    wide = CircuitQ(circuit, torch.zeros(3, circuit.num_parameters))
    with pytest.raises(StructureError, match="broadcast"):
        wide.expectation(CircuitDistribution(circuit, torch.zeros(2, circuit.num_parameters)))
    with pytest.raises(StructureError, match="broadcast"):
        wide(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(EvidenceError, match="log weights other than 0"):
        q.restrict(torch.tensor([[0.0, -1.0], [0.0, 0.0]]))


OPTIONS = [{}, {"per_agent": True}]


def observations(batch, options, seed=0):
    shape = (*batch, 3, 7) if options else (*batch, 7)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def critic_of(options, seed=0):
    torch.manual_seed(seed)
    circuit = structures.keep_set([2, 3, 2], [(0, 1), (1, 2)], labels=4)
    return CircuitQCritic(circuit, 7, hidden=(16, 8), **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_critic_turns_any_leading_shape_into_the_batch_shape(options, batch):
    critic = critic_of(options)
    q = critic(observations(batch, options))
    assert q.circuit is critic.circuit
    assert q.batch_shape == batch


@pytest.mark.parametrize("options", OPTIONS)
def test_critic_rows_are_independent_and_start_near_zero(options):
    critic = critic_of(options)
    observation = observations((4,), options)
    together = critic(observation).scores
    alone = torch.stack([critic(row).scores for row in observation])
    assert torch.allclose(together, alone, atol=1e-6)
    assert 0 < together.abs().max() < 0.1


@pytest.mark.full
@pytest.mark.parametrize("options", OPTIONS)
def test_critic_learns_a_q_function_of_its_structure(options):
    critic = critic_of(options)
    _, values = critic.circuit.cardinalities, everything(critic.circuit)
    noise = np.random.default_rng(3).normal(0, 1, critic.circuit.num_parameters)
    target = CircuitQ(critic.circuit, torch.from_numpy(noise).float())(values)
    observation = observations((1,), options).expand(len(values), *observations((), options).shape)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
    for _ in range(400):
        loss = (critic(observation)(values) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in critic.parameters())
        optimizer.step()
    assert loss.item() < 1e-3


def test_critic_refuses_bad_input(without_type_checks):
    circuit = structures.markov_chain([2, 3])
    mixture = structures.random_binary([2, 2, 2], sums=2, seed=0)
    with pytest.raises(NotTractableError, match="determinism"):
        CircuitQCritic(mixture)
    for size, hidden in ((0, (4,)), (4, ()), (4, (8, 0))):
        with pytest.raises(StructureError, match="must be positive"):
            CircuitQCritic(circuit, size, hidden=hidden)
    with pytest.raises(StructureError, match="must end in"):
        CircuitQCritic(circuit, 4)(torch.zeros(5, 3))
    with pytest.raises(StructureError, match="agents, observation_size"):
        CircuitQCritic(circuit, 4, per_agent=True)(torch.zeros(3, 4))


def test_critic_of_a_circuit_without_choices():
    critic = CircuitQCritic(structures.mean_field([1, 1]), 4)
    q = critic(torch.zeros(5, 4))
    assert q.max()[0].tolist() == [0.0] * 5
    assert q(torch.zeros(5, 2, dtype=torch.long)).tolist() == [0.0] * 5
    assert q.log_partition().tolist() == [0.0] * 5
