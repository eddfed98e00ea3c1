"""CircuitDistribution: a circuit and its numbers, as a torch.distributions.Distribution."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from circuits import queries
from circuits.circuit import Circuit
from circuits.errors import NotTractableError, StructureError
from circuits.evidence import EvidenceLike
from circuits.numerics import NEGATIVE_INFINITY
from circuits.queries.mode import Best
from circuits.weights import WeightedCircuit

_MAX_SUPPORT = 1 << 22


class JointValues(constraints.Constraint):
    """Integer vectors with one value in range for each variable."""

    is_discrete = True
    event_dim = 1

    def __init__(self, cardinalities: Sequence[int]) -> None:
        self.cardinalities = tuple(cardinalities)

    def check(self, value: Tensor) -> Tensor:
        """Return whether each vector is in range, shape without the last dimension."""
        limits = torch.as_tensor(self.cardinalities, device=value.device)
        return ((value >= 0) & (value < limits) & (value % 1 == 0)).all(-1)


class _LogWeights(constraints.Constraint):
    """Real numbers or -inf."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Return whether all entries are finite or -inf, shape without the last dimension."""
        return (value < float("inf")).all(-1)


class CircuitDistribution(WeightedCircuit, Distribution):
    """A joint distribution over discrete variables, given by a circuit and one set of weights per batch row.

    Args:
        circuit: the structure.
        logits: unnormalised log weights, shape (*batch, circuit.num_parameters); -inf switches an edge off.
            `circuit.parameters_of(node)` tells which logits belong to a node.
        validate_args: check the logits (default) or trust them.

    Every batch shape is one call, so `torch.func.vmap` is not needed (and not supported). `torch.compile` traces
    `log_prob` with whatever calls it as one graph; other queries compile in parts.

    Raises:
        StructureError: wrong number of logits, an integer type, nan or +inf, or a node whose logits are all -inf.

    Example:
        >>> import torch, circuits
        >>> c = circuits.structures.markov_chain([2, 3, 2])
        >>> pi = circuits.CircuitDistribution(c, torch.zeros(c.num_parameters))
        >>> pi.condition({0: 1}).marginals()[1]
        tensor([0.3333, 0.3333, 0.3333])
    """

    arg_constraints = {"logits": _LogWeights()}  # pyright: ignore[reportAssignmentType]
    has_enumerate_support = True

    def __init__(
        self,
        circuit: Circuit,
        logits: Float[Tensor, "*batch parameters"],
        validate_args: bool | None = None,
    ) -> None:
        if logits.shape[-1:] != (circuit.num_parameters,):
            raise StructureError(
                f"logits have shape {tuple(logits.shape)}, but the circuit has {circuit.num_parameters} parameters: "
                "the last dimension must be circuit.num_parameters."
            )
        WeightedCircuit.__init__(self, circuit, logits)
        if validate_args or (validate_args is None and Distribution._validate_args):
            _check_logits(circuit, logits)
        Distribution.__init__(self, logits.shape[:-1], torch.Size([circuit.num_variables]), validate_args=False)
        if validate_args is not False and Distribution._validate_args:
            self._validate_args = True

    def with_circuit(self, circuit: Circuit, logits: Tensor) -> "CircuitDistribution":
        """Return a distribution on another circuit, trusting its logits (*batch, parameters) as they are."""
        other = CircuitDistribution(circuit, logits, validate_args=False)
        other._validate_args = self._validate_args
        return other

    @property
    def support(self) -> JointValues:  # type: ignore[override]
        """The joint values that the variables' cardinalities allow."""
        return JointValues(self.circuit.cardinalities)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CircuitDistribution":
        """Return the distribution with its batch shape expanded, without copying numbers."""
        shape = torch.Size(batch_shape)
        other = CircuitDistribution(
            self.circuit, self.logits.expand(*shape, self.circuit.num_parameters), validate_args=False
        )
        other._validate_args = self._validate_args
        return other

    def enumerate_support(self, expand: bool = True) -> Int[Tensor, "support *rest"]:
        """Return all joint values, last variable fastest, shape (prod of cardinalities, *batch, variables).

        Raises:
            NotTractableError: there are more than 2^22 joint values.
        """
        cardinalities = self.circuit.cardinalities
        if prod(cardinalities) > _MAX_SUPPORT:
            raise NotTractableError(
                f"there are {prod(cardinalities):,} joint values, too many to list; ask for marginals or samples."
            )
        values = torch.cartesian_prod(*(torch.arange(k, device=self.logits.device) for k in cardinalities))
        values = values.reshape(-1, *(1,) * len(self.batch_shape), len(cardinalities))
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def sample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Int[Tensor, "*shape variables"]:
        """Draw exact joint samples; see `queries.sample`."""
        return queries.sample(self, torch.Size(sample_shape), generator=generator)

    def log_prob(self, values: Int[Tensor, "*#shape variables"]) -> Float[Tensor, "*#shape"]:
        """Return the log probability of joint values; see `queries.log_prob`."""
        if self._validate_args:
            self._validate_sample(values)
        return queries.log_prob(self, values.long())

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the exact entropy in nats, or refuse; see `queries.entropy`."""
        return queries.entropy(self)

    @property
    def mode(self) -> Int[Tensor, "*batch variables"]:
        """The most probable joint value, exact or refused; see `queries.mode`."""
        return queries.mode(self).assignment

    def log_evidence(self, evidence: EvidenceLike) -> Float[Tensor, "*batch"]:
        """Return log P(evidence); see `queries.log_evidence`."""
        return queries.log_evidence(self, evidence)

    def condition(self, evidence: EvidenceLike) -> "CircuitDistribution":
        """Return the distribution given evidence; see `queries.condition`."""
        return queries.condition(self, evidence)

    def constrain(self, constraint: Circuit) -> tuple["CircuitDistribution", Float[Tensor, "*batch"]]:
        """Return the distribution given a constraint, and its log probability; see `queries.constrain`."""
        return queries.constrain(self, constraint)

    def multiply(self, other: "CircuitDistribution") -> tuple["CircuitDistribution", Float[Tensor, "*batch"]]:
        """Return the distribution proportional to both, and the log normaliser; see `queries.multiply`."""
        return queries.multiply(self, other)

    def conditionals(self, values: Int[Tensor, "*#shape variables"]) -> Float[Tensor, "*#shape variables values"]:
        """Return P(u_i = x | u_-i) for every variable and value at joint values; see `queries.conditionals`."""
        if self._validate_args:
            self._validate_sample(values)
        return queries.conditionals(self, values.long())

    def marginals(self) -> Float[Tensor, "*batch variables values"]:
        """Return every variable's marginal; see `queries.marginals`."""
        return queries.marginals(self)

    def marginal(self, variables: Sequence[int]) -> Float[Tensor, "..."]:
        """Return the joint table of some variables; see `queries.marginal`."""
        return queries.marginal(self, variables)

    def pair_marginals(self, pairs: Iterable[Sequence[int]]) -> list[Float[Tensor, "*batch first second"]]:
        """Return the joint tables of many pairs of variables in one pass; see `queries.pair_marginals`."""
        return queries.pair_marginals(self, pairs)

    def map(self) -> Best:
        """Return the most probable joint value and its log probability; see `queries.mode`."""
        return queries.mode(self)

    def m_best(self, count: int) -> Best:
        """Return the most probable joint values and their log probabilities; see `queries.m_best`."""
        return queries.m_best(self, count)

    def max_marginals(self) -> Float[Tensor, "*batch variables values"]:
        """Return log max over the others of P(u_i = x, u_-i), for all i and x; see `queries.max_marginals`."""
        return queries.max_marginals(self)

    def entropy_lower_bound(self) -> Float[Tensor, "*batch"]:
        """Return a certified lower bound of the entropy for any circuit; see `queries.entropy_lower_bound`."""
        return queries.entropy_lower_bound(self)

    def entropy_upper_bound(self) -> Float[Tensor, "*batch"]:
        """Return a certified upper bound of the entropy for any circuit; see `queries.entropy_upper_bound`."""
        return queries.entropy_upper_bound(self)

    def log_prob_variance(self) -> Float[Tensor, "*batch"]:
        """Return the variance of log p(u) for u drawn from p, in nats squared; see `queries.log_prob_variance`."""
        return queries.log_prob_variance(self)

    def expectation(self, factors: Iterable[tuple[Sequence[int], Tensor]]) -> Float[Tensor, "*batch"]:
        """Return E[sum of factor values]; see `queries.expectation`."""
        return queries.expectation(self, factors)

    def kl_divergence(self, other: "CircuitDistribution") -> Float[Tensor, "*batch"]:
        """Return KL(self || other); see `queries.kl_divergence`."""
        return queries.kl_divergence(self, other)

    def cross_entropy(self, other: "CircuitDistribution") -> Float[Tensor, "*batch"]:
        """Return -E[log q(u)] for u drawn from self and q = other; see `queries.cross_entropy`."""
        return queries.cross_entropy(self, other)

    def mutual_information(self, first: Sequence[int], second: Sequence[int]) -> Float[Tensor, "*batch"]:
        """Return how much one group tells about another, in nats; see `queries.mutual_information`."""
        return queries.mutual_information(self, first, second)

    def total_correlation(self) -> Float[Tensor, "*batch"]:
        """Return how far the variables are from independent, in nats; see `queries.total_correlation`."""
        return queries.total_correlation(self)

    def __repr__(self) -> str:
        return f"CircuitDistribution(batch_shape={tuple(self.batch_shape)}, circuit={self.circuit!r})"


def _check_logits(circuit: Circuit, logits: Tensor) -> None:
    if not logits.is_floating_point():
        raise StructureError(f"logits have type {logits.dtype}; they must be floating point.")
    if torch.isfinite(logits.sum()):
        return  # one pass: a finite sum has finite terms only
    if not (logits < float("inf")).all():
        row = (~(logits < float("inf"))).nonzero()[0].tolist()
        raise StructureError(f"logits hold nan or +inf, first at index {row}; use finite numbers or -inf.")
    for node, edges in circuit.compiled.parameter_slices.items():
        switched_off = (logits[..., edges] == NEGATIVE_INFINITY).all(-1)
        if switched_off.any():
            where = switched_off.nonzero()[0].tolist()
            raise StructureError(
                f"all logits of node {node} are -inf" + (f" in batch row {where}" if where else "") + "; "
                "one must be finite. To forbid values, use condition(evidence)."
            )


@register_kl(CircuitDistribution, CircuitDistribution)
def _kl(first: CircuitDistribution, second: CircuitDistribution) -> Tensor:  # pyright: ignore[reportUnusedFunction]
    return queries.kl_divergence(first, second)
