"""CircuitQ: a Q-function shaped like a circuit; its maximum, soft value and Boltzmann policy are exact at any size."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits import Best, Circuit, CircuitDistribution
from circuits.engine.derivatives import by_variable, max_derivatives
from circuits.engine.passes import align, flows, log_root, log_up, max_up
from circuits.errors import EvidenceError, NotTractableError, StructureError
from circuits.evidence import Evidence, EvidenceLike, observed_rows
from circuits.numerics import NEGATIVE_INFINITY, posterior, weighted
from circuits.shapes import check_values, common_shape
from factor_q.queries import Maximum
from factor_q.temperature import check_possible, divided


class CircuitQ:
    """A batch of functions Q(u) = sum of the scores on the one sub-circuit that is active at u.

    In a deterministic circuit a joint assignment u reaches exactly one child of every sum in use, and one value of
    every input; each such choice has a score. All queries below are then one or two passes, whatever the induced
    width, and the Boltzmann policy exp(Q / temperature) / Z is a circuit of the same structure.

    Args:
        circuit: a deterministic circuit. Where its support leaves an assignment out, Q is -inf.
        scores: in the unit of Q, shape (*batch, circuit.num_parameters), numbered as the logits of the circuit
            (`circuit.parameters_of(node)`); -inf forbids every assignment that uses the choice.

    Raises:
        NotTractableError: some sum is not deterministic; the message names it.
        StructureError: wrong number of scores, an integer type, nan or +inf.
    Source: the recursions of max-product and log-partition in Choi, Vergari & Van den Broeck 2020.

    Example:
        >>> from circuits import structures
        >>> q = CircuitQ(structures.mean_field([2, 2]), torch.tensor([0.0, 1.0, 0.0, 3.0]))
        >>> value, assignment = q.max()
        >>> value.item(), assignment.tolist(), q(torch.tensor([0, 1])).item()
        (4.0, [1, 1], 3.0)
    """

    def __init__(self, circuit: Circuit, scores: Float[Tensor, "*batch parameters"]) -> None:
        if circuit.overlap is not None:
            raise NotTractableError(
                f"CircuitQ needs determinism, but {circuit.overlap.describe()}. "
                "Build the structure with structures.keep_set(...), or use Factors with factor_q.FactorGraph."
            )
        if scores.shape[-1:] != (circuit.num_parameters,) or not scores.is_floating_point():
            raise StructureError(
                f"CircuitQ: scores have shape {tuple(scores.shape)} and dtype {scores.dtype}, but they must be "
                f"floating point and their last axis hold the {circuit.num_parameters} parameters of the circuit."
            )
        if not bool((scores < math.inf).all()):
            where = (~(scores < math.inf)).nonzero()[0].tolist()
            raise StructureError(f"CircuitQ: scores hold nan or +inf, first at index {where}; use finite ones or -inf.")
        self.circuit = circuit
        self.scores = scores

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of functions."""
        return self.scores.shape[:-1]

    def __call__(self, values: Int[Tensor, "*points variables"]) -> Float[Tensor, "..."]:
        """Return Q at joint assignments.

        Args:
            values: integers of shape (*sample, *batch, n); shorter or size-one leading shapes are broadcast.

        Returns:
            Shape (*sample, *batch), differentiable; -inf for assignments that the circuit or the scores leave out.

        Raises:
            EvidenceError: values has the wrong shape or type, or a value is outside its variable's range.
        Cost: an upward and a downward pass per assignment, and num_parameters numbers per result.
        """
        check_values(values, self.circuit.cardinalities)
        common_shape([values.shape[:-1], self.batch_shape], "values and CircuitQ")
        compiled = self.circuit.compiled
        with torch.no_grad():
            # Which choices u makes is no function of the scores: found without gradient, then only added up with it.
            rows = observed_rows(values.long(), compiled, self.scores.dtype)
            below = self._reach(rows)
            chosen = posterior(compiled.edge_child.take(below), compiled.edge_sum.take(below))
            used = chosen * compiled.edge_sum.take(flows(compiled, chosen))
        dims = max(used.dim(), self.scores.dim())
        total = weighted(align(used, dims), align(self._rows, dims)).sum(0)
        return total.masked_fill(below[compiled.root] == NEGATIVE_INFINITY, NEGATIVE_INFINITY)

    def max(self) -> Maximum:
        """Return the largest value over all joint assignments, and an assignment that has it.

        Ties go to the first child of a sum and the first value of an input.

        Returns:
            The value, shape (*batch,), differentiable with respect to the scores in use, and the assignment, long of
            shape (*batch, n). When every assignment is forbidden: -inf and any of them.
        Cost: two upward and two downward passes, O(edges) per batch row.
        """
        compiled = self.circuit.compiled
        with torch.no_grad():
            # The best child of every sum as a weight of 1: the flows of that policy are 1 exactly on the sub-circuit
            # of the maximum, and the one value with flow of each variable is its action.
            _, best = max_up(compiled, self._rows.detach())
            chosen = torch.zeros_like(self._rows)
            for layer, choice in zip(compiled.sum_layers, best, strict=True):
                layer.fold(chosen[layer.edges]).scatter_(1, choice.unsqueeze(1), 1.0)
            used = flows(compiled, chosen)
            bounds = zip(compiled.offsets, compiled.offsets[1:], strict=False)
            assignment = torch.stack([used[start:stop].argmax(0) for start, stop in bounds], -1)
        return Maximum(self(assignment), assignment)

    def m_best(self, count: int) -> Best:
        """Return the `count` best assignments and their values, best first.

        Order is that of the Boltzmann policy's log probabilities: values equal up to rounding may change places.

        Args:
            count: at least 1 and at most the number of assignments that are not forbidden.

        Returns:
            Assignments, shape (count, *batch, n), and values of Q, shape (count, *batch).

        Raises:
            ValueError: `count` is out of that range.
            ImpossibleEvidenceError: a batch row forbids every assignment.
        Cost: see `circuits.queries.m_best`.
        """
        assignments, _ = self.detach().boltzmann().m_best(count)
        return Best(assignments, self(assignments))

    def max_marginals(self) -> Float[Tensor, "*batch variables values"]:
        """Return M_i(x) = max over the other variables of Q(x, u_-i), for every variable i and value x.

        Returns:
            Shape (*batch, n, max cardinality); -inf for forbidden values and beyond a variable's own. Each variable's
            largest entry is `max()`. No gradient.
        Cost: one upward and one downward max pass, O(edges) per batch row.
        Source: Darwiche 2003, with maximisation in place of sums.
        """
        compiled = self.circuit.compiled
        with torch.no_grad():
            rows = self._rows.detach()
            best, _ = max_up(compiled, rows)
            return by_variable(compiled, max_derivatives(compiled, rows, best))

    def log_partition(self, temperature: float | Float[Tensor, "..."] = 1.0) -> Float[Tensor, "*batch"]:
        """Return log sum_u exp(Q(u) / temperature), the soft value divided by the temperature.

        Args:
            temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.

        Returns:
            Nats, shape (*batch,), differentiable; the gradient to the scores is the probability of each choice under
            the Boltzmann policy, divided by the temperature. When every assignment is forbidden: -inf.

        Raises:
            StructureError: the temperature is not positive and finite.
        Cost: one upward pass, O(edges) per batch row.
        """
        rows = divided(self.scores, temperature, "log_partition").movedim(-1, 0)
        return log_root(self.circuit.compiled, rows, self._everything(rows))

    def boltzmann(self, temperature: float | Float[Tensor, "..."] = 1.0) -> CircuitDistribution:
        """Return the policy exp(Q / temperature) / Z on the same circuit: the best maximum-entropy policy.

        The logit of a choice is (its score + the soft value of what follows) / temperature, so
        E[Q] + temperature * entropy = temperature * log_partition without a gap.

        Args:
            temperature: as in `log_partition`.

        Returns:
            A distribution of batch shape (*batch), differentiable in scores and temperature.

        Raises:
            ImpossibleEvidenceError: a batch row forbids every assignment.
            StructureError: the temperature is not positive and finite.
        Cost: one upward pass, O(edges) per batch row.
        """
        return self._policy(divided(self.scores, temperature, "boltzmann"), "boltzmann")

    def proximal_step(self, old: CircuitDistribution, eta: float | Float[Tensor, "..."]) -> CircuitDistribution:
        """Return the policy that maximises E[Q] - eta * KL(policy || old): old * exp(Q / eta) / Z, exactly.

        Args:
            old: on the same circuit; its batch shape broadcasts with that of Q. What it excludes stays excluded.
            eta: price of one nat of divergence, in the unit of Q, positive and finite; as `temperature` above.

        Returns:
            A distribution on the same circuit, differentiable in scores, old logits and eta.

        Raises:
            ImpossibleEvidenceError: Q forbids, in some batch row, everything that `old` can do.
            StructureError: another circuit, or eta is not positive and finite.
        Cost: one upward pass, O(edges) per batch row.
        """
        self._check_same(old, "proximal_step")
        tempered = divided(self.scores, eta, "proximal_step")
        return self._policy(tempered + old.log_weights.movedim(0, -1), "proximal_step")

    def expectation(self, policy: CircuitDistribution) -> Float[Tensor, "*batch"]:
        """Return E[Q(u)] for u drawn from a policy on the same circuit: sum of P(choice is made) * score.

        Args:
            policy: its batch shape broadcasts with that of Q.

        Returns:
            The two batch shapes broadcast; -inf where the policy does what Q forbids. Differentiable in both.

        Raises:
            StructureError: the policy is on another circuit.
        Cost: one downward pass, O(edges) per batch row.
        """
        self._check_same(policy, "expectation")
        used = self.circuit.compiled.edge_sum.take(policy.flows) * policy.weights
        dims = max(used.dim(), self.scores.dim())
        return weighted(align(used, dims), align(self._rows, dims)).sum(0)

    def restrict(self, evidence: EvidenceLike) -> "CircuitQ":
        """Return Q with -inf for every assignment that the evidence does not allow: an action mask, a stuck agent.

        Args:
            evidence: which values are allowed, see `circuits.Evidence.of`; its batch shape broadcasts.

        Raises:
            EvidenceError: malformed evidence, or soft evidence: its log weights have no meaning as values.
            ImpossibleEvidenceError: in some batch row no assignment of the circuit is allowed.
        Cost: one upward pass, O(edges) per batch row.
        """
        compiled, scores = self.circuit.compiled, self.scores
        rows = Evidence.of(evidence, compiled.cardinalities, dtype=scores.dtype, device=scores.device).rows(compiled)
        if bool(((rows != 0) & (rows != NEGATIVE_INFINITY)).any()):
            raise EvidenceError("restrict: the evidence holds log weights other than 0 (allowed) and -inf (forbidden).")
        with torch.no_grad():
            below = self._reach(rows)
            check_possible(below[compiled.root], "restrict")
            allowed = compiled.edge_child.take(below).movedim(0, -1) > NEGATIVE_INFINITY
        return CircuitQ(self.circuit, torch.where(allowed, scores, NEGATIVE_INFINITY))

    def detach(self) -> "CircuitQ":
        """Return the same numbers cut off from the autograd graph."""
        return CircuitQ(self.circuit, self.scores.detach())

    def __repr__(self) -> str:
        return f"CircuitQ(batch_shape={tuple(self.batch_shape)}, dtype={self.scores.dtype}, circuit={self.circuit!r})"

    @property
    def _rows(self) -> Tensor:
        """The scores as the passes read them, shape (parameters, *batch)."""
        return self.scores.movedim(-1, 0)

    def _reach(self, evidence: Tensor) -> Tensor:
        """Return 0 for rows that evidence rows of 0 and -inf leave possible, and -inf for the others."""
        # Weights of 1: a deterministic sum then has at most one child, whose log value 0 it takes over exactly.
        weights = evidence.new_zeros(self.circuit.num_parameters, *(1,) * (evidence.dim() - 1))
        return log_up(self.circuit.compiled, weights, evidence)

    def _everything(self, rows: Tensor) -> Tensor:
        """Return evidence that allows everything; of full batch shape, because shared scores would overflow."""
        return rows.new_zeros(self.circuit.compiled.num_values, *rows.shape[1:])

    def _policy(self, tempered: Tensor, query: str) -> CircuitDistribution:
        compiled = self.circuit.compiled
        rows = tempered.movedim(-1, 0)
        below = log_up(compiled, rows, self._everything(rows))
        check_possible(below[compiled.root], query)
        # A forbidden sum is never reached; any weights do there, except those that sum to zero.
        # It would be a softmax over nothing but -inf, which is nan.
        possible = compiled.edge_sum.take(below) > NEGATIVE_INFINITY
        logits = torch.where(possible, rows + compiled.edge_child.take(below), 0.0)
        return CircuitDistribution(self.circuit, logits.movedim(0, -1), validate_args=False)

    def _check_same(self, policy: CircuitDistribution, query: str) -> None:
        if policy.circuit is not self.circuit:
            raise StructureError(
                f"{query}: the policy is on another circuit than Q, {policy.circuit!r}; build both from one Circuit "
                "object, or use a policy on any circuit with Factors."
            )
        common_shape([policy.batch_shape, self.batch_shape], f"{query}: policy and CircuitQ")
