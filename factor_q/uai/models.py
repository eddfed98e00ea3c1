"""Read and write models in the UAI format of the inference competitions: tables as natural log-potentials."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from circuits.errors import StructureError
from circuits.files import replace_file
from factor_q.factors import Factors
from factor_q.graph import FactorGraph, Scope
from factor_q.uai.numbers import fault, is_writable, logs_of, word_of
from factor_q.uai.words import Words, file_text

_MAX_CARDINALITY = 1 << 24
"""Most values of one variable; also of a variable without tables, which costs no text."""
_MAX_ENTRIES = 1 << 31
"""Entries of one table; more than can stand in a file that is read."""
_KINDS = ("MARKOV", "BAYES")


def read_uai(path: str | os.PathLike[str]) -> Factors:
    """Read a model from a .uai file; see `parse_uai`.

    Raises:
        FormatError: the file breaks the format; the message gives file, line and column.
        OSError: the file cannot be read.
    """
    return parse_uai(*file_text(path))


def parse_uai(text: str, name: str = "<text>") -> Factors:
    """Return the model that a text in the UAI format describes: f(u) = sum of log(entry), so exp f is its product.

    MARKOV or BAYES; number of variables; their numbers of values; number of tables; for each table its number of
    variables and which; for each table its number of entries and these, the last variable changing fastest. Any white
    space separates words. Comments run from # to the end of the line, or are lines that begin with c. A zero becomes
    -inf. Tables over the same set of variables, in any order, are added to the first of them.

    Args:
        text: the whole file; at most as many tables and entries are believed in as can follow.
        name: how messages call the file.

    Returns:
        Factors in float64 without a batch. An entry is rounded to float64 before its logarithm is taken, unless that
        would lose something: see `factor_q.uai.numbers.logs_of`.

    Raises:
        FormatError: the text breaks the format; the message gives name, line and column.
    Cost: one pass; memory for the text, one table of words, and the entries.
    Source: the file format of the UAI 2008 to 2022 inference evaluations; comments as in 2016 and as other programs do.

    Example:
        >>> f = parse_uai("MARKOV 2  2 2  2  1 0  2 0 1   2 0.5 0.5   4 1 0 1 1")
        >>> f.graph.scopes, f.log_partition().exp().item()
        (((0,), (0, 1)), 1.5)
    """
    words = Words(text.removeprefix("\ufeff"), name, _KINDS)
    cardinalities = _read_cardinalities(words)
    scopes = list(_read_scopes(words, len(cardinalities)))
    merged: dict[frozenset[int], tuple[Scope, Tensor]] = {}
    for factor, scope in enumerate(scopes):
        table = _read_table(words, factor, scope, cardinalities)
        variables = frozenset(scope)
        if variables in merged:
            first, total = merged[variables]
            table = total + _reordered(table, scope, first, cardinalities)
            scope = first
        merged[variables] = (scope, table)
    words.end()
    graph = FactorGraph(cardinalities, [scope for scope, _ in merged.values()])
    tables = [table for _, table in merged.values()]
    return Factors.from_flat(graph, torch.cat([torch.empty(0, dtype=torch.float64), *tables]))


def write_uai(path: str | os.PathLike[str], factors: Factors, *, comment: str | None = None) -> None:
    """Write a model to a .uai file, as `uai_text` describes; a crash leaves the old file or the new one.

    Raises:
        StructureError: as in `uai_text`; then nothing is written.
    """
    replace_file(Path(path), uai_text(factors, comment=comment).encode())


def uai_text(factors: Factors, *, comment: str | None = None) -> str:
    """Return a model in the UAI format: MARKOV, entries exp(log-potential), -inf as 0.

    `parse_uai` gives the same numbers back, every bit of them (as float64). For that an entry near 1 has more than 17
    digits where its logarithm needs them; other programs read the nearest float64.

    Args:
        factors: one model, without a batch.
        comment: text for the top of the file, in lines that begin with "c". Some programs do not skip comments, and
            toulbar2 1.4 then reads a model without variables; leave it out for them.

    Raises:
        StructureError: the factors have a batch, an entry is nan or +inf, or the exponential of an entry is beyond the
            range of float64, where other programs would read 0 or infinity; the message names it.

    Example:
        >>> print(uai_text(parse_uai("MARKOV 1 2 1 1 0 2 0.5 0")), end="")
        MARKOV
        1
        2
        1
        1 0
        <BLANKLINE>
        2
        0.5 0
    """
    if factors.batch_shape:
        raise StructureError(
            f"write_uai: the factors have batch shape {tuple(factors.batch_shape)}, but a UAI file holds one model. "
            "Write one row: Factors.from_flat(f.graph, f.flat[row])."
        )
    graph = factors.graph
    logs: list[float] = factors.flat.detach().double().tolist()
    known = {log: word_of(log) if is_writable(log) else "" for log in set(logs)}
    lines = [f"c {line}" for line in (comment or "").splitlines()]
    lines += ["MARKOV", str(graph.num_variables), " ".join(map(str, graph.cardinalities)), str(graph.num_factors)]
    lines += [" ".join(map(str, (len(scope), *scope))) for scope in graph.scopes]
    for factor, (start, size) in enumerate(zip(graph.offsets, graph.table_sizes, strict=True)):
        entries = [known.get(log, "") for log in logs[start : start + size]]
        if "" in entries:
            _refuse(graph, factor, entries.index(""), logs[start + entries.index("")])
        lines += ["", str(size), " ".join(entries)]
    return "\n".join(lines) + "\n"


def _read_cardinalities(words: Words) -> list[int]:
    """Read the number of variables and the number of values of each."""
    count = words.integer("the number of variables")
    start = words.taken
    cardinalities = words.integers(count, "the number of values of a variable")
    for variable, cardinality in enumerate(cardinalities):
        if not 1 <= cardinality <= _MAX_CARDINALITY:
            words.fail(
                start + variable,
                f"variable {variable} has {cardinality:,} values; it must have 1 to {_MAX_CARDINALITY:,}.",
            )
    return cardinalities


def _read_scopes(words: Words, num_variables: int) -> Iterator[Scope]:
    """Read the number of tables and the variables of each."""
    count = words.integer("the number of factors")
    if 2 * count > words.left:  # a constant takes least: the number of its variables, and that of its entries
        words.fail(words.taken - 1, f"{count:,} factors cannot be described by the {words.left:,} words that follow.")
    for factor in range(count):
        arity = words.integer(f"the number of variables of factor {factor}")
        if arity > num_variables:
            words.fail(
                words.taken - 1, f"factor {factor} has {arity:,} variables, but the model has {num_variables:,}."
            )
        start = words.taken
        scope = tuple(words.integers(arity, f"a variable of factor {factor}"))
        seen: set[int] = set()
        for i, variable in enumerate(scope):
            if variable >= num_variables:
                words.fail(
                    start + i,
                    f"factor {factor} names variable {variable}, but the variables are 0 to {num_variables - 1}.",
                )
            if variable in seen:
                words.fail(start + i, f"factor {factor} names variable {variable} twice.")
            seen.add(variable)
        yield scope


def _read_table(words: Words, factor: int, scope: Scope, cardinalities: list[int]) -> Tensor:
    """Read the entries of a table, flat, as logarithms."""
    size = 1
    for variable in scope:
        size = min(size * cardinalities[variable], _MAX_ENTRIES)  # else a long scope would make a number of any length
    count = words.integer(f"the number of entries of factor {factor}")
    if count != size or size == _MAX_ENTRIES:
        over = ", ".join(map(str, scope[:20])) + ", ..." * (len(scope) > 20) or "none"
        least = "at least " * (size == _MAX_ENTRIES)
        words.fail(
            words.taken - 1,
            f"factor {factor} lists {count:,} entries, but its scope (variables {over}) needs {least}{size:,}.",
        )
    start = words.taken
    block = words.take(size, f"the entries of factor {factor}")
    try:
        logs = logs_of(block)
    except ValueError:
        index, problem = next((i, found) for i, word in enumerate(block) if (found := fault(word)))
        words.fail(start + index, f"factor {factor}: {problem}")
    return torch.tensor(logs, dtype=torch.float64)


def _reordered(table: Tensor, scope: Scope, wanted: Scope, cardinalities: list[int]) -> Tensor:
    """Return a flat table with the axes of `scope` in the order of `wanted`; axes of one value play no part."""
    axes = [variable for variable in scope if cardinalities[variable] > 1]
    order = [axes.index(variable) for variable in wanted if cardinalities[variable] > 1]
    return table.reshape([cardinalities[variable] for variable in axes]).permute(order).flatten()


def _refuse(graph: FactorGraph, factor: int, index: int, log: float) -> None:
    """Raise for an entry that no number in the file can stand for."""
    if math.isfinite(log):
        problem = "whose exponential is beyond the range of float64"
        remedy = "Subtract a constant from the table and keep it elsewhere, or forbid the entry with -inf."
    else:
        problem, remedy = "but entries must be finite, or -inf", "Look for where it came from."
    raise StructureError(
        f"write_uai: entry {index} of factor {factor} over variables {graph.scopes[factor]} is {log!r}, {problem}. "
        f"{remedy}"
    )
