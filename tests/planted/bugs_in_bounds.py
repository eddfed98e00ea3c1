"""Bugs in exact bounds, shared encoders and what else joint policies learn by."""

from tests.planted.bug import Bug

SPN_AC = "tests/spnpolicy/algorithms/test_spn_ac.py"
SCORE = "tests/circuits/test_expected_score.py"
BOUNDS = "tests/spnpolicy/parts/test_bounds.py"
RECTIFIED = "tests/spnpolicy/parts/test_rectified_adam.py"

BUGS = (
    Bug(
        "expected_score: an edge is compared with nothing",
        "circuits/engine/scores.py",
        "                edges -= means.unsqueeze(2)\n",
        "",
        (f"{SCORE}::test_gradients_to_logits_and_scores",),
    ),
    Bug(
        "expected_score: a sum that is hardly used learns as much as any other",
        "circuits/engine/scores.py",
        "used = flows(compiled, weights) * gradient",
        "used = torch.ones_like(flows(compiled, weights)) * gradient",
        (f"{SCORE}::test_gradients_to_logits_and_scores",),
    ),
    Bug(
        "expected_score: an edge that is switched off makes nan",
        "circuits/engine/scores.py",
        "log_weights.clamp_min(_LEAST_LOG)",
        "log_weights",
        (f"{SCORE}::test_edges_that_are_switched_off_earn_nothing_and_learn_nothing",),
    ),
    Bug(
        "expected_score: circuits that are not deterministic get an answer",
        "circuits/queries/expected_score.py",
        "    require_deterministic(",
        "    (lambda *_: None)(",
        (f"{SCORE}::test_what_it_refuses",),
    ),
    Bug(
        "exact bound: tables that no edge decides are left out",
        "spnpolicy/parts/bounds.py",
        "if not len(self.entries):",
        "if len(self.entries):",
        (BOUNDS,),
    ),
    Bug(
        "exact bound: the value of the state is left out",
        "spnpolicy/parts/bounds.py",
        "if self._constant is not None:",
        "if self._constant is None:",
        (BOUNDS,),
    ),
    Bug(
        "logits of tables: the gradient goes to the wrong entries",
        "spnpolicy/networks/potentials.py",
        "*_grouped(edges, entries, graph.num_entries))",
        "*_grouped(edges, entries[::-1], graph.num_entries))",
        ("tests/spnpolicy/networks/test_policy.py", "tests/spnpolicy/networks/test_potentials.py"),
    ),
    Bug(
        "RAdam: full steps from the start",
        "spnpolicy/parts/rectified_adam.py",
        "if seen <= 5.0:\n        return 0.0",
        "if seen <= 5.0:\n        return 1.0",
        (RECTIFIED,),
    ),
    Bug(
        "RAdam: the share of a step stays in the step size",
        "spnpolicy/parts/rectified_adam.py",
        'group["lr"] = size\n',
        "pass\n",
        (RECTIFIED,),
    ),
    Bug(
        "spn_ac: entropy counts on the way whatever the setting says",
        "spnpolicy/algorithms/spn_ac.py",
        'counts = config.trace > 0.0 and config.entropy_counts == "at_every_step"',
        "counts = config.trace > 0.0",
        (f"{SPN_AC}::test_entropy_counts_at_every_step_or_where_a_return_bootstraps",),
    ),
    Bug(
        "spn_ac: a policy that shares the encoder teaches the critic's",
        "spnpolicy/algorithms/spn_ac.py",
        "seen = (observation, judged.codes.detach())",
        "seen = (observation, judged.codes)",
        (f"{SPN_AC}::test_a_shared_encoder_learns_from_the_critic_alone_and_is_run_once",),
    ),
    Bug(
        "solvers: the soft value is log Z itself",
        "spnpolicy/parts/solvers.py",
        "return self._temperature * self._q.log_partition",
        "return self._q.log_partition",
        ("tests/spnpolicy/parts/test_solvers.py::test_the_exact_solver_is_the_boltzmann_policy",),
    ),
)
