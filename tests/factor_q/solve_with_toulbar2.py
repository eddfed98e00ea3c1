"""Find the most probable assignment of UAI models with toulbar2, a solver that shares no code with this project.

    pip install pytoulbar2
    python tests/factor_q/solve_with_toulbar2.py --seconds 120

Stands alone: it imports nothing but the standard library and pytoulbar2. Only models whose optimum toulbar2 proved
within the time limit enter the table. The stored value is not toulbar2's: it is the sum of log(entry) over all tables
at the stored assignment, recomputed in float64 from the file. toulbar2 works with integers, here whole multiples of
10^-DIGITS nats; rounding an entry moves it by at most 1.5 of them (half for rounding, one where a product of floats is
cut), so the true optimum lies above the stored value by at most 2 x 1.5 x 10^-DIGITS per table, the column `tolerance`.
"""

import argparse
import csv
import importlib.metadata
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path

DIGITS = 11
MODELS = Path(__file__).parents[2] / "benchmarks" / "uai_models"
COLUMNS = ["file", "map_value", "tolerance", "toulbar2_version", "assignment"]


def read_model(path):
    """Cardinalities and a list of (scope, table in row-major order)."""
    words = iter(path.read_text().split())
    assert next(words) in ("MARKOV", "BAYES")
    cards = [int(next(words)) for _ in range(int(next(words)))]
    scopes = [[int(next(words)) for _ in range(int(next(words)))] for _ in range(int(next(words)))]
    tables = [[float(next(words)) for _ in range(int(next(words)))] for _ in scopes]
    assert next(words, None) is None
    assert all(len(t) == math.prod(cards[v] for v in s) for s, t in zip(scopes, tables, strict=True))
    return cards, list(zip(scopes, tables, strict=True))


def read_evidence(path):
    """Observed value of each observed variable; a first number that makes the count odd is the number of samples."""
    if not path.exists():
        return {}
    numbers = [int(word) for word in path.read_text().split()]
    if len(numbers) % 2 == 0:
        assert numbers.pop(0) == 1
    assert len(numbers) == 2 * numbers[0] + 1
    return dict(zip(numbers[1::2], numbers[2::2], strict=True))


def value_of(cards, factors, assignment):
    """Sum of the logs of the entries that an assignment uses."""
    logs = []
    for scope, table in factors:
        position = 0
        for variable in scope:
            position = position * cards[variable] + assignment[variable]
        logs.append(math.log(table[position]) if table[position] > 0 else -math.inf)
    return math.fsum(logs) if -math.inf not in logs else -math.inf


def restricted(cards, factors, evidence):
    """Drop the observed variables: free variables of the scope, costs above the least in nats, and the least."""
    for scope, table in factors:
        free = [variable for variable in scope if variable not in evidence]
        kept = []
        for values, entry in zip(itertools.product(*(range(cards[v]) for v in scope)), table, strict=True):
            if all(evidence.get(v, value) == value for v, value in zip(scope, values, strict=True)):
                kept.append(-math.log(entry) if entry > 0 else math.inf)
        least = min(kept)
        assert least < math.inf, "a table forbids everything"
        yield free, [round(cost - least, DIGITS) if cost < math.inf else cost for cost in kept], least


def solve(path, seconds, decompose):
    """Return the proved optimum as a row of the table, or None when time ran out."""
    import pytoulbar2

    cards, factors = read_model(path)
    evidence = read_evidence(path.with_name(path.name + ".evid"))
    reduced = list(restricted(cards, factors, evidence))
    shift = math.fsum(least for _, _, least in reduced)
    costs = [(scope, table) for scope, table, _ in reduced if scope and max(table) > 0]
    # Any allowed assignment costs less than this, and toulbar2 wants a bound before it turns costs into integers.
    bound = 1.0 + math.fsum(max(cost for cost in table if cost < math.inf) for _, table in costs)
    problem = pytoulbar2.CFN(bound, resolution=DIGITS, vac=1)
    free = [variable for variable in range(len(cards)) if variable not in evidence]
    index = {variable: problem.AddVariable(f"x{variable}", range(cards[variable])) for variable in free}
    for scope, table in costs:
        problem.AddFunction([index[variable] for variable in scope], table)
    # Search over a tree decomposition; plain best-first search is blind to small width.
    problem.Option.btdMode = int(decompose)
    found = problem.Solve(timeLimit=seconds)
    out_of_time = time.process_time() >= seconds  # then the bounds that toulbar2 reports are not to be trusted
    if found is None or out_of_time or problem.GetDDualBound() < found[1] - 0.5 * 10**-DIGITS:
        return None
    chosen = {**evidence, **{variable: found[0][i] for variable, i in index.items()}}
    assignment = [chosen[variable] for variable in range(len(cards))]
    value, tolerance = value_of(cards, factors, assignment), 3 * len(factors) * 10**-DIGITS
    assert abs(value + found[1] + shift) <= tolerance, "toulbar2 reports another value for its own assignment"
    return {
        "file": path.relative_to(MODELS).as_posix(),
        "map_value": repr(value),
        "tolerance": f"{tolerance:.1e}",
        "toulbar2_version": importlib.metadata.version("pytoulbar2"),
        "assignment": " ".join(map(str, assignment)),
    }


def attempt(path, seconds, extra):
    """Solve in a process of its own, because toulbar2 may end it: a row or None, and the last line of its errors."""
    command = [sys.executable, __file__, "--one", str(path), "--seconds", str(seconds), *extra]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=6 * seconds + 60)
    except subprocess.TimeoutExpired:
        return None, "no answer in time"
    row = json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 and run.stdout else None
    return row, run.stderr.strip().rpartition("\n")[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="models; all of benchmarks/uai_models when none is named")
    parser.add_argument("--seconds", type=int, default=120, help="CPU time for one model")
    parser.add_argument("--out", type=Path, default=MODELS / "map_toulbar2.csv")
    parser.add_argument("--decompose", action="store_true", help="for --one: search over a tree decomposition")
    parser.add_argument("--one", type=Path, help="solve this model in this process and print the row as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(solve(options.one.resolve(), options.seconds, options.decompose)))
        return
    rows = []
    for path in options.files or sorted([*MODELS.glob("*.uai"), *MODELS.glob("own/*.uai")]):
        start = time.perf_counter()
        row, problem = attempt(path, options.seconds, [])
        if row is None:
            row, problem = attempt(path, options.seconds, ["--decompose"])
        took = time.perf_counter() - start
        print(f"{path.name:30} {took:6.1f} s  {row['map_value'] if row else f'not proved {problem}'}", flush=True)
        rows += [row] if row else []
        with open(options.out, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
