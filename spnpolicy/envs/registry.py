"""The registered environments. To add one: its own file, a line here, a row in the contract tests.

Names only: what lists them must not wait for NumPy.
"""

ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "assignment_game": (
        "spnpolicy.envs.games.assignment_game:AssignmentGame",
        "agents divide tasks among themselves, a task pays once; exact optimum, 100 agents and more",
    ),
    "coverage": (
        "spnpolicy.envs.coverage.coverage:Coverage",
        "agents on a grid share one reward when together they have reached all goals",
    ),
    "foraging": (
        "spnpolicy.envs.foraging.lbforaging:Foraging",
        "agents collect food that is too heavy for one of them (package lbforaging)",
    ),
    "foraging_arrays": (
        "spnpolicy.envs.foraging.arrays:ForagingArrays",
        "the same rules as array operations, for long training; needs no other package",
    ),
    "matrix_game": (
        "spnpolicy.envs.games.matrix_games:MatrixGame",
        "joint actions paid from a table, once or in rounds (climbing, penalty, stag_hunt, ...)",
    ),
    "two_step": (
        "spnpolicy.envs.games.two_step:TwoStep",
        "a first action chooses which of two tables is played; the better one needs coordination",
    ),
}
"""Name -> (module:class, one-line description). Classes are imported when they are first made."""

PETTINGZOO = "pettingzoo:"
PREFIXES: dict[str, str] = {
    PETTINGZOO: "any PettingZoo ParallelEnv by its module, such as pettingzoo:mpe2.simple_spread_v3",
}
"""Beginnings of names that are not registered -> one-line description."""
