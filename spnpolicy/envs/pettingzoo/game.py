"""One PettingZoo game as rows of arrays: who plays, what they see, when it is over."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from pettingzoo import ParallelEnv

from spnpolicy.base.errors import ConfigError
from spnpolicy.data.env import EnvSpec
from spnpolicy.envs.faults import BadValueError
from spnpolicy.envs.options import whole_number
from spnpolicy.envs.pettingzoo.spaces import ActionSet, Encoder, action_set, observation_encoder

_log = logging.getLogger(__name__)
DEFAULT_LIMIT = 1000
RESETS_TO = "(observations, infos)"
OTHER_STATE = "With own_state=false all observations side by side take its place"
STEPS_TO = "(observations, rewards, terminations, truncations, infos)"


class StateError(Exception):
    """The `state()` of an environment failed; says how, and what helps."""


class Layout(NamedTuple):
    """What all games of a batch have in common."""

    agents: tuple[str, ...]
    """Names of all agents that may take part."""
    actions: tuple[ActionSet, ...]
    """Actions of each agent."""
    encoders: tuple[Encoder, ...]
    """How the observations of each agent become vectors."""
    spec: EnvSpec
    """Sizes of the arrays."""
    has_own_state: bool
    """The environment has a `state()` of its own; otherwise the state is all observations side by side."""
    episode_limit: int
    """Steps after which an episode is truncated."""
    exists: Bool[np.ndarray, "agents actions"]
    """Which of the columns of a mask are actions of the agent."""


class View(NamedTuple):
    """What a game shows at one moment."""

    observation: Float[np.ndarray, "agents features"]
    state: Float[np.ndarray, " state"] | None
    available_actions: Bool[np.ndarray, "agents actions"]


class Outcome(NamedTuple):
    """What came of one step of a game."""

    view: View
    reward: Float[np.ndarray, " agents"]
    terminated: bool
    truncated: bool


def layout_of(
    owner: str, env: ParallelEnv, *, bins: int | None, episode_limit: int | None, agents_stay: bool, own_state: bool
) -> Layout:
    """Find out the sizes of an environment; resets it once, to see whether its `state()` works.

    Its options are those of `spnpolicy.envs.pettingzoo.adapter.ParallelBatch`; messages begin with its owner.

    Raises:
        ConfigError: a space that cannot be used, or an environment that has no agents or cannot be reset.
    """
    agents: tuple[str, ...] = tuple(getattr(env, "possible_agents", ()))
    if not agents:
        raise ConfigError(f"{owner}: possible_agents is missing or empty; a ParallelEnv must list its agents there.")
    try:
        spaces = [(env.action_space(agent), env.observation_space(agent)) for agent in agents]
        env.reset(seed=0)
    except Exception as error:
        raise ConfigError(f"{owner}: it cannot be reset: {type(error).__name__}: {error}") from error
    actions = tuple(action_set(owner, agent, space, bins) for agent, (space, _) in zip(agents, spaces, strict=True))
    if bins is not None and all(not space.shape for space, _ in spaces):
        raise ConfigError(f"{owner}: bins={bins} is for continuous actions, and no agent has any; leave it out.")
    encoders = tuple(observation_encoder(owner, a, space) for a, (_, space) in zip(agents, spaces, strict=True))
    features = max(encoder.size for encoder in encoders)
    if features == 0:
        raise ConfigError(f"{owner}: no agent sees anything: the observation spaces hold no numbers.")
    state = _own_state(owner, env) if own_state else None
    cardinalities = tuple(each.count for each in actions)
    exists = np.arange(max(cardinalities)) < np.array(cardinalities)[:, None]
    if episode_limit is None:
        limit = getattr(getattr(env, "unwrapped", env), "max_cycles", None)
        episode_limit = limit if type(limit) is int and limit > 0 else DEFAULT_LIMIT
    return Layout(
        agents=agents,
        actions=actions,
        encoders=encoders,
        spec=EnvSpec(
            cardinalities,
            features,
            len(agents) * features if state is None else len(state),
            has_action_masks=not agents_stay or not bool(exists.all()),
            # PettingZoo pays agents one by one, and nothing promises that they always get the same.
            reward="individual",
            # who has left, or sees less than others, is shown zeros
            observation_bounds=(
                min(0.0, *(encoder.low for encoder in encoders)),
                max(0.0, *(encoder.high for encoder in encoders)),
            ),
        ),
        has_own_state=state is not None,
        episode_limit=whole_number(owner, "episode_limit", episode_limit, 1),
        exists=exists,
    )


class Game:
    """A PettingZoo environment, its agents in fixed rows.

    An agent that has left, or has not come yet, sees zeros, earns 0 and may only choose action 0, which is
    not passed on. The episode is over when nobody is left; it then counts as terminated if every agent's
    part ended by termination, and as truncated if any was cut off.
    """

    def __init__(self, env: ParallelEnv, layout: Layout) -> None:
        self.env = env
        self.age = 0
        """Steps done in the episode."""
        self._layout = layout
        self._index = {agent: i for i, agent in enumerate(layout.agents)}
        self._playing: list[str] = []
        self._gone: set[str] = set()
        self._was_cut_off = False

    def begin(self, seed: int) -> View:
        """Start an episode.

        Raises:
            BadValueError: the environment shows something that its interface forbids.
        """
        self.age = 0
        self._gone, self._was_cut_off = set(), False
        answer = self.env.reset(seed=seed)
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], dict):
            raise BadValueError("step", f"reset() returned {_kind(answer)}; PettingZoo asks for {RESETS_TO}")
        observations, infos = answer
        self._playing = self._newcomers([])
        if not self._playing:
            raise BadValueError("agents", "nobody plays after reset(): `agents` is empty")
        self._check_names("observation", observations, self._playing)
        return self._view(observations, infos, self._playing, self._playing)

    def step(self, joint: Integer[np.ndarray, " agents"]) -> Outcome:
        """Apply one action of every agent.

        Raises:
            BadValueError: the environment shows something that its interface forbids.
        """
        index, actions = self._index, self._layout.actions
        acting = self._playing
        self.age += 1
        answer = self.env.step({agent: actions[index[agent]].decode(int(joint[index[agent]])) for agent in acting})
        if not isinstance(answer, tuple) or len(answer) != 5 or not all(isinstance(part, dict) for part in answer[:4]):
            raise BadValueError("step", f"step() returned {_kind(answer)}; PettingZoo asks for {STEPS_TO}")
        observations, rewards, terminations, truncations, infos = answer
        remaining, cut_off = [], []
        for agent in acting:
            has_ended = _flag("terminated", terminations, agent, index)
            is_cut_off = _flag("truncated", truncations, agent, index)
            if has_ended or is_cut_off:
                self._gone.add(agent)
            else:
                remaining.append(agent)
            if is_cut_off and not has_ended:
                cut_off.append(agent)
        newcomers = self._newcomers(remaining) if remaining or self.env.agents else []
        present = [*acting, *newcomers] if newcomers else acting
        for field, values in (("observation", observations), ("reward", rewards)):
            self._check_names(field, values, present if field == "observation" else acting, extra=newcomers)
        reward = np.zeros(len(index), np.float32)
        for agent in acting:
            reward[index[agent]] = _number(rewards[agent], index[agent])
        self._playing = [agent for agent in self._layout.agents if agent in remaining or agent in newcomers]
        self._was_cut_off |= bool(cut_off)
        is_over = not self._playing
        is_late = self.age >= self._layout.episode_limit
        # What would have been possible at a time limit matters to whoever estimates what would have followed.
        view = self._view(observations, infos, present, cut_off if is_over else self._playing)
        terminated = is_over and not self._was_cut_off
        return Outcome(view, reward, terminated, (is_over or is_late) and not terminated)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly from here, if the environment can tell."""
        return {
            "env": self.env.state_dict(),  # pyright: ignore[reportAttributeAccessIssue] asked for by is_restorable only
            "age": self.age,
            "playing": list(self._playing),
            "gone": sorted(self._gone),
            "was_cut_off": self._was_cut_off,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.env.load_state_dict(state["env"])  # pyright: ignore[reportAttributeAccessIssue]
        self.age, self._was_cut_off = int(state["age"]), bool(state["was_cut_off"])
        self._playing, self._gone = list(state["playing"]), set(state["gone"])

    def _newcomers(self, remaining: list[str]) -> list[str]:
        """Return who plays from now on and did not before; checks `env.agents` on the way."""
        now = self.env.agents
        newcomers = []
        for agent in now:
            if agent not in self._index:
                raise BadValueError("agents", f"{agent!r} plays, but possible_agents does not name it")
            if agent not in remaining and agent not in self._gone:
                newcomers.append(agent)
        for agent in remaining:
            if agent not in now:
                text = f"{agent} left without being terminated or truncated"
                raise BadValueError("agents", text, self._index[agent])
        return newcomers

    def _check_names(self, field: str, values: dict[str, Any], wanted: list[str], *, extra: Sequence[str] = ()) -> None:
        for agent in wanted:
            if agent not in values:
                raise BadValueError(field, "is missing", self._index[agent])
        if len(values) > len(wanted):
            for agent in values:
                if agent not in self._index:
                    raise BadValueError(field, f"is given for {agent!r}, which is no agent of this environment")
                if agent not in wanted and agent not in extra:
                    raise BadValueError(field, f"is given for {agent}, which does not play", self._index[agent])

    def _view(self, observations: dict[str, Any], infos: Any, present: list[str], may_act: list[str]) -> View:
        layout = self._layout
        observation = np.zeros((len(layout.agents), layout.spec.observation_size), np.float32)
        available = np.zeros(layout.exists.shape, bool)
        available[:, 0] = True
        for agent in present:
            i = self._index[agent]
            try:
                vector = layout.encoders[i].encode(observations[agent])
            except BadValueError as error:
                raise BadValueError(error.field, error.text, i) from None
            observation[i, : len(vector)] = vector
            if agent in may_act:
                available[i] = self._mask(i, agent, observations[agent], infos)
        if not layout.spec.has_action_masks:
            self._keep_promise(available)
        return View(observation, self._state() if layout.has_own_state else None, available)

    def _mask(self, i: int, agent: str, observation: Any, infos: Any) -> Bool[np.ndarray, " actions"]:
        exists = self._layout.exists[i]
        info = infos.get(agent) if isinstance(infos, dict) else None
        mask = info.get("action_mask") if isinstance(info, dict) else None
        if mask is None and isinstance(observation, dict):
            mask = observation.get("action_mask")
        if mask is None:
            return exists
        count = self._layout.spec.cardinalities[i]
        array = np.asarray(mask)
        if array.shape != (count,):
            text = f"has shape {array.shape}; the agent has {count} actions"
            raise BadValueError("available_actions", text, i)
        if array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
            raise BadValueError("available_actions", f"is {mask!r}; it must hold 0 and 1 only", i)
        if not array.any() and agent in self._gone:
            return exists
        if not array.any():
            raise BadValueError("available_actions", "allows nothing", i)
        row = np.zeros(len(exists), bool)
        row[:count] = array
        return row

    def _keep_promise(self, available: Bool[np.ndarray, "agents actions"]) -> None:
        if self._gone and self._playing:
            raise BadValueError("agents", f"{sorted(self._gone)[0]} left early; set agents_stay=false")
        if self._playing and not available.all():
            raise BadValueError("available_actions", "forbids an action or an agent is absent; set agents_stay=false")
        available[:] = True

    def _state(self) -> Float[np.ndarray, " state"]:
        try:
            state = np.asarray(self.env.state())
        except Exception as error:
            # among them environments that know no state once everybody has left
            raise StateError(f"state() raised {type(error).__name__}: {error}. {OTHER_STATE}") from error
        if state.size != self._layout.spec.state_size or state.dtype.kind not in "fiub":
            text = f"has {state.size} entries of dtype {state.dtype}; at first it had {self._layout.spec.state_size}"
            raise BadValueError("state", f"{text}. {OTHER_STATE}")
        return state.astype(np.float32).ravel()


def _own_state(owner: str, env: ParallelEnv) -> np.ndarray | None:
    """Return what `state()` shows, None if the environment has no such thing."""
    show = getattr(env, "state", None)
    # PettingZoo's rock-paper-scissors keeps the last moves in an attribute of that name.
    if not callable(show) or not callable(getattr(getattr(env, "unwrapped", env), "state", show)):
        return None
    try:
        state = np.asarray(show(), np.float32).ravel()
    except NotImplementedError:
        return None
    except Exception as error:
        text = "%s: its state() fails (%s: %s), so the observations side by side stand in; own_state=false is the same"
        _log.warning(text, owner, type(error).__name__, error)
        return None
    return state if state.size else None


def _flag(field: str, values: dict[str, Any], agent: str, index: dict[str, int]) -> bool:
    value = values.get(agent)
    if not isinstance(value, bool | np.bool_):
        text = f"is {value!r}; it must be True or False" if agent in values else "is missing"
        raise BadValueError(field, text, index[agent])
    return bool(value)


def _number(value: Any, agent: int) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        shown = f"of shape {np.shape(value)}" if np.ndim(value) else repr(value)
        raise BadValueError("reward", f"is a {type(value).__name__} {shown}; it must be a number", agent) from None


def _kind(answer: Any) -> str:
    return f"{len(answer)} values" if isinstance(answer, tuple | list) else f"a {type(answer).__name__}"
