"""Bugs in curricula: when the next stage begins, what it begins with, and what a checkpoint says of it."""

from tests.planted.bug import Bug

T = "tests/spnpolicy/training/test_curriculum.py"
COURSE, LEARNING = "spnpolicy/training/course.py", "spnpolicy/training/learning.py"

BUGS = (
    Bug(
        "curriculum: any share of successes is enough",
        COURSE,
        "is_full and bool(self._latest.mean() >= self._curriculum.success)",
        "is_full",
        (f"{T}::test_a_stage_is_mastered_exactly_at_the_threshold",),
    ),
    Bug(
        "curriculum: a few lucky episodes are enough",
        COURSE,
        "is_full = len(self._latest) == self._curriculum.episodes",
        "is_full = len(self._latest) > 0",
        (f"{T}::test_a_stage_is_mastered_exactly_at_the_threshold",),
    ),
    Bug(
        "curriculum: episodes count as they end, the short ones first",
        COURSE,
        "is_next = waiting[:, 0] < oldest",
        "is_next = waiting[:, 0] >= 0",
        (f"{T}::test_episodes_count_in_the_order_in_which_they_began",),
    ),
    Bug(
        "curriculum: successes count in the next stage too",
        COURSE,
        "self._latest, self._waiting = self._latest[:0], self._waiting[:0]",
        "self._waiting = self._waiting[:0]",
        (f"{T}::test_the_next_stage_begins_with_nothing_and_the_last_is_the_task_itself",),
    ),
    Bug(
        "curriculum: replay of the old stage is kept",
        LEARNING,
        "        self.replay = store_for(\n",
        '        self.replay = getattr(self, "replay", None) or store_for(\n',
        (f"{T}::test_nothing_of_a_stage_crosses_into_the_next",),
    ),
    Bug(
        "curriculum: a rollout of two stages is learned from",
        LEARNING,
        "is_between = self.needs.rollout is None or self.iterations % self.needs.rollout == 0",
        "is_between = True or self.needs.rollout is None",
        (f"{T}::test_who_learns_from_rollouts_ends_a_stage_with_a_rollout",),
    ),
    Bug(
        "curriculum: episodes of the old stage go on in the new one",
        "spnpolicy/training/loop.py",
        "        self.learning.begin_next_stage()\n        self._recorder.tracker.forget()\n",
        "        self.learning.begin_next_stage()\n",
        (f"{T}::test_records_say_the_stage_and_none_is_about_two_of_them",),
    ),
    Bug(
        "curriculum: evaluation is read as the stage",
        LEARNING,
        "        self._read(self.spec)\n        try:\n",
        "        try:\n",
        (f"{T}::test_evaluation_is_in_the_task_of_the_run",),
    ),
    Bug(
        "curriculum: evaluation is in the first stage",
        LEARNING,
        'self._evaluation_env = self._make_env(settings.evaluation_episodes, "evaluation")',
        'self._evaluation_env = self._make_env(settings.evaluation_episodes, "evaluation", self.course.options)',
        (f"{T}::test_evaluation_is_in_the_task_of_the_run",),
    ),
    Bug(
        "curriculum: a resumed run begins again in its first stage",
        COURSE,
        '        self.stage, self.began_at = state["stage"], state["began_at"]\n',
        '        self.began_at = state["began_at"]\n',
        (f"{T}::test_a_resumed_run_equals_the_unbroken_one_across_stages",),
    ),
    Bug(
        "curriculum: successes so far are not in the checkpoint",
        COURSE,
        '        self._latest, self._waiting = state["latest"].copy(), state["waiting"].copy()\n',
        "",
        (f"{T}::test_a_resumed_run_equals_the_unbroken_one_across_stages",),
    ),
    Bug(
        "curriculum: stages that nobody can read are found when they begin",
        "spnpolicy/training/retarget.py",
        "    if different:\n",
        "    if not here:\n",
        (f"{T}::test_a_stage_that_cannot_be_read_is_refused_before_anything_is_written",),
    ),
)
