"""What the finished trials of a plan found, beside two references that need no training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs import make_env
from spnpolicy.experiments.statistics.bootstrap import Interval, interval_over_runs
from spnpolicy.experiments.statistics.curves import Curve, History, common_curve
from spnpolicy.experiments.sweeps.plan import Plan, trial_folder
from spnpolicy.experiments.sweeps.trials import (
    EVALUATION_FILE,
    FinalEvaluation,
    drawn_file,
    is_finished,
    read_evaluation,
)
from spnpolicy.training.evaluation import PLAYS, SAMPLED
from spnpolicy.training.metrics import read_metrics, stage_changes

MEASURES = ("success", "steps", "fraction_of_optimum")
"""Success rate; steps to success, where a failed episode counts as the episode limit; return over the optimum's."""


@dataclass(frozen=True)
class References:
    """What the layouts of the final evaluation allow; all arrays have one entry per layout."""

    optimal_steps: Int[np.ndarray, " layouts"]
    fixed_steps: Int[np.ndarray, " layouts"] | None
    """Steps when agent i always takes goal i; None where agents and goals differ in number."""
    fixed_fraction: Float[np.ndarray, " layouts"] | None
    """Discounted return of that, over the optimum's."""


@dataclass(frozen=True)
class Score:
    """How one algorithm did; each measure is an interquartile mean over runs with its interval."""

    algorithm: str
    runs: int
    measures: dict[str, Interval]


@dataclass(frozen=True)
class Results:
    """Everything that reports are made of."""

    plan: Plan
    evaluations: dict[str, dict[int, FinalEvaluation]]
    """Algorithm -> seed -> final evaluation; algorithms without a finished trial are left out."""
    scores: list[Score]
    curves: dict[str, Curve]
    """Fraction of the optimum during training, played greedily."""
    references: References
    stage_changes: dict[str, list[int]] = field(default_factory=dict)
    """Algorithm -> env steps at which curricula of its runs went on to the next stage; only those with one."""
    drawn: list[Score] = field(default_factory=list)
    """The same layouts with actions drawn from the joint policies, see `PLAYS`; named "ALGORITHM, PLAY"."""
    sampled_curves: dict[str, Curve] = field(default_factory=dict)
    """`curves` with actions drawn from the policy; only of algorithms that have a joint one."""


def load_results(plan: Plan, folder: Path) -> Results:
    """Read the finished trials of a plan.

    Raises:
        ConfigError: none is finished.
    """
    finished = [config for config in plan.trials if is_finished(config, folder)]
    if not finished:
        raise ConfigError(f"{folder} has no finished trial to report on.")
    evaluations: dict[str, dict[int, FinalEvaluation]] = {}
    histories: dict[str, dict[str, list[History]]] = {"": {}, SAMPLED: {}}
    changes: dict[str, list[int]] = {}
    drawn: dict[str, list[FinalEvaluation]] = {}
    for config in finished:
        own = trial_folder(folder, config)
        evaluations.setdefault(config.algorithm, {})[config.train.seed] = read_evaluation(own / EVALUATION_FILE)
        for play in PLAYS:
            if (path := drawn_file(own, play)).is_file():
                drawn.setdefault(f"{config.algorithm}, {play}", []).append(read_evaluation(path))
        records = read_metrics(own / "metrics.jsonl").records
        for prefix, of_play in histories.items():
            if (history := _history(records, f"{prefix}fraction_of_optimum")) is not None:
                of_play.setdefault(config.algorithm, []).append(history)
        if found := stage_changes(records):
            changes.setdefault(config.algorithm, []).extend(found)
    ordered = {name: evaluations[name] for name in plan.algorithms if name in evaluations}
    scores = [_score(name, list(runs.values())) for name, runs in ordered.items()]
    curves, sampled = (
        {name: common_curve(of_play[name]) for name in ordered if name in of_play} for of_play in histories.values()
    )
    by_drawing = [_score(name, runs) for name, runs in drawn.items()]
    return Results(plan, ordered, scores, curves, _references(plan), changes, by_drawing, sampled)


def _score(algorithm: str, runs: list[FinalEvaluation]) -> Score:
    # A run counts with its mean over all layouts. Pooling single episodes instead would let the interquartile mean
    # cut off the failures of a policy that fails in less than a quarter of them.
    columns = {
        "success": [float(run.success.mean()) for run in runs],
        "steps": [float(run.length.mean()) for run in runs],
        "fraction_of_optimum": [float(run.fraction_of_optimum.mean()) for run in runs],
    }
    return Score(algorithm, len(runs), {name: interval_over_runs(values) for name, values in columns.items()})


def _history(records: list[dict[str, Any]], measure: str) -> History | None:
    """Return a measure of the evaluations during training, or None where these do not have it."""
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    if not all(measure in record for record in evaluations):
        return None
    return History(*(np.array([record[name] for record in evaluations]) for name in ("step", measure)))


def _references(plan: Plan) -> References:
    config = plan.trials[0]
    env: Any = make_env(config.env, num_envs=plan.evaluation_episodes, **config.env_options)
    env.reset(seed=plan.evaluation_seed)
    optimal_steps = env.optimal_steps()
    if env.goals != env.agents:
        return References(optimal_steps, None, None)
    discount = config.train.discount
    fixed_steps = env.fixed_assignment_steps()
    returns = np.where(fixed_steps <= env.episode_limit, np.power(discount, fixed_steps - 1), 0.0)
    optimum = env.optimal_return(discount)
    return References(
        optimal_steps, fixed_steps, np.divide(returns, optimum, out=np.ones_like(returns), where=optimum > 0)
    )
