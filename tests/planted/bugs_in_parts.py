"""Bugs in what learners share: rollouts that are gone through in parts, and step sizes that fall."""

from tests.planted.bug import Bug

PARTS = "tests/spnpolicy/algorithms/test_rollouts_in_parts.py"
STEP_SIZES = "tests/spnpolicy/training/test_step_sizes.py"
COUNTS = "tests/spnpolicy/training/test_counts.py"

BUGS = (
    Bug(
        "rollouts: iql ignores passes and minibatch",
        "spnpolicy/algorithms/iql.py",
        "return regress(self, batch, self._targets(batch, selector), self._step, values)",
        "return self._step(batch, self._targets(batch, selector), values)",
        (PARTS, COUNTS),
    ),
    Bug(
        "rollouts: iql works targets out anew in every part",
        "spnpolicy/algorithms/iql.py",
        "numbers = improve(self, critic=squared_td_loss(value_t, target_t, rows.valid))",
        "numbers = improve(self, critic=squared_td_loss(value_t, self._targets(rows, None), rows.valid))",
        (PARTS,),
    ),
    Bug(
        "rollouts: recurrent networks learn from single steps",
        "spnpolicy/parts/minibatches.py",
        "whole_windows=learner.needs.memory_size > 0,",
        "whole_windows=False,",
        (PARTS,),
    ),
    Bug(
        "rollouts: targets stay in their order while rows do not",
        "spnpolicy/parts/minibatches.py",
        "yield part, [rows(column) for column in columns]",
        "yield part, [column[: len(chosen)] for column in columns]",
        (PARTS,),
    ),
    Bug(
        "rollouts: passes are counted as one",
        "spnpolicy/parts/settings.py",
        "memory_size=memory_size, passes=config.passes)",
        "memory_size=memory_size)",
        (COUNTS,),
    ),
    Bug(
        "step sizes: fall from the start",
        "spnpolicy/parts/settings.py",
        "max((progress - self.falls_after) / (1.0 - self.falls_after), 0.0)",
        "progress",
        (STEP_SIZES,),
    ),
    Bug(
        "step sizes: learners within a learner are left out",
        "spnpolicy/parts/learner.py",
        "            set_step_sizes(inner, progress)\n",
        "            pass\n",
        (STEP_SIZES,),
    ),
    Bug(
        "step sizes: a run never sets them",
        "spnpolicy/training/learning.py",
        "            set_step_sizes(self.algorithm, self.progress)\n",
        "",
        (STEP_SIZES,),
    ),
)
