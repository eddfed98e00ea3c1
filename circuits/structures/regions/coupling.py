"""Couplings between variables: how strong each pair is, and orders that keep strong pairs near."""

from collections.abc import Iterable, Sequence

import numpy as np

from circuits.errors import StructureError


def coupling_of(count: int, scopes: Iterable[Sequence[int]] | None, strengths: Sequence[float] | None) -> np.ndarray:
    """Return for each pair of variables the strengths of the scopes that they share, added up.

    Args:
        count: number of variables.
        scopes: sets of variables that interact; all pairs when None.
        strengths: one number from 0 per scope; ones when None.

    Raises:
        StructureError: a scope names an unknown variable, or the strengths do not fit the scopes.
    """
    if scopes is None:
        if strengths is not None:
            raise StructureError("keep_set: strengths belong to scopes; give the scopes too.")
        return np.ones((count, count)) - np.eye(count)
    scopes = [tuple(scope) for scope in scopes]
    strengths = [1.0] * len(scopes) if strengths is None else list(strengths)
    if len(strengths) != len(scopes) or not all(0 <= strength < np.inf for strength in strengths):
        raise StructureError(f"keep_set: strengths must be {len(scopes)} finite numbers from 0, one per scope.")
    weights = np.zeros((count, count))
    for scope, strength in zip(scopes, strengths, strict=True):
        for variable in scope:
            if not 0 <= variable < count:
                raise StructureError(f"keep_set: scope {scope} names variable {variable}, of {count}.")
        members = np.array(sorted(set(scope)), dtype=np.int64)
        weights[np.ix_(members, members)] += strength
    np.fill_diagonal(weights, 0)
    return weights


def spectral_order(coupling: np.ndarray) -> list[int]:
    """Order variables along the second eigenvector of the Laplacian, so that coupled ones are near."""
    laplacian = np.diag(coupling.sum(0)) - coupling
    # Equal couplings (a ring, all pairs) give equal eigenvalues, for which any rotation of the vectors is an answer:
    # the order would differ from machine to machine. A tiny slope along the index makes one answer the best.
    slope = np.linspace(0, 1, len(coupling))
    _, vectors = np.linalg.eigh(laplacian + 1e-6 * np.diag(slope))
    fiedler = vectors[:, min(1, len(coupling) - 1)]
    # An eigenvector's sign is free too; and rounding hides the last digits, which differ between machines.
    if fiedler @ (slope - slope.mean()) < 0:
        fiedler = -fiedler
    return np.argsort(np.round(fiedler, 6), kind="stable").tolist()


def boundary_order(coupling: np.ndarray) -> list[int]:
    """Order variables so that the set placed so far has few variables coupled to the rest, greedily."""
    count = len(coupling)
    neighbours = [np.flatnonzero(row) for row in coupling > 0]
    degree = np.array([len(near) for near in neighbours])
    placed = np.zeros(count, dtype=np.bool_)
    # Of each variable: links to variables not placed, links to placed ones, and how many of the latter it would close.
    open_links, touches, closes = degree.copy(), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    closable = np.zeros(count, dtype=np.bool_)
    order: list[int] = []
    for _ in range(count):
        # Placing v adds v to the boundary unless it has no open links, and closes those whose last link it was.
        growth = (open_links > 0) - closes
        # Smallest growth, then most links to placed ones, then smallest degree, as the digits of one number; the fields
        # are at most `count`, so none carries over into the next.
        rank = (growth * (count + 1) - touches) * (count + 1) + degree
        best = int(np.where(placed, np.iinfo(np.int64).max, rank).argmin())
        placed[best] = True
        order.append(best)
        open_links[neighbours[best]] -= 1
        touches[neighbours[best]] += 1
        # A placed variable with one open link left will leave the boundary when that neighbour is placed. Only `best`
        # and its neighbours can have come to that or gone past it, so each step costs their degrees and not the whole
        # graph.
        for variable in (*neighbours[best].tolist(), best):
            now = bool(placed[variable] and open_links[variable] == 1)
            if now != closable[variable]:
                closes[neighbours[variable]] += 1 if now else -1
                closable[variable] = now
    return order
