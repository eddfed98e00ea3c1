"""One learner in several tasks of the same kind, such as boards of other sizes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Algorithm
from spnpolicy.networks import encoders
from spnpolicy.training.config import RunConfig
from spnpolicy.training.runs import EnvFactory, build_algorithm, close_env

_MUST_AGREE = ("cardinalities", "has_action_masks", "reward", "actions")


def retarget(algorithm: Algorithm, spec: EnvSpec) -> None:
    """Let a learner act and learn in another task of the same kind; what it has learned stays.

    A learner's own method `retarget` is asked where it has one; otherwise the entity encoders in its networks read the
    observations of the other task.
    """
    own = getattr(algorithm, "retarget", None)
    if own is not None:
        own(spec)
        return
    for network in _networks_in(algorithm):
        encoders.retarget(network, spec)


def check_stages(config: RunConfig, algorithm: Algorithm, spec: EnvSpec, make_env: EnvFactory, num_envs: int) -> None:
    """Refuse a curriculum with a stage that cannot be made, or that the algorithm of the run cannot read.

    Args:
        config: the run.
        algorithm: its algorithm, as it was built for the task of the run; it reads that task again afterwards.
        spec: of that task.
        make_env: maker of environments.
        num_envs: how many copies a stage has.

    Raises:
        ConfigError: there is such a stage; the message says which, why, and what would help.
    """
    for number, stage in enumerate(config.curriculum.stages, start=1):
        try:
            env = make_env(config.env, num_envs=num_envs, **{**config.env_options, **stage})
            close_env(env)
            if not hasattr(algorithm, "retarget"):
                _require_same_kind(config, spec, env.spec)
            retarget(algorithm, env.spec)
            _require_same_networks(config, algorithm, env.spec)
        except ConfigError as problem:
            raise ConfigError(f"stage {number} of the curriculum ({stage}): {problem}") from problem
        finally:
            retarget(algorithm, spec)


def _require_same_kind(config: RunConfig, spec: EnvSpec, other: EnvSpec) -> None:
    for name in _MUST_AGREE:
        here, there = getattr(spec, name), getattr(other, name)
        if here != there:
            raise ConfigError(
                f"{name} of the environment is {there} there and {here} in the task of the run, and {config.algorithm} "
                "cannot change that on the way: leave the option that changes it out of the stages."
            )


def _require_same_networks(config: RunConfig, algorithm: Algorithm, other: EnvSpec) -> None:
    # What is built for the other task has weights of the same shapes, or there is no leading one from task to task. A
    # task for one agent may lack those for pairs; whether more are needed there, a learner's own method has to say.
    built = build_algorithm(config, other, Streams(config.train.seed))
    here, there = _shapes(algorithm.state_dict()), _shapes(built.state_dict())
    different = [name for name, shape in here.items() if there.get(name, shape) != shape]
    if different:
        name = different[0]
        raise ConfigError(
            f"the networks of {config.algorithm} do not fit: {name} has the shape {there[name]} there and "
            f"{here[name]} in the task of the run. Networks over entities serve tasks of every size: set "
            "algorithm.network.kind to entities or exchangeable where the environment declares entities, or take "
            "stages whose observations are as long as those of the run."
        )


def _shapes(state: Any, name: str = "") -> dict[str, tuple[int, ...]]:
    if isinstance(state, Tensor):
        return {name: tuple(state.shape)}
    items: Iterable[tuple[Any, Any]] = state.items() if isinstance(state, Mapping) else ()
    if isinstance(state, list | tuple):
        items = enumerate(state)
    prefix = f"{name}." if name else ""
    return {key: shape for part, value in items for key, shape in _shapes(value, f"{prefix}{part}").items()}


def _networks_in(part: Any) -> Iterator[nn.Module]:
    """Yield the networks of a learner, and of the learners within it."""
    if isinstance(part, nn.Module):
        yield part
        return
    inner: Iterable[Any] = ()
    if isinstance(part, list | tuple):
        inner = part
    elif isinstance(part, Mapping):
        inner = part.values()
    elif isinstance(part, Algorithm):
        inner = vars(part).values()
    for each in inner:
        yield from _networks_in(each)
