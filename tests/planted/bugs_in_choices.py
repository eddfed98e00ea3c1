"""Bugs in actions that are things, in congestion, in Muon, and in the programs about them."""

from tests.planted.bug import Bug

CONGESTION = "tests/factor_q/test_congestion.py"
CHOICES = "tests/spnpolicy/networks/test_choices.py"
MUON = "tests/spnpolicy/parts/test_muon.py"
PROGRAMS = "tests/test_scale_benchmarks.py"
EXCHANGEABLE = "tests/spnpolicy/networks/test_exchangeable.py"
ASSIGNMENT = "tests/spnpolicy/envs/games/test_assignment_game.py"

BUGS = (
    Bug(
        "congestion: an agent meets itself",
        "factor_q/congestion/game.py",
        "- weighted.square().sum((-1, -2, -3))) / 2",
        ") / 2",
        (f"{CONGESTION}::test_what_pairs_take_is_the_mean_over_all_joint_actions",),
    ),
    Bug(
        "congestion: who chooses nothing meets those at the last thing",
        "factor_q/congestion/game.py",
        "place = actions.clamp_max(shown)",
        "place = actions.clamp_max(shown - 1)",
        (f"{CONGESTION}::test_values_are_sums_over_all_pairs",),
    ),
    Bug(
        "congestion: an agent that takes its turn still counts itself",
        "factor_q/congestion/turns.py",
        " - before\n            score =",
        "\n            score =",
        (f"{CONGESTION}::test_no_agent_alone_can_do_better_than_its_independent_policy",),
    ),
    Bug(
        "congestion: the last sweep is at the warm temperature",
        "factor_q/congestion/game.py",
        "** ((sweep + 1) / sweeps)",
        "** (sweep / sweeps)",
        (f"{CONGESTION}::test_even_a_single_sweep_ends_at_the_temperature_that_is_asked_for",),
    ),
    Bug(
        "choices: tables of pairs know no order of agents",
        "factor_q/heads.py",
        "first, second = (shown[:, agents] for agents in self.scopes)",
        "second, first = (shown[:, agents] for agents in self.scopes)",
        (f"{CHOICES}::test_rows_of_a_pairs_table_are_the_actions_of_its_first_agent",),
    ),
    Bug(
        "choices: a pair does not see that both choose the same thing",
        "factor_q/heads.py",
        "return (tables + meeting)",
        "return tables",
        (f"{CHOICES}::test_a_pairs_table_sees_whether_both_choose_the_same_thing",),
    ),
    Bug(
        "choices: every agent gives as much as the whole team",
        "factor_q/heads.py",
        "shown = self.head(codes) / agents",
        "shown = self.head(codes)",
        (f"{CHOICES}::test_what_one_agent_gives_is_its_share_of_the_mean_over_agents",),
    ),
    Bug(
        "choices: units of agents and things change places",
        "spnpolicy/networks/exchangeable.py",
        "units = edges[part].units.permute(2, 0, 1, 3)\n        things",
        "units = edges[part].units.permute(2, 0, 1, 3).flip(-2)\n        things",
        (CHOICES,),
    ),
    Bug(
        "choices: agents of different rows meet",
        "spnpolicy/networks/exchangeable.py",
        "return things.permute(1, 2, 0) * len(rows) + torch.arange(len(rows), device=rows.device)",
        "return things.permute(1, 2, 0)",
        (f"{EXCHANGEABLE}::test_things_that_every_agent_sees_in_an_order_of_its_own_are_told_apart_by_number",),
    ),
    Bug(
        "choices: two agents meet at a place in their orders instead of at a thing",
        "factor_q/heads.py",
        "meeting = meeting * (here.unsqueeze(-1) == there.unsqueeze(-2))",
        "meeting = meeting * torch.eye(here.shape[-1])",
        (f"{CHOICES}::test_things_in_an_order_of_each_agents_own_are_valued_alike",),
    ),
    Bug(
        "congestion: agents meet at places in their orders instead of at things",
        "factor_q/congestion/game.py",
        "place = self.things.flatten(-2).unsqueeze(-1).expand_as(rows)",
        "place = self.things.sort(-1).values.flatten(-2).unsqueeze(-1).expand_as(rows)",
        (f"{CONGESTION}::test_what_pairs_take_is_the_mean_over_all_joint_actions",),
    ),
    Bug(
        "coverage: agents who see the nearest goals see claimed ones among them",
        "spnpolicy/envs/coverage/board.py",
        "order = (far + 2 * self.size * board.goal_flags[:, None])",
        "order = far",
        (
            "tests/spnpolicy/envs/coverage/test_coverage_rules.py::"
            "test_agents_who_see_the_nearest_goals_see_free_ones_first_and_by_number",
        ),
    ),
    Bug(
        "assignment_game: an idle agent does the last task that it sees",
        "spnpolicy/envs/games/assignment_game.py",
        "return np.where(actions < seen, chosen, self.tasks)",
        "return chosen",
        (f"{ASSIGNMENT}::test_agents_who_see_their_best_tasks_only_choose_among_these",),
    ),
    Bug(
        "choices: rivalry is allowed where agents choose together",
        "spnpolicy/algorithms/spn_ac.py",
        'if self.rivalry and (self.structure != "mean_field" or',
        'if False and (self.structure != "mean_field" or',
        (f"{CHOICES}::test_what_does_not_fit_is_refused",),
    ),
    Bug(
        "mean field: greedy play is as warm as learning",
        "spnpolicy/algorithms/mean_field.py",
        "GREEDY = 0.03",
        "GREEDY = 3.0",
        (
            "tests/spnpolicy/algorithms/test_mean_field.py::"
            "test_with_rivalry_agents_learn_to_divide_tasks_and_a_larger_team_knows_it_at_once",
        ),
    ),
    Bug(
        "Muon: matrices on their side are turned another way",
        "spnpolicy/parts/muon.py",
        "return matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT",
        "return matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.flip(-1).mT",
        (MUON,),
    ),
    Bug(
        "Muon: gradients that are only rounding make nan of weights",
        "spnpolicy/parts/muon.py",
        ".clamp_min(LEAST_NORM)",
        ".clamp_min(torch.finfo(matrix.dtype).tiny)",
        (f"{MUON}::test_gradients_that_are_only_rounding_move_little_and_stay_finite",),
    ),
    Bug(
        "Muon: the momentum is forgotten",
        "spnpolicy/parts/muon.py",
        "matrix.grad.lerp(mean, MOMENTUM)",
        "matrix.grad.lerp(mean, 0.0)",
        (f"{MUON}::test_steps_are_those_of_torch_on_single_matrices",),
    ),
    Bug(
        "Muon: vectors stay where they are",
        "spnpolicy/parts/muon.py",
        'if not group["orthogonal"]]\n        try:',
        'if group["orthogonal"] is None]\n        try:',
        (f"{MUON}::test_what_is_no_matrix_descends_by_radam_and_what_has_no_gradient_stays",),
    ),
    Bug(
        "scale: breakdowns of the blind are played through",
        "benchmarks/breakdowns.py",
        "return np.where(allowed, actions, STAY)",
        "return actions",
        (f"{PROGRAMS}::test_broken_agents_are_counted_and_the_blind_ones_stay",),
    ),
    Bug(
        "scale: the oracle walks through the goals of others",
        "benchmarks/breakdowns.py",
        "max(clear or ways, default=(0, STAY, ()))",
        "max(ways, default=(0, STAY, ()))",
        (f"{PROGRAMS}::test_the_oracle_plays_as_well_as_can_be_where_nothing_breaks_and_always_succeeds",),
    ),
)
