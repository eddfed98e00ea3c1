"""Payoff tables: the games of the literature by name, and checks of a table of one's own."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import permutations, product

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.options import checked_discount, one_of

Cell = tuple[float, float]
Cells = tuple[tuple[tuple[float, ...], ...], ...]
"""Rows of cells as in a textbook; a cell holds what each agent is paid."""

COMMON_GAMES: dict[str, tuple[tuple[float, ...], ...]] = {
    "climbing": ((11, -30, 0), (-30, 7, 0), (0, 6, 5)),
    "penalty": ((-100, 0, 10), (0, 2, 0), (10, 0, -100)),
    "linear": ((1, 5), (5, 9)),
    "monotonic": ((0, 0), (0, 10)),
    "bad_basin": ((0, -5), (-5, 10)),
    "diagonal": ((10, 0), (0, 10)),
    "qtran": ((8, -12, -12), (-12, 0, 0), (-12, 0, 0)),
}
"""Games in which all agents are paid the same: agent 0 chooses the row, agent 1 the column."""
GENERAL_GAMES: dict[str, Cells] = {
    "stag_hunt": (((4, 4), (0, 3)), ((3, 0), (2, 2))),
    "prisoners_dilemma": (((3, 3), (0, 5)), ((5, 0), (1, 1))),
    "chicken": (((6, 6), (2, 7)), ((7, 2), (0, 0))),
    "battle_of_sexes": (((2, 1), (0, 0)), ((0, 0), (1, 2))),
    "matching_pennies": (((1, -1), (-1, 1)), ((-1, 1), (1, -1))),
    "rock_paper_scissors": (((0, 0), (-1, 1), (1, -1)), ((1, -1), (0, 0), (-1, 1)), ((-1, 1), (1, -1), (0, 0))),
}
"""Games in which each agent has payoffs of its own: (row agent's, column agent's).

Sources: Axelrod 1984 (prisoners_dilemma), Aumann 1974 (chicken), Osborne & Rubinstein 1994 (battle_of_sexes).
"""
GAMES = (*COMMON_GAMES, *GENERAL_GAMES)
"""All names but those of `ordinal_games`."""
_ORDINAL_NAME = re.compile(r"(no_conflict|conflict)_(.*)")
_RANKS = (1, 2, 3, 4)


def named_payoffs(owner: str, game: object) -> Float[np.ndarray, "*actions agents"]:
    """Return the payoffs of a game of the literature, an axis per agent and then one over agents.

    Args:
        owner: name of the environment, for the message.
        game: one of `GAMES`, or a key of `ordinal_games`.

    Raises:
        ConfigError: there is no such game; the message names the nearest one.
    """
    ordinal = _ORDINAL_NAME.fullmatch(game) if isinstance(game, str) else None
    if ordinal is not None:
        found = ordinal_games().get(ordinal.string)
        if found is None:
            last = max(int(name.rpartition("_")[2]) for name in ordinal_games() if name.startswith(ordinal[1]))
            raise ConfigError(f"{owner}: there is no game {game!r}; they are {ordinal[1]}_1 .. {ordinal[1]}_{last}.")
        return np.array(found, float)
    name = one_of(owner, "game", game, GAMES)
    if name in GENERAL_GAMES:
        return np.array(GENERAL_GAMES[name], float)
    return for_all_agents(np.array(COMMON_GAMES[name], float))


@cache
def ordinal_games() -> dict[str, Cells]:
    """Return the 78 games of two agents with two actions and strictly ranked outcomes.

    Payoffs are ranks, 4 is best. Games that differ only in the names of actions and agents count once. In the 21
    games "no_conflict_1", ... both agents like the same outcome best, in the 57 games "conflict_1", ... they do not.
    Numbers follow the lexicographic order of the tables, largest first; published lists number them otherwise.

    Source: Rapoport & Guyer 1966.
    """
    tables = {
        max(_renamed(*zip(rows, columns, strict=True))) for rows, columns in product(permutations(_RANKS), repeat=2)
    }
    best = (max(_RANKS),) * 2
    games: dict[str, Cells] = {}
    for kind, is_wanted in (("no_conflict", True), ("conflict", False)):
        kept = [table for table in sorted(tables, reverse=True) if (best in table) == is_wanted]
        games |= {f"{kind}_{number}": ((a, b), (c, d)) for number, (a, b, c, d) in enumerate(kept, 1)}
    return games


def _renamed(a: Cell, b: Cell, c: Cell, d: Cell) -> list[tuple[Cell, Cell, Cell, Cell]]:
    """Return the eight tables that are rows (a, b), (c, d) with other names of actions and agents."""
    mirrored = tuple((second, first) for first, second in (a, c, b, d))
    return [
        order
        for p, q, r, s in ((a, b, c, d), mirrored)
        for order in ((p, q, r, s), (q, p, s, r), (r, s, p, q), (s, r, q, p))
    ]


def for_all_agents(payoff: Float[np.ndarray, "..."]) -> Float[np.ndarray, "*actions agents"]:
    """Show a common table, with an axis per agent, as the payoffs of each agent, without a copy."""
    return np.broadcast_to(payoff[..., None], (*payoff.shape, payoff.ndim))


def checked_table(owner: str, option: str, payoff: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return a table of payoffs, with at least one axis and finite numbers, as a float array of our own.

    Raises:
        ConfigError: it is not such a table; the message has the names of environment (owner) and option.
    """
    try:
        table = np.array(payoff, float)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{owner}: {option} is not a table of numbers: {error}.") from error
    if table.ndim == 0 or table.size == 0:
        raise ConfigError(f"{owner}: {option} has shape {table.shape}; it needs an axis with actions per agent.")
    if not np.isfinite(table).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(table))[0])
        raise ConfigError(f"{owner}: {option} at {where} is {table[where]}; it must be finite.")
    return table


def checked_cells(owner: str, option: str, payoffs: ArrayLike) -> Float[np.ndarray, "*actions agents"]:
    """Return a table with an axis per agent and then one over agents as a float array of our own.

    Raises:
        ConfigError: it is not such a table; see `checked_table`.
    """
    table = checked_table(owner, option, payoffs)
    if table.shape[-1] != table.ndim - 1:
        raise ConfigError(
            f"{owner}: {option} has shape {table.shape}: {table.ndim - 1} axes with actions, but {table.shape[-1]} "
            "numbers for each joint action. Give one for each agent, or use payoff= if all are paid the same."
        )
    return table


def discounted_sum(owner: str, payments: Sequence[float], discount: float) -> float:
    """Return the sum of discount^t times payment t, with t = 0 for the first step.

    Raises:
        ConfigError: the discount is outside [0, 1].
    """
    return float(np.dot(payments, np.power(checked_discount(owner, discount), np.arange(len(payments)))))
