"""Random windows of consecutive steps, with ends of every kind, for tests of on-policy learners."""

import torch

from spnpolicy.data.protocol import Window


def random_window(spec, time, envs, seed, *, memory=0, truncates=True, fails=True):
    """A window whose episodes terminate, are cut off and fail; without `truncates` the last step terminates."""
    generator = torch.Generator().manual_seed(seed)
    agents, width = spec.num_agents, max(spec.cardinalities)
    exists = torch.arange(width) < torch.tensor(spec.cardinalities)[:, None]
    available = exists & (torch.rand(time + 1, envs, agents, width, generator=generator) < 0.7)
    available[..., 0] = True
    if not spec.has_action_masks:
        available = exists.expand(time + 1, envs, agents, width)
    seen = torch.randn(time + 1, envs, agents, spec.observation_size, generator=generator)
    state = torch.randn(time + 1, envs, spec.state_size, generator=generator)
    scores = torch.rand(time, envs, agents, width, generator=generator)
    kind = torch.rand(time, envs, generator=generator)
    terminated = kind < 0.2
    truncated = (kind >= 0.2) & (kind < 0.4) & truncates
    failed = (kind >= 0.4) & (kind < 0.5) & fails
    if not truncates:
        terminated[-1], failed[-1] = True, False
        # A failure cuts the step before as well, so there has to be an end.
        terminated[:-1] |= failed[1:]
        failed &= ~terminated
    return Window(
        observation=seen[:-1],
        state=state[:-1],
        actions=scores.masked_fill(~available[:-1], -1.0).argmax(-1),
        reward=torch.randn(time, envs, agents, generator=generator),
        terminated=terminated,
        available_actions=available[:-1],
        next_observation=seen[1:],
        next_state=state[1:],
        next_available_actions=available[1:],
        ended=terminated | truncated | failed,
        valid=~failed,
        memory=torch.zeros(envs, agents, memory),
    )


def disturb(*networks, seed=0, scale=0.3):
    """Take networks away from where they start, where their outputs are almost 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def backward_targets(batch, reward, discount, trace, bootstrap, taken):
    """The lambda-returns of every agent, number by number. `bootstrap` is used where the next action is not known.

    All arguments but the batch, discount and trace have shape (time, envs, agents).
    """
    time, envs, agents = reward.shape
    target = torch.zeros(time, envs, agents, dtype=torch.float64)
    for env in range(envs):
        for i in range(agents):
            for t in reversed(range(time)):
                if batch.terminated[t, env]:
                    after = 0.0
                elif batch.ended[t, env] or t == time - 1 or not batch.valid[t + 1, env]:
                    after = float(bootstrap[t, env, i])
                else:
                    after = (1 - trace) * float(taken[t, env, i]) + trace * float(target[t + 1, env, i])
                target[t, env, i] = float(reward[t, env, i]) + discount * after
    return target
