"""Bugs in `factor_q`: wrong maxima, wrong sums, bounds on the wrong side."""

from tests.planted.bug import Bug

ENUMERATED = "tests/factor_q/elimination/test_passes.py::test_max_argmax_log_partition_and_marginals_equal_enumeration"
GRAPHS = "tests/factor_q/queries/test_random_graphs.py::test_all_queries_equal_enumeration"
BOUNDS = "tests/factor_q/approximate/test_bounds.py"

TRIANGLE = "tests/factor_q/elimination/test_triangle.py"

BUGS = (
    Bug(
        "products of matrices: what left the range counts as 0",
        "factor_q/elimination/triangle.py",
        "tiny ** 0.5).nonzero()",
        "tiny ** 9.5).nonzero()",
        (f"{TRIANGLE}::test_rows_whose_largest_terms_would_be_0_are_done_again",),
    ),
    Bug(
        "products of matrices: one side's factor is forgotten",
        "factor_q/elimination/triangle.py",
        "torch.stack(shifts).sum(0)",
        "torch.stack(shifts[1:]).sum(0)",
        (f"{TRIANGLE}::test_log_z_and_its_gradient_are_those_of_enumeration",),
    ),
    Bug(
        "products of matrices: the block in the middle is drawn without the third",
        "factor_q/elimination/triangle.py",
        "made.ab[row, first] * made.bc[row, :, third]",
        "made.ab[row, first] * made.bc[row, :, 0 * third]",
        (f"{TRIANGLE}::test_samples_have_the_probabilities_of_enumeration",),
    ),
    Bug(
        "factor_q: anything may stand in the place of factors",
        "factor_q/temperature.py",
        "    if not isinstance(factors, Tables):\n",
        "    if factors is Tables:\n",
        ("tests/factor_q/test_unusable_numbers.py::test_every_query_takes_factors",),
    ),
    Bug(
        "factor_q: evidence about a huge variable is laid out at once",
        "circuits/evidence.py",
        "    if (padded := len(cardinalities) * max(cardinalities)) > MOST_NUMBERS:\n",
        "    if (padded := len(cardinalities) * max(cardinalities)) > MOST_NUMBERS**9:\n",
        ("tests/factor_q/test_unusable_numbers.py::test_every_query_knows_what_a_variable_of_huge_cardinality_costs",),
    ),
    Bug(
        "factor_q: axes of a joined table in the order of the scope",
        "factor_q/elimination/plan.py",
        "    axes = tuple(place[variable] for variable in joined if variable in place)\n",
        "    axes = tuple(range(len(scope)))\n",
        (ENUMERATED,),
    ),
    Bug(
        "factor_q: choices are read back with the variables reversed",
        "factor_q/queries/maximum.py",
        "for variable, size in zip(step.message, step.shape[1:], strict=True):",
        "for variable, size in zip(step.message[::-1], step.shape[:0:-1], strict=True):",
        (ENUMERATED,),
    ),
    Bug(
        "factor_q: variables are read back in elimination order",
        "factor_q/queries/maximum.py",
        "zip(reversed(plan.steps), reversed(choices), strict=True)",
        "zip(plan.steps, choices, strict=True)",
        (ENUMERATED,),
    ),
    Bug(
        "factor_q: log_partition ignores the temperature",
        "factor_q/queries/log_partition.py",
        'cooled = tempered(factors, temperature, "log_partition")',
        'cooled = tempered(factors, 1.0, "log_partition")',
        (
            ENUMERATED,
            "tests/factor_q/elimination/test_passes.py::test_temperature_per_row_equals_one_row_at_a_time",
        ),
    ),
    Bug(
        "factor_q: factors are multiplied by the temperature",
        "factor_q/temperature.py",
        "return entries / scale",
        "return entries * scale",
        (ENUMERATED, "tests/factor_q/test_compile.py"),
    ),
    Bug(
        "factor_q: the temperature's gradient beside a forbidden entry is nan",
        "factor_q/temperature.py",
        "    if not scale.requires_grad:\n",
        "    if True:\n",
        ("tests/factor_q/elimination/test_passes.py::test_gradient_of_the_temperature_ignores_forbidden_entries",),
    ),
    Bug(
        "factor_q: compile lays its logits out the wrong way round",
        "factor_q/compile.py",
        "    sources[place] = torch.arange(len(place))\n",
        "    sources = place\n",
        ("tests/factor_q/test_compile.py::test_every_assignment_has_its_boltzmann_probability",),
    ),
    Bug(
        "factor_q: compile takes the tables without their messages",
        "factor_q/compile.py",
        "        views = aligned(step.terms, up.tables, up.root.shape[-1], keep=True)\n",
        "        own = tuple(term for term in step.terms if term.table < len(plan.factor_shapes))\n"
        "        views = aligned(own, up.tables, up.root.shape[-1], keep=True)\n",
        ("tests/factor_q/test_compile.py::test_every_assignment_has_its_boltzmann_probability",),
    ),
    Bug(
        "factor_q: the first variable of a UAI table changes fastest",
        "factor_q/uai/models.py",
        "    return torch.tensor(logs, dtype=torch.float64)\n",
        "    sizes = [cardinalities[variable] for variable in reversed(scope) if cardinalities[variable] > 1]\n"
        "    table = torch.tensor(logs, dtype=torch.float64).reshape(sizes)\n"
        "    return table.permute(list(reversed(range(len(sizes))))).flatten()\n",
        ("tests/factor_q/uai/test_uai.py::test_tables_are_natural_logs_and_the_last_variable_changes_fastest",),
    ),
    Bug(
        "factor_q: a second UAI table replaces the first",
        "factor_q/uai/models.py",
        "            table = total + _reordered(table, scope, first, cardinalities)\n",
        "            table = _reordered(table, scope, first, cardinalities)\n",
        ("tests/factor_q/uai/test_uai.py::test_tables_over_the_same_variables_are_added_in_any_order",),
    ),
    Bug(
        "factor_q: the memory guard lets twice as much pass",
        "factor_q/elimination/memory.py",
        "    if needed <= max_entries:\n",
        "    if needed <= 2 * max_entries:\n",
        ("tests/factor_q/elimination/test_passes.py::test_the_limit_counts_all_batch_rows_exactly",),
    ),
    Bug(
        "factor_q: the memory guard forgets the batch",
        "factor_q/queries/log_partition.py",
        "check_memory(factors, order, held(graph, order, math.prod(factors.batch_shape)), max_entries)",
        "check_memory(factors, order, held(graph, order, 1), max_entries)",
        ("tests/factor_q/elimination/test_passes.py::test_the_limit_counts_all_batch_rows_exactly",),
    ),
    Bug(
        "factor_q: nothing subtracted from an impossible part is nan",
        "factor_q/elimination/passes.py",
        "    return torch.where(possible, whole - part.masked_fill(~possible, 0.0), NEGATIVE_INFINITY)\n",
        "    return whole - part\n",
        (GRAPHS,),
    ),
    Bug(
        "factor_q: samples are drawn in elimination order",
        "factor_q/queries/sample.py",
        "    for step in reversed(plan.steps):\n",
        "    for step in plan.steps:\n",
        (GRAPHS,),
    ),
    Bug(
        "factor_q: a cutset adds up only its best assignment",
        "factor_q/queries/log_partition.py",
        "return logsumexp(over_assignments(cooled, fixed, part, held, order=order, max_entries=max_entries), 0)",
        "return over_assignments(cooled, fixed, part, held, order=order, max_entries=max_entries).amax(0)",
        ("tests/factor_q/elimination/test_cutset.py::test_any_cutset_gives_the_same_answers",),
    ),
    Bug(
        "factor_q: power norms are sums",
        "factor_q/approximate/bounds/mini_bucket.py",
        "powered = (joint.masked_fill(blocked, 0.0) / weight)",
        "powered = joint.masked_fill(blocked, 0.0)",
        (f"{BOUNDS}::test_mini_buckets_bound_from_above",),
    ),
    Bug(
        "factor_q: shifts between mini-buckets do not cancel",
        "factor_q/approximate/bounds/mini_bucket.py",
        "        moved = shift[mini] - shift.mean(0)\n",
        "        moved = shift[mini]\n",
        (BOUNDS,),
    ),
    Bug(
        "factor_q: shares of the forests do not make up the model",
        "factor_q/approximate/bounds/tree_reweighted.py",
        "    edges = (moved / appearance).masked_fill(blocked, -torch.inf)\n",
        "    edges = moved.masked_fill(blocked, -torch.inf)\n",
        (f"{BOUNDS}::test_tree_reweighted_bounds_from_above_at_every_iterate",),
    ),
    Bug(
        "factor_q: what an edge gives is not taken from it",
        "factor_q/approximate/bounds/tree_reweighted.py",
        "- first.unsqueeze(-1) - second.unsqueeze(-2)",
        "- first.unsqueeze(-1)",
        (f"{BOUNDS}::test_tree_reweighted_bounds_from_above_at_every_iterate",),
    ),
    Bug(
        "factor_q: an observed variable stays in the scopes",
        "factor_q/queries/condition.py",
        "    chosen = tuple(fixed.nonzero().flatten().tolist())\n",
        "    chosen = tuple(fixed.nonzero().flatten().tolist())[:-1]\n",
        ("tests/factor_q/queries/test_condition.py",),
    ),
    Bug(
        "factor_q: what one row observes is cut out of all rows",
        "factor_q/queries/condition.py",
        "fixed = (allowed.sum(-1) == 1).all(rows) if rows",
        "fixed = (allowed.sum(-1) == 1).any(rows) if rows",
        (GRAPHS, "tests/factor_q/queries/test_condition.py"),
    ),
    Bug(
        "factor_q: all rows are conditioned on the values of the first",
        "factor_q/elimination/fix.py",
        "        positions = layout.base + _shift(layout, values)\n",
        "        positions = layout.base + _shift(layout, values.flatten(0, -2)[:1].expand_as(values))\n",
        ("tests/factor_q/queries/test_condition.py",),
    ),
    Bug(
        "factor_q: a sum of factors replaces tables instead of adding them",
        "factor_q/tables.py",
        ".to(dtype).index_add(-1, positions, theirs.to(dtype))",
        ".to(dtype).index_copy(-1, positions, theirs.to(dtype))",
        ("tests/factor_q/test_factors.py",),
    ),
    Bug(
        "factor_q: a critic's tables are handed to the wrong factors",
        "factor_q/heads.py",
        "torch.tensor(produced, dtype=torch.long).argsort()",
        "torch.tensor(produced, dtype=torch.long)",
        ("tests/factor_q/test_critic.py",),
    ),
    Bug(
        "factor_q: nan and +inf are looked for in approximations only",
        "factor_q/temperature.py",
        "bool(flat.amax() < math.inf)",
        "bool(flat.amin() < math.inf)",
        ("tests/factor_q/test_unusable_numbers.py",),
    ),
    Bug(
        "factor_q: entries overflow at a low temperature",
        "factor_q/temperature.py",
        "largest / lowest > torch.finfo(entries.dtype).max",
        "largest / lowest == math.inf",
        ("tests/factor_q/test_unusable_numbers.py",),
    ),
    Bug(
        "factor_q: the order of a symmetric pair is ignored",
        "factor_q/heads.py",
        "torch.arange(size).reshape(shape).t().flatten() if both_orders",
        "torch.arange(size) if both_orders",
        ("tests/spnpolicy/networks/test_exchangeable.py::test_symmetric_tables_are_the_mean_over_both_orders",),
    ),
    Bug(
        "factor_q: relations of the first order serve both",
        "factor_q/heads.py",
        "found = relate(self.agents[0], self.agents[1])",
        "found = relate(self.agents.amin(0), self.agents.amax(0))",
        ("tests/spnpolicy/networks/test_exchangeable.py::test_permuted_agents_have_permuted_tables",),
    ),
)
