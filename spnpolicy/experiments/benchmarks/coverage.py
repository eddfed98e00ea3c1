"""The coverage benchmark from its trials to everything that is shown: table, curves, animation and answers."""

from pathlib import Path

import numpy as np

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.base.tables import aligned
from spnpolicy.envs.sprites import PictureTooLargeError
from spnpolicy.experiments.answers.questions import STATES, write_answers
from spnpolicy.experiments.benchmarks.report import write_report
from spnpolicy.experiments.benchmarks.results import Results, load_results
from spnpolicy.experiments.media.animation import OnPicture, play, shots_of, untold, write_gif
from spnpolicy.experiments.media.lines import draw_lines
from spnpolicy.experiments.statistics.curves import curve_band
from spnpolicy.experiments.sweeps.plan import Plan, Trial, trial_folder
from spnpolicy.training.runs import load_run

ANIMATED_LAYOUTS = 6
_ROOM_ABOVE = 1.04


def present(plan: Plan, folder: Path, *, on_picture: OnPicture = untold) -> str:
    """Write everything about the finished trials of a plan; return what was found in words, and the files.

    Animation and answers come from the first seed of the algorithm with a joint policy that the plan names first, not
    from the best run.

    Raises:
        ConfigError: no trial is finished.
    """
    results = load_results(plan, folder)
    report = write_report(results, folder / "report.txt", folder / "table.csv", folder / "episodes.csv")
    curves = _draw_curves(results, folder)
    files = {
        "report": folder / "report.txt",
        "table": folder / "table.csv",
        "episodes of the final evaluations": folder / "episodes.csv",
        **curves,
    }
    shown = _shown_trial(results)
    seed = plan.evaluation_seed
    try:
        run = load_run(trial_folder(folder, shown), num_envs=ANIMATED_LAYOUTS)
        episodes = play(run, seed=seed, on_picture=on_picture)
        on_picture("writing the animation", 0, None)
        write_gif(shots_of(episodes), folder / "animation.gif")
        files[f"animation of {shown.algorithm}, seed {shown.train.seed}"] = folder / "animation.gif"
        answers = _answers(shown, folder, seed, files)
    except PictureTooLargeError as problem:
        # The numbers of a long comparison count without pictures as well.
        answers = f"No pictures of games: {problem}\n"
    files["runs (settings, metrics, episodes, checkpoints)"] = folder / "trials"
    written = aligned(((what, str(path)) for what, path in files.items()), indent="  ")
    return "\n".join(["", report, answers, "written:", *written])


def _shown_trial(results: Results) -> Trial:
    """Return the first seed of the first algorithm with a joint policy, or else of the first algorithm."""
    with_policy = [name for name in results.evaluations if ALGORITHMS[name].has_joint_policy]
    algorithm = [*with_policy, *results.evaluations][0]
    seed = min(results.evaluations[algorithm])
    return next(t for t in results.plan.trials if (t.algorithm, t.train.seed) == (algorithm, seed))


def _answers(shown: Trial, folder: Path, seed: int, files: dict[str, Path]) -> str:
    if not ALGORITHMS[shown.algorithm].has_joint_policy:
        return f"{shown.algorithm} has no joint distribution, so there are no questions to ask it.\n"
    run = load_run(trial_folder(folder, shown), num_envs=STATES)
    if run.env.spec.num_agents < 2:
        return "One agent alone leaves nothing to ask about the others.\n"
    files["answers in words"] = folder / "answers.txt"
    files["answers as a picture"] = folder / "answers.png"
    return write_answers(run, folder / "answers.txt", folder / "answers.png", seed=seed)


def _draw_curves(results: Results, folder: Path) -> dict[str, Path]:
    """Write pictures with the interquartile mean over runs, its 95 % bootstrap interval, and two references.

    One is of greedy play, and one of play drawn from the policy where an algorithm has a joint one. Return them by what
    they show.
    """
    discount = results.plan.trials[0].train.discount
    styles = {name: number for number, name in enumerate(results.curves)}
    drawn: dict[str, Path] = {}
    for how, name, curves in (
        ("greedy play", "curves.png", results.curves),
        ("play drawn from the policy", "curves_sampled.png", results.sampled_curves),
    ):
        if not curves:
            continue
        drawn[f"learning curves, {how}"] = folder / name
        draw_lines(
            folder / name,
            {
                algorithm: (curve, curve_band(curve, generator=np.random.default_rng(0)))
                for algorithm, curve in curves.items()
            },
            title=f"{results.plan.name}: {how} during training, interquartile mean and 95 % interval over runs",
            ylabel=f"discounted return ({discount:g}) as a fraction of the exact optimum",
            levels=_reference_levels(results),
            styles=styles,
            limits=(0.0, _ROOM_ABOVE),
            ticks=results.stage_changes,
        )
    return drawn


def _reference_levels(results: Results) -> dict[str, float]:
    fixed = results.references.fixed_fraction
    levels = {"exact optimum": 1.0}
    return levels if fixed is None else {**levels, "fixed goal per agent": float(fixed.mean())}
