"""What a learned joint policy answers while it plays: lost links, anomalies, rules, and what its correlation is worth.

    python benchmarks/inference.py RUN --out benchmarks/results/inference

RUN is the folder of a trained run whose policy is a distribution over joint actions: on gridworld coverage, such as
benchmarks/results/coverage_paper/run, or in the assignment game with `idle`, whose games last one step. Every number is
about fresh episodes that all ways of play share; intervals are 95 % bootstrap intervals over episodes. Exact are all
marginals, likelihoods, entropies and informations; what is drawn is drawn from them.

lost communication   k agents, drawn anew in each game, hear of nobody any more. They draw from their own marginals, or
                     stay where they are; the others draw from the joint marginal of those that are left. With a
                     shared random seed all draw the same joint action, and nothing is lost.
anomaly              one agent draws actions uniformly, is stuck, or always takes its least probable action. Watched is
                     the surprise -log pi(u | s) less its exact mean, in exact standard deviations; the factored rival
                     watches the same of the product of the policy's marginals. Found out is the agent with the most
                     surprising action given what all others do, pi(u_i | u_-i, s).
constraints          at most m agents may move in a step, a rule that training never saw. The joint policy is given it,
                     by product with a circuit that counts; beside it the m agents most likely to move, or m drawn anew
                     in every step, play as they would and the others stay.
correlation          the exact total correlation of the policy along its play, the information I(u_i; u_j | s) by the
                     distance of two agents, and the return without it: play from the product of the marginals.
broken agents        in the assignment game k agents can only idle. The policy is given it, or the others play as if
                     nobody were broken; beside them stands the best assignment of those that are left. For coverage
                     breakdowns.py asks this, with agents that break on the way.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from circuits import CircuitDistribution
from circuits.operations import exactly
from spnpolicy import evaluate, load_run
from spnpolicy.experiments.media import draw_intervals
from spnpolicy.experiments.statistics import Interval, interval_of_mean

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

WATCHED = 20
"""Steps of an episode in which an anomaly is looked for, or games where these last one step."""
FEW = 10
"""Agents of which every number is tried, and every pair is looked at."""
FALSE_ALARMS = 0.01
"""Share of healthy episodes that may raise an alarm, for the delay."""
MOST_SURPRISE = 50.0
"""Nats above its mean beyond which nothing is more surprising: a probability of 0 would decide alone."""
RESAMPLES = 2_000
Draw = Callable[[CircuitDistribution, Any], Tensor]
"""From the policies of all games, and what the agents see, to joint actions (games, agents)."""


class Task(NamedTuple):
    """What differs between tasks."""

    stay: int
    """The action of an agent that does nothing."""
    moves: range
    """Actions that do something."""
    counts: tuple[int, ...]
    """Numbers of agents to try, from 0 on."""
    is_single: bool
    """Episodes last one step."""


def task_of(env: Any) -> Task:
    """Return what an environment's actions are for."""
    names, agents = env.action_names, env.spec.num_agents
    counts = tuple(range(agents + 1)) if agents <= FEW else (0, 1, 2, 5, *range(FEW, agents + 1, max(FEW, agents // 5)))
    if "stay" in names:
        return Task(names.index("stay"), range(names.index("up"), names.index("right") + 1), counts, False)
    if "idle" in names:
        return Task(names.index("idle"), range(names.index("idle")), counts, True)
    raise SystemExit(f"{env.name}: here nobody can do nothing; take coverage, or the assignment game with idle=true.")


class Team:
    """Plays by a draw from the policy of a run."""

    def __init__(self, algorithm: Any, draw: Draw) -> None:
        self._algorithm, self._draw = algorithm, draw
        learner = getattr(algorithm, "learner", algorithm)
        # A circuit answers everything, but to draw and for marginals an optimal policy need not become one.
        self._policy_at = getattr(learner, "uncompiled_at", algorithm.policy_at)

    def act(self, step: Any, *, explore: bool, progress: float = 1.0) -> np.ndarray:
        """Return the joint actions of all games."""
        return self._draw(self._policy_at(step), step).numpy()

    def __getattr__(self, name: str) -> Any:
        """Be the algorithm in all else."""
        return getattr(self._algorithm, name)


def main(options: argparse.Namespace) -> None:
    """Do all experiments, and write tables and pictures."""
    torch.set_num_threads(options.threads)
    sizes = {name: getattr(options, name) for name in ("agents", "tasks") if getattr(options, name) is not None}
    loaded = load_run(options.run, num_envs=options.episodes, env_changes=sizes)
    loaded.algorithm.policy_at(loaded.env.reset(seed=options.seed))  # refuses runs without a joint policy
    options.out.mkdir(parents=True, exist_ok=True)
    discount = loaded.config.train.discount
    tables = {
        "communication": lost_communication(loaded, discount, options),
        "anomalies": anomalies(loaded, options),
        "constraints": constraints(loaded, discount, options),
        "correlation": correlation(loaded, discount, options),
    }
    if task_of(loaded.env).is_single:
        tables["broken"] = broken(loaded, discount, options)
    for name, rows in tables.items():
        with (options.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        print(f"\n{name}\n{as_text(rows)}", flush=True)
    draw_pictures(tables, options.out)


def lost_communication(loaded: Any, discount: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Play with k agents that hear of nobody."""
    agents, task = loaded.env.spec.num_agents, task_of(loaded.env)
    generator = torch.Generator().manual_seed(options.seed)
    lost_order = torch.rand(options.episodes, agents, generator=generator).argsort(-1).argsort(-1)
    rows = []
    for count in task.counts:
        is_lost = lost_order < count
        for way, draw in {
            "own marginal": lambda pi, _, lost=is_lost: torch.where(
                lost, independent(pi, generator), pi.sample(generator=generator)
            ),
            "most probable of own marginal": lambda pi, _, lost=is_lost: torch.where(
                lost, pi.marginals().argmax(-1), pi.sample(generator=generator)
            ),
            "stay": lambda pi, _, lost=is_lost: pi.sample(generator=generator).masked_fill(lost, task.stay),
            "shared seed": lambda pi, _: pi.sample(generator=generator),
        }.items():
            rows.append({"lost agents": count, "way": way} | played(loaded, draw, discount, options))
    return rows


def played(loaded: Any, draw: Draw, discount: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return success and fraction of the optimum of a way of play, with intervals."""
    team = Team(loaded.algorithm, draw)
    result = evaluate(team, loaded.env, options.episodes, discount, options.seed, plays=())
    measures = {"success": result.episodes.successes, "fraction of optimum": result.fraction_of_optimum}
    row: dict[str, Any] = {}
    for name, values in measures.items():
        row |= interval_of_mean(np.asarray(values, dtype=float)).columns(name)
    return row


def independent(pi: CircuitDistribution, generator: torch.Generator) -> Tensor:
    """Draw every agent's action from its own marginal."""
    marginals = pi.marginals().clamp_min(0.0)
    return torch.multinomial(marginals.flatten(0, -2), 1, generator=generator).view(marginals.shape[:-1])


def anomalies(loaded: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Watch teams in which one agent does not play by the policy."""
    generator = torch.Generator().manual_seed(options.seed + 1)
    agents = loaded.env.spec.num_agents
    culprit = torch.randint(agents, (options.episodes,), generator=generator)
    kinds: dict[str, Callable[[CircuitDistribution, Tensor], Tensor]] = {
        "healthy": lambda pi, u: u,
        "uniform": lambda pi, u: torch.randint(pi.marginals().shape[-1], u.shape, generator=generator),
        "stuck": lambda pi, u: torch.full_like(u, task_of(loaded.env).stay),
        "adversarial": lambda pi, u: pi.marginals().argmin(-1),
    }
    watched = {kind: watch(loaded, options, culprit, change, generator) for kind, change in kinds.items()}
    # Other healthy episodes than those that thresholds come from.
    calibration = watch(loaded, options, culprit, kinds["healthy"], generator, seed=options.seed + 10_000)
    rows = []
    for kind, seen in list(watched.items())[1:]:
        row: dict[str, Any] = {"anomaly": kind}
        for name, healthy, ill, level in (
            ("joint", watched["healthy"].joint, seen.joint, calibration.joint),
            ("product of marginals", watched["healthy"].factored, seen.factored, calibration.factored),
        ):
            area = auroc(healthy[:, -1], ill[:, -1], options.seed)
            threshold = np.quantile(level.max(1), 1.0 - FALSE_ALARMS)
            alarm = np.where((ill > threshold).any(1), (ill > threshold).argmax(1) + 1.0, np.inf)
            row |= area.columns(f"{name}: AUROC")
            row |= {
                f"{name}: median delay": float(np.median(alarm)),
                f"{name}: found": float(np.isfinite(alarm).mean()),
            }
        row["agent found out"] = float((seen.by_agent.argmax(1) == culprit.numpy()).mean())
        rows.append(row)
    return rows


class Watched(NamedTuple):
    """What was seen of each episode; after its end nothing is added."""

    joint: np.ndarray
    """Standardised surprise so far, (episodes, WATCHED)."""
    factored: np.ndarray
    by_agent: np.ndarray
    """Surprise of each agent's actions given those of all others, less its mean, (episodes, agents)."""


def watch(
    loaded: Any,
    options: argparse.Namespace,
    culprit: Tensor,
    change: Callable[[CircuitDistribution, Tensor], Tensor],
    generator: torch.Generator,
    seed: int | None = None,
) -> Watched:
    """Play the first steps of episodes in which `culprit` does something else, and watch."""
    env = loaded.env
    step = env.reset(seed=options.seed if seed is None else seed)
    rows, agents = len(culprit), env.spec.num_agents
    running = torch.ones(rows, dtype=torch.bool)
    surprise, variance = torch.zeros(2, rows), torch.zeros(2, rows)
    by_agent = torch.zeros(rows, agents)
    scores: list[Tensor] = []
    for _ in range(WATCHED):
        pi = loaded.algorithm.policy_at(step)
        u = pi.sample(generator=generator)
        u[torch.arange(rows), culprit] = change(pi, u)[torch.arange(rows), culprit]
        marginals = pi.marginals()
        logs = marginals.clamp_min(1e-30).log()
        own = logs.gather(-1, u.unsqueeze(-1)).squeeze(-1)
        own_mean = (marginals * logs).sum(-1)
        own_variance = (marginals * (logs - own_mean.unsqueeze(-1)).square()).sum((-1, -2))
        seen = torch.stack([-pi.log_prob(u), -own.sum(-1)])
        expected = torch.stack([pi.entropy(), -own_mean.sum(-1)])
        spread = torch.stack([pi.log_prob_variance(), own_variance])
        surprise += torch.where(running, (seen - expected).clamp_max(MOST_SURPRISE), 0.0)
        variance += torch.where(running, spread, 0.0)
        given = pi.conditionals(u).clamp_min(1e-30).log()
        chosen = given.gather(-1, u.unsqueeze(-1)).squeeze(-1).clamp_min(-MOST_SURPRISE)
        by_agent += torch.where(running.unsqueeze(-1), (given.exp() * given).sum(-1) - chosen, 0.0)
        scores.append(surprise / variance.sqrt().clamp_min(0.1))
        step = env.step(u.numpy())
        if not task_of(env).is_single:
            running &= torch.from_numpy(~(step.terminated | step.truncated))
    joint, factored = torch.stack(scores, -1).numpy()
    return Watched(joint, factored, by_agent.numpy())


def constraints(loaded: Any, discount: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Play by a rule that training never saw: at most m agents move in a step."""
    generator = torch.Generator().manual_seed(options.seed + 3)
    agents, task = loaded.env.spec.num_agents, task_of(loaded.env)
    moves = list(task.moves)

    def only(movers: Tensor, pi: CircuitDistribution, count: int) -> Tensor:
        """Draw a joint action, and let only the `count` agents move that come first."""
        may_move = movers.argsort(-1, descending=True).argsort(-1) < count
        drawn = pi.sample(generator=generator)
        return torch.where(may_move | ~is_move(drawn, task), drawn, task.stay)

    def given(pi: CircuitDistribution, count: int) -> Tensor:
        pi = pi if isinstance(pi, CircuitDistribution) else pi.compiled()
        rule = exactly(pi.circuit.cardinalities, range(count + 1), action=moves, like=pi.circuit)
        return pi.constrain(rule)[0].sample(generator=generator)

    rows = []
    for count in task.counts[1:]:
        for way, draw in {
            "policy given the rule": lambda pi, _, m=count: given(pi, m),
            "the most likely to move": lambda pi, _, m=count: only(pi.marginals()[..., moves].sum(-1), pi, m),
            "drawn anew": lambda pi, _, m=count: only(torch.rand(options.episodes, agents, generator=generator), pi, m),
        }.items():
            rows.append({"may move": count, "way": way} | played(loaded, draw, discount, options))
    return rows


def is_move(actions: Tensor, task: Task) -> Tensor:
    """Return which actions do something."""
    return (actions >= task.moves[0]) & (actions <= task.moves[-1])


def broken(loaded: Any, discount: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Play games of one step in which k agents can only idle."""
    env, task = loaded.env, task_of(loaded.env)
    generator, agents = torch.Generator().manual_seed(options.seed + 4), env.spec.num_agents
    order = torch.rand(options.episodes, agents, generator=generator).argsort(-1).argsort(-1)
    rows = []
    for count in task.counts[:-1]:
        is_broken = (order < count).numpy()
        idles = np.arange(env.spec.cardinalities[0]) == task.stay
        step = env.reset(seed=options.seed)
        told = step._replace(available_actions=step.available_actions & (~is_broken[..., None] | idles))
        ways = {
            name: loaded.algorithm.act(each, explore=False) for name, each in (("given it", told), ("not told", step))
        }
        ways["best of those left"] = assigned(step.observation, env, is_broken)
        ways["own best of those left"] = np.zeros_like(ways["given it"])
        best = env.optimal_return(discount)
        for way, actions in ways.items():
            env.reset(seed=options.seed)
            paid = env.step(np.where(is_broken, task.stay, actions)).reward[:, 0] / best
            rows.append({"broken agents": count, "way": way} | interval_of_mean(paid).columns("fraction of optimum"))
    return rows


def assigned(seen: np.ndarray, env: Any, is_broken: np.ndarray) -> np.ndarray:
    """Return the best assignment of the agents that work to the tasks that each is shown, game by game."""
    pairs = seen.reshape(*is_broken.shape, -1, 2)
    actions = np.zeros(is_broken.shape, int)
    for game, (worth, number) in enumerate(zip(pairs[..., 0], pairs[..., 1].astype(int), strict=True)):
        table = np.zeros((len(worth), env.tasks))
        np.put_along_axis(table, number, worth * ~is_broken[game][:, None], 1)
        chosen, tasks = linear_sum_assignment(table, maximize=True)
        is_found = number[chosen] == tasks[:, None]
        actions[game, chosen] = np.where(is_found.any(1), is_found.argmax(1), env.spec.cardinalities[0] - 1)
    return actions


def correlation(loaded: Any, discount: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what agents' actions have to do with each other, and what is lost without it."""
    generator = torch.Generator().manual_seed(options.seed + 2)
    rows = [
        {"what": way} | played(loaded, draw, discount, options)
        for way, draw in {
            "joint policy, drawn": lambda pi, _: pi.sample(generator=generator),
            "product of its marginals, drawn": lambda pi, _: independent(pi, generator),
            "joint policy, mode": lambda pi, _: pi.mode,
            "product of its marginals, mode": lambda pi, _: pi.marginals().argmax(-1),
        }.items()
    ]
    step = loaded.env.reset(seed=options.seed)
    running = np.ones(options.episodes, bool)
    totals: list[np.ndarray] = []
    near: dict[int, list[float]] = {}
    agents, entities = loaded.env.spec.num_agents, loaded.env.spec.entities
    for _ in range(WATCHED):
        pi = loaded.algorithm.policy_at(step)
        totals.append(np.asarray(pi.total_correlation())[running])
        place = step.observation[:, :, list(entities.own.positions)] * entities.cells
        for first in range(agents if entities.own.positions and agents <= FEW else 0):
            for second in range(first + 1, agents):
                shared = np.asarray(pi.mutual_information([first], [second]))
                distance = np.rint(np.abs(place[:, first] - place[:, second]).sum(-1)).astype(int)
                for d, value in zip(distance[running], shared[running], strict=True):
                    near.setdefault(int(d), []).append(float(value))
        step = loaded.env.step(pi.sample(generator=generator).numpy())
        running &= ~(step.terminated | step.truncated)
        if not running.any():
            break
    everything = np.concatenate(totals)
    measured = {"total correlation (nats)": everything}
    measured |= {f"information of two agents {d} cells apart (nats)": np.array(near[d]) for d in sorted(near)}
    for what, values in measured.items():
        blank = dict.fromkeys(list(rows[0])[1:], "")
        rows.append({"what": what} | blank | interval_of_mean(values).columns("mean"))
    for row in rows:
        row.update({name: row.get(name, "") for name in ("mean", "mean low", "mean high")})
    return rows


def auroc(healthy: np.ndarray, ill: np.ndarray, seed: int) -> Interval:
    """Return the probability that an ill episode scores above a healthy one, ties counting half, with its interval."""

    def area(first: np.ndarray, second: np.ndarray) -> float:
        ordered = np.sort(first)
        below = np.searchsorted(ordered, second, "left") + np.searchsorted(ordered, second, "right")
        return float(below.mean() / (2 * len(first)))

    generator = np.random.default_rng(seed)
    draws = [
        area(generator.choice(healthy, len(healthy)), generator.choice(ill, len(ill))) for _ in range(RESAMPLES // 4)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(area(healthy, ill), float(low), float(high))


def as_text(rows: list[dict[str, Any]]) -> str:
    """Return a table, numbers with three digits."""
    table = [list(rows[0]), *([f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


def draw_pictures(tables: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Write one picture of four experiments."""
    figure, ((left, middle), (low, right)) = plt.subplots(2, 2, figsize=(10, 7.6), layout="constrained")
    draw_by_count(left, tables["communication"], "lost agents")
    left.set(xlabel="agents without communication", title="A link is lost")
    draw_by_count(low, tables["constraints"], "may move")
    low.set(xlabel="agents that may move in a step", title="A new rule")
    found = tables["anomalies"]
    place = np.arange(len(found))
    for shift, name in ((-0.2, "joint"), (0.2, "product of marginals")):
        middle.bar(place + shift, [row[f"{name}: AUROC"] for row in found], 0.4, label=name)
    middle.set_xticks(place, [row["anomaly"] for row in found])
    middle.set(ylabel=f"AUROC after {WATCHED} steps", title="An agent misbehaves", ylim=(0.5, 1.02))
    middle.legend(fontsize=8, loc="lower right")
    if "broken" in tables:
        draw_by_count(right, tables["broken"], "broken agents")
        right.set(xlabel="agents that can only idle", title="Agents are broken")
    else:
        pairs = [row for row in tables["correlation"] if str(row["what"]).startswith("information")]
        draw_intervals(right, [int(str(row["what"]).split()[4]) for row in pairs], pairs, "mean", "")
        right.set(xlabel="cells between two agents", ylabel="I(u_i; u_j | s) in nats", title="Who decides together")
    figure.savefig(out / "inference.png", dpi=120)
    plt.close(figure)


def draw_by_count(axes: Any, rows: list[dict[str, Any]], count: str) -> None:
    """Draw a line with its interval for every way of play."""
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        draw_intervals(axes, [row[count] for row in own], own, "fraction of optimum", way)
    axes.set(ylabel="return / exact optimum", ylim=(0, 1.02))
    axes.legend(fontsize=8)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("--episodes", type=int, default=1_000, help="episodes of every way of play")
    parser.add_argument("--agents", type=int, help="another number of agents than in training")
    parser.add_argument("--tasks", type=int, help="another number of tasks, in the assignment game")
    parser.add_argument("--seed", type=int, default=20_000, help="seed of layouts and draws")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--out", type=Path, default=Path("runs/inference"), help="folder for tables and pictures")
    return parser.parse_args()


if __name__ == "__main__":
    main(read_options())
