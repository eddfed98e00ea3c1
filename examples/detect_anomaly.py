"""Learn how a team behaves from its logs, then say which agent of which step behaves oddly.

Six robots clear a building. The leader calls one of three plays, robots 1 to 3 follow the play, and robots 4 and 5
each copy a neighbour. In some later steps one robot acts at random. Run it with `python examples/detect_anomaly.py`.
"""

from math import log

import torch

import circuits

AGENTS, ACTIONS = 6, 4
generator = torch.Generator().manual_seed(0)


def team_log(steps: int) -> torch.Tensor:
    """Return actions of a healthy team, shape (steps, agents): who follows errs once in 200 steps."""
    actions = torch.randint(ACTIONS, (steps, AGENTS), generator=generator)
    actions[:, 0] = torch.randint(3, (steps,), generator=generator)
    follows = torch.rand(steps, AGENTS, generator=generator) < 0.995
    # Play 2 sends the robots to different places; plays 0 and 1 keep them together.
    for robot, leader, shift in ((1, 0, 0), (2, 0, 1), (3, 0, 2), (4, 1, 0), (5, 2, 0)):
        expected = (actions[:, leader] + shift * (actions[:, 0] == 2)) % ACTIONS
        actions[:, robot] = torch.where(follows[:, robot], expected, actions[:, robot])
    return actions


train, healthy, broken = (team_log(steps) for steps in (5_000, 20_000, 5_000))
odd = torch.randint(1, AGENTS, (len(broken),), generator=generator)
broken[torch.arange(len(broken)), odd] = torch.randint(ACTIONS, (len(broken),), generator=generator)


def surprise(team: circuits.CircuitDistribution, actions: torch.Tensor) -> torch.Tensor:
    """Return -log p(own action | actions of all others) of every robot, in nats, shape (steps, agents)."""
    return -team.conditionals(actions).gather(-1, actions.unsqueeze(-1)).squeeze(-1).log()


def report(title: str, team: circuits.CircuitDistribution) -> None:
    """Print how many steps with an odd robot are flagged, and how often the right robot is named."""
    calm, alarm = surprise(team, healthy), surprise(team, broken)
    print(f"{title}: one healthy step carries {team.entropy().item() / log(2):.2f} of {2 * AGENTS} bits")
    print("  allowed false alarms   measured   detected   right robot named in these")
    for share in (0.005, 0.01, 0.02):
        # Flagged: the most surprising robot is more surprising than in all but a share of healthy steps.
        threshold = calm[:10_000].amax(1).quantile(1 - share)
        false_alarms = (calm[10_000:].amax(1) > threshold).double().mean()
        flagged = alarm.amax(1) > threshold
        named = (alarm.argmax(1) == odd)[flagged].double().mean()
        print(f"  {share:>20.1%} {false_alarms:>10.1%} {flagged.double().mean():>10.1%} {named:>28.1%}")


structure, logits = circuits.learning.learn_cutset_network(train, [ACTIONS] * AGENTS)
print(f"learned: {structure}")
report("team model", circuits.CircuitDistribution(structure, logits))
apart = circuits.structures.mean_field([ACTIONS] * AGENTS)
report("each robot alone", circuits.CircuitDistribution(apart, circuits.learning.maximum_likelihood(apart, train)))
print(
    f"a robot at random does something else in {1 - 1 / ACTIONS:.0%} of steps; only those can be told from healthy ones"
)
