"""CircuitDistribution: a circuit and its numbers, as a torch.distributions.Distribution."""

from collections.abc import Sequence
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
from circuits.numerics import NEGATIVE_INFINITY
from circuits.shapes import check_values
from circuits.weights import WeightedCircuit

_MAX_SUPPORT = 1 << 22


class JointValues(constraints.Constraint):
    """Integer vectors with one value in range for each variable."""

    # torch's `independent(integer_interval(...))` cannot check an empty batch.
    is_discrete = True
    event_dim = 1

    def __init__(self, cardinalities: Sequence[int]) -> None:
        self.cardinalities = tuple(cardinalities)

    def __repr__(self) -> str:
        # torch's own cuts off the first letter of the class.
        return f"JointValues({list(self.cardinalities)})"

    def check(self, value: Tensor) -> Tensor:
        """Return whether each vector is in range, shape without the last dimension."""
        limits = torch.as_tensor(self.cardinalities, device=value.device)
        return ((value >= 0) & (value < limits) & (value % 1 == 0)).all(-1)


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

    arg_constraints = {  # pyright: ignore[reportAssignmentType]
        "logits": constraints.independent(constraints.less_than(float("inf")), 1)
    }
    has_enumerate_support = True

    def __init__(
        self,
        circuit: Circuit,
        logits: Float[Tensor, "*batch parameters"],
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(circuit, Circuit) or not isinstance(logits, Tensor):
            raise StructureError(
                f"CircuitDistribution takes a Circuit and a tensor of logits, not a {type(circuit).__name__} and a "
                f"{type(logits).__name__}."
            )
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
        return self.with_circuit(self.circuit, self.logits.expand(*batch_shape, self.circuit.num_parameters))

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
        return queries.sample(self, sample_shape, generator=generator)

    def log_prob(self, values: Int[Tensor, "*#shape variables"]) -> Float[Tensor, "*#shape"]:
        """Return the log probability of joint values; see `queries.log_prob`."""
        return queries.log_prob(self, self._checked(values))

    def conditionals(self, values: Int[Tensor, "*#shape variables"]) -> Float[Tensor, "*#shape variables values"]:
        """Return P(u_i = x | u_-i) for every variable and value at joint values; see `queries.conditionals`."""
        return queries.conditionals(self, self._checked(values))

    def _checked(self, values: Tensor) -> Tensor:
        if self._validate_args:
            check_values(values, self.circuit.cardinalities)
        return values.long()

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the exact entropy in nats, or refuse; see `queries.entropy`."""
        return queries.entropy(self)

    @property
    def mode(self) -> Int[Tensor, "*batch variables"]:
        """The most probable joint value, exact or refused; see `queries.mode`."""
        return queries.mode(self).assignment

    # A query is a function whose first argument is the distribution, so in a class it is a method as it stands.
    map = queries.mode
    m_best = queries.m_best
    max_marginals = queries.max_marginals
    marginals = queries.marginals
    marginal = queries.marginal
    pair_marginals = queries.pair_marginals
    log_evidence = queries.log_evidence
    condition = queries.condition
    constrain = queries.constrain
    multiply = queries.multiply
    expectation = queries.expectation
    expected_score = queries.expected_score
    entropy_lower_bound = queries.entropy_lower_bound
    entropy_upper_bound = queries.entropy_upper_bound
    log_prob_variance = queries.log_prob_variance
    kl_divergence = queries.kl_divergence
    cross_entropy = queries.cross_entropy
    mutual_information = queries.mutual_information
    total_correlation = queries.total_correlation

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


def check_single(distribution: CircuitDistribution, use: str) -> CircuitDistribution:
    """Return the distribution if it has no batch dimensions; `use` says what takes one row, such as "a file holds"."""
    if distribution.batch_shape:
        raise StructureError(
            f"the distribution has batch shape {tuple(distribution.batch_shape)}, and {use} one row: pass "
            "CircuitDistribution(circuit, logits[row])."
        )
    return distribution


register_kl(CircuitDistribution, CircuitDistribution)(queries.kl_divergence)
