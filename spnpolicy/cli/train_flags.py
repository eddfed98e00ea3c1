"""`spnpolicy train`: its flags; light, because the overview of all commands loads it."""

import typing
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.command import Command
from spnpolicy.cli.docs import field_docs
from spnpolicy.cli.flags import FILE, FOLDER, SETTINGS, offer
from spnpolicy.cli.options import Parser, whole_number
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.training.config import TrainConfig


def _add_train(parser: Parser) -> None:
    algorithm, env = "one of `spnpolicy list`", "one of `spnpolicy list`, or pettingzoo:MODULE, such as mpe2.simple_v3"
    offer(parser.add_argument("algorithm", metavar="ALGORITHM", nargs="?", help=algorithm), ALGORITHMS)
    offer(parser.add_argument("env", metavar="ENV", nargs="?", help=env), ENVIRONMENTS)
    docs = field_docs(TrainConfig)
    for field in fields(TrainConfig):
        choices = typing.get_args(field.type)
        metavar = "|".join(choices) if choices else "N"
        help_text = f"{docs[field.name]} Default: {_default(field)}"
        offer(parser.add_argument(_flag(field.name), metavar=metavar, help=help_text), choices)
    out = "new folder of the run (default: the first free runs/ALGORITHM-ENV-seedN)"
    offer(parser.add_argument("--out", type=Path, metavar="DIR", help=out), FOLDER)
    config = "take algorithm, environment and settings from a config.json; flags change single ones"
    offer(parser.add_argument("--config", type=Path, metavar="FILE", help=config), FILE)
    resume = "go on with a run that was interrupted or killed, from its latest checkpoint"
    offer(parser.add_argument("--resume", type=Path, metavar="RUN", help=resume), FOLDER)
    strict = "with --resume: refuse if machine, versions or threads are not those the run began with"
    parser.add_argument("--strict", action="store_true", help=strict)
    device = "cpu, cuda, cuda:N, or auto for a GPU where there is one (default: cpu; resumed: that of the run)"
    offer(parser.add_argument("--device", metavar="NAME", help=device), ["cpu", "cuda", "auto"])
    parser.add_argument("--tensorboard", action="store_true", help="also write events to RUN/tensorboard")
    parser.add_argument("--wandb", metavar="PROJECT", help="also log to this project of Weights & Biases")
    threads = "threads (default: 1; resumed: those of the run)"
    parser.add_argument("--threads", type=whole_number(1, 1_024), metavar="N", help=threads)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _default(field: Field[Any]) -> str:
    return "required" if field.default is MISSING else f"{field.default}"


TRAIN = Command(
    "train",
    "Train one algorithm in one environment, or go on with a run.",
    "train ALGORITHM ENV [--env.KEY VALUE] [--algorithm.KEY VALUE] [flags]\n"
    "       spnpolicy train --config FILE [the same flags]\n"
    "       spnpolicy train --resume RUN [--strict] [--device NAME] [--tensorboard] [--wandb PROJECT] [--threads N]",
    "Everything is written into a new folder; an existing one is never touched, except by --resume.\n"
    "Ctrl-C saves and ends; --resume then goes on as if nothing had happened, bit for bit on the same machine.\n"
    f"{SETTINGS}",
    (
        "train spn_ac coverage --steps 100000 --seed 3",
        "train vdn coverage --env.size 8 --env.agents 4 --algorithm.network.hidden 64,64 --out runs/vdn8",
        "train spn_ac coverage --algorithm.labels 6 --algorithm.network.features.frequencies 4",
        "train vdn pettingzoo:mpe2.simple_spread_v3 --env.N 4 --tensorboard",
        "train --config runs/x/config.json --seed 7",
        "train --resume runs/x",
    ),
    _add_train,
    "spnpolicy.cli.train",
    takes_settings=True,
)
