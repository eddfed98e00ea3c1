"""Bugs in algorithms that other lists leave out: proposals, payoffs, returns, minibatches."""

from tests.planted.bug import Bug

DOOR = "tests/spnpolicy/algorithms/test_settings_at_the_door.py"

BUGS = (
    Bug(
        "settings: ranges are not looked at",
        "spnpolicy/base/decoding.py",
        "                rule.check(number, path)",
        "                pass",
        (DOOR,),
    ),
    Bug(
        "settings: a gradient may be shortened to a negative length",
        "spnpolicy/parts/settings.py",
        "max_gradient_norm: Positive = 10.0",
        "max_gradient_norm: float = 10.0",
        (DOOR,),
    ),
    Bug(
        "settings: a record made by hand is not checked",
        "spnpolicy/base/decoding.py",
        "            _decode(kind, getattr(self, name), name)",
        "            pass",
        ("tests/spnpolicy/networks/test_networks.py", "tests/spnpolicy/base/test_decoding.py"),
    ),
    Bug(
        "replay: larger than the memory of the machine",
        "spnpolicy/data/stores.py",
        '_require_memory("train.replay_capacity", capacity, capacity, needs, spec)',
        "pass",
        (DOOR,),
    ),
    Bug(
        "aql: the target values its own choice",
        "spnpolicy/algorithms/aql.py",
        "_, largest = nearest.best_of(self.target_critic, batch.next_state, candidates)",
        "_, largest = nearest.best_of(self.critic, batch.next_state, candidates)",
        ("tests/spnpolicy/algorithms/test_aql.py",),
    ),
    Bug(
        "aql: no uniform candidates",
        "spnpolicy/algorithms/aql.py",
        "return torch.cat([proposed, uniform], -2)",
        "return torch.cat([proposed, proposed], -2)",
        ("tests/spnpolicy/algorithms/test_aql.py",),
    ),
    Bug(
        "aql: entropy is punished",
        "spnpolicy/algorithms/aql.py",
        "loss = -mean_of_valid(log_prob + self.config.entropy_weight * entropy, batch.valid)",
        "loss = -mean_of_valid(log_prob - self.config.entropy_weight * entropy, batch.valid)",
        ("tests/spnpolicy/algorithms/test_aql.py",),
    ),
    Bug(
        "dcg: a pair is seen in one direction",
        "spnpolicy/algorithms/dcg.py",
        "both = payoffs[..., :pairs, :, :] + payoffs[..., pairs:, :, :].transpose(-1, -2)",
        "both = payoffs[..., :pairs, :, :] + payoffs[..., :pairs, :, :]",
        ("tests/spnpolicy/algorithms/test_dcg.py",),
    ),
    Bug(
        "dcg: a state without actions has a value",
        "spnpolicy/algorithms/dcg.py",
        "return zero_where_stuck(factors(best) + target.offset(batch.next_state), available)",
        "return factors(best) + target.offset(batch.next_state)",
        (
            "tests/spnpolicy/algorithms/test_dcg.py",
            "tests/spnpolicy/algorithms/test_algorithms.py",
        ),
    ),
    Bug(
        "policies: entropy without its sign",
        "spnpolicy/maths/categorical.py",
        "return numerics.entropy_term(log_probs, log_probs.exp()).sum(-1)",
        "return -numerics.entropy_term(log_probs, log_probs.exp()).sum(-1)",
        ("tests/spnpolicy/maths/test_categorical.py",),
    ),
    Bug(
        "policies: means over impossible actions",
        "spnpolicy/maths/categorical.py",
        "return numerics.weighted(log_probs.exp(), values).sum(-1)",
        "return (log_probs.exp() * values).sum(-1)",
        (
            "tests/spnpolicy/maths/test_categorical.py",
            "tests/spnpolicy/algorithms/test_coma.py",
        ),
    ),
    Bug(
        "nearest: a smaller set of beginnings",
        "spnpolicy/networks/nearest.py",
        "first, second = (a[:, None] * b <= count).nonzero(as_tuple=True)",
        "first, second = (a[:, None] * b < count).nonzero(as_tuple=True)",
        ("tests/spnpolicy/networks/test_nearest.py",),
    ),
    Bug(
        "nearest: actions that do not exist are near",
        "spnpolicy/networks/nearest.py",
        "return squares.masked_fill(~self.exists, math.inf)",
        "return squares",
        ("tests/spnpolicy/networks/test_nearest.py",),
    ),
    Bug(
        "features: waves of one length",
        "spnpolicy/networks/features.py",
        "rates = torch.arange(1, self.frequencies + 1,",
        "rates = 1 + 0 * torch.arange(1, self.frequencies + 1,",
        ("tests/spnpolicy/networks/test_features.py",),
    ),
    Bug(
        "mean field: forbidden actions are worth nothing special",
        "spnpolicy/algorithms/mean_field.py",
        "table.where(exists[..., scope[0], : table.shape[-1]], FORBIDDEN * temperature) if len(scope) == 1 else table",
        "table",
        ("tests/spnpolicy/algorithms/test_mean_field.py",),
    ),
    Bug(
        "reinforce: returns of episodes that are not over count",
        "spnpolicy/algorithms/reinforce.py",
        "return return_t.where(known, 0.0), complete",
        "return return_t, torch.ones_like(complete)",
        ("tests/spnpolicy/algorithms/test_policy_gradient.py",),
    ),
    Bug(
        "reinforce: a time limit is always an end",
        "spnpolicy/algorithms/reinforce.py",
        "is_end = window.ended & window.valid & (window.terminated | time_limit_ends)",
        "is_end = window.ended & window.valid",
        ("tests/spnpolicy/algorithms/test_policy_gradient.py",),
    ),
    Bug(
        "vdn: the largest utility instead of their sum",
        "spnpolicy/algorithms/iql.py",
        "return values.sum(-1)",
        "return values.amax(-1)",
        (
            "tests/spnpolicy/algorithms/test_value_baselines.py",
            "tests/spnpolicy/algorithms/test_algorithms.py::test_vdn_learns_the_additive_projection",
        ),
    ),
    Bug(
        "ppo: the last minibatch is left out",
        "spnpolicy/parts/minibatches.py",
        "for chosen in order.tensor_split(min(count, total)):",
        "for chosen in order.tensor_split(min(count, total))[:-1]:",
        (
            "tests/spnpolicy/algorithms/test_ppo.py",
            "tests/spnpolicy/parts/test_actor_critic.py",
        ),
    ),
    Bug(
        "ppo: a step that failed stays",
        "spnpolicy/parts/minibatches.py",
        "            learner.load_state_dict(before)\n            break",
        "            break",
        (
            "tests/spnpolicy/algorithms/test_ppo.py",
            "tests/spnpolicy/parts/test_actor_critic.py",
        ),
    ),
    Bug(
        "coma: one step of the critic on every rollout",
        "spnpolicy/algorithms/coma.py",
        "for _ in range(config.critic_steps - 1):",
        "for _ in range(0):",
        (
            "tests/spnpolicy/algorithms/test_coma.py::test_the_critic_does_its_steps_on_every_rollout_and_the_actors_one",
        ),
    ),
    Bug(
        "a2c: advantages stay as they are",
        "spnpolicy/algorithms/a2c.py",
        "            advantage_t = normalized(advantage_t, batch.valid)\n",
        "            pass\n",
        ("tests/spnpolicy/algorithms/test_policy_gradient.py::test_normalized_advantages_know_no_scale",),
    ),
    Bug(
        "ppo: every process normalises by itself",
        "spnpolicy/parts/targets.py",
        "    average([total, sums])\n",
        "",
        ("tests/spnpolicy/training/test_parallel.py::test_advantages_are_normalized_over_all_processes",),
    ),
    Bug(
        "ppo: advantages are only centred",
        "spnpolicy/parts/targets.py",
        "return centred / ((squares / total).sqrt() + LEAST_DEVIATION)",
        "return centred",
        (
            "tests/spnpolicy/algorithms/test_ppo.py",
            "tests/spnpolicy/parts/test_actor_critic.py",
        ),
    ),
)
