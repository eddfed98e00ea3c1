"""Bugs in runs: seeds, resume, checkpoints, statistics, sweeps, settings and exit codes."""

from tests.planted.bug import Bug

RESUME = (
    "tests/spnpolicy/training/test_resume.py::test_a_resumed_run_equals_the_unbroken_one[vdn-chain with random masks]"
)
CHECKPOINTS = "tests/spnpolicy/training/storage/test_checkpoints.py"
DAMAGE = f"{CHECKPOINTS}::test_every_changed_or_missing_byte_is_noticed"
DISK = "tests/faults/checkpoints/test_disk_faults.py::test_each_system_call_of_a_save_may_fail"
FILES = "tests/spnpolicy/training/test_resume.py"
DOORS = "tests/attacks/test_disagreeing_runs.py::test_no_door_believes_files_that_disagree"
LOOP = (
    "tests/spnpolicy/training/test_loop.py::test_settings_of_replay_are_refused_by_name_where_rollouts_are_learned_from"
)
DROPS = "tests/faults/envs/test_dropped_episodes.py"
SEEDING = "tests/spnpolicy/base/test_seeding.py"
STATISTICS = "tests/spnpolicy/experiments/statistics/test_statistics.py"
DECODING = "tests/spnpolicy/base/test_decoding.py"
FAILED_RUNS = (
    "tests/spnpolicy/experiments/benchmarks/test_benchmark.py::test_failed_runs_end_with_3_and_say_where_to_look"
)
EXIT_CODES = "tests/spnpolicy/cli/test_failures.py"

BUGS = (
    Bug(
        "seeding: streams depend on Python's hash",
        "spnpolicy/base/seeding.py",
        '    digest = hashlib.sha256(f"spnpolicy:{seed}:{name}".encode()).digest()\n',
        '    digest = hash(f"spnpolicy:{seed}:{name}").to_bytes(32, "little", signed=True)\n',
        (SEEDING,),
    ),
    Bug(
        "seeding: a stream depends on those opened before it",
        "spnpolicy/base/seeding.py",
        'derive_seed(self.seed, f"numpy:{name}{self._suffix}", bits=128)',
        'derive_seed(self.seed, f"numpy:{len(self._numpy)}{self._suffix}", bits=128)',
        (SEEDING,),
    ),
    Bug(
        "config: settings of replay are ignored by who learns from rollouts",
        "spnpolicy/training/config.py",
        "if rollout is not None and (unused := self.replay_settings()):",
        "if rollout is None and (unused := {}):",
        (LOOP,),
    ),
    Bug(
        "resume: generators are not restored",
        "spnpolicy/training/learning.py",
        '        self.streams.load_state_dict(state["streams"])\n',
        "",
        (RESUME,),
    ),
    Bug(
        "resume: replay begins empty",
        "spnpolicy/training/learning.py",
        '        self.replay.load_state_dict(state["replay"])\n',
        "",
        (RESUME,),
    ),
    Bug(
        "resume: counters begin at zero",
        "spnpolicy/training/learning.py",
        "            setattr(self, name, counters[name])\n",
        "            setattr(self, name, 0)\n",
        (RESUME,),
    ),
    Bug(
        "resume: the environment begins new episodes",
        "spnpolicy/training/learning.py",
        '        self._step = self.env.load_state_dict(state["environment"]["env"])\n',
        "        self.begin()\n",
        (RESUME,),
    ),
    Bug(
        "resume: sums of the episodes under way are lost",
        "spnpolicy/training/recorder.py",
        '        self.tracker.load_state_dict(state["tracker"])\n',
        "",
        (RESUME,),
    ),
    Bug(
        "resume: metrics are not cut back to the checkpoint",
        "spnpolicy/training/storage/append.py",
        "        if kept < len(content):\n",
        "        if kept > len(content):\n",
        (RESUME,),
    ),
    Bug(
        "resume: any setting may be edited on the way",
        "spnpolicy/training/agreement.py",
        "        if name not in _FREE:\n",
        "        if name not in changed:\n",
        (f"{FILES}::test_only_length_and_what_is_measured_and_kept_may_change_on_the_way",),
    ),
    Bug(
        "resume: lines of the files of a run may be lost",
        "spnpolicy/training/storage/append.py",
        "    if count < before:\n",
        "    if count < 0:\n",
        (f"{FILES}::test_a_run_does_not_go_on_where_lines_of_its_files_are_lost",),
    ),
    Bug(
        "resume: where the pointer is lost a run is taken for one without a checkpoint",
        "spnpolicy/training/loop.py",
        'if not (checkpoints / "latest").exists() and not complete_checkpoints(checkpoints):',
        'if not (checkpoints / "latest").exists():',
        (f"{FILES}::test_where_the_pointer_is_lost_a_run_goes_on_from_the_newest_whole_checkpoint",),
    ),
    Bug(
        "resume: where the checkpoints are lost the records are removed as well",
        "spnpolicy/training/runs.py",
        '    if metrics.is_file() and b"\\n" in metrics.read_bytes():\n',
        "    if not metrics.parent.is_dir():\n",
        (f"{FILES}::test_a_run_that_ended_before_its_first_checkpoint_begins_again",),
    ),
    Bug(
        "checkpoint: where the pointer is lost the oldest one is taken",
        "spnpolicy/training/storage/checkpoints.py",
        "    for folder in reversed(complete_checkpoints(root)):\n        try:\n",
        "    for folder in complete_checkpoints(root):\n        try:\n",
        (f"{CHECKPOINTS}::test_where_the_pointer_is_lost_the_newest_whole_one_is_read_and_the_next_one_follows_it",),
    ),
    Bug(
        "finished run: its files need not agree",
        "spnpolicy/training/runs.py",
        "        check_result(folder, config, read_records(folder), result)\n",
        "        pass\n",
        (f"{DOORS}[finished-metrics-cut-to-half]",),
    ),
    Bug(
        "unfinished run: other records are believed",
        "spnpolicy/training/agreement.py",
        'if saved.get("records_sha256", digest := RecordDigest(records).hex()) != digest:',
        "if not records and RecordDigest(records).hex():",
        (f"{DOORS}[interrupted-metrics-with-another-number-on-the-way]",),
    ),
    Bug(
        "load_run: weights of other settings are taken",
        "spnpolicy/training/runs.py",
        '    if "config" in state:\n',
        '    if "config" not in state:\n',
        ("tests/spnpolicy/training/test_loop.py::test_loading_what_is_not_a_run",),
    ),
    Bug(
        "run.json: an update of a rollout is called a batch of replay",
        "spnpolicy/training/facts.py",
        "{of_replay if needs.rollout is None else of_rollout}",
        "{of_replay or of_rollout}",
        ("tests/spnpolicy/training/test_loop.py::test_run_json_says_what_an_update_learns_from",),
    ),
    Bug(
        "guard: an environment may lose all its episodes as long as others do not",
        "spnpolicy/envs/checks/guard.py",
        "if most >= MOST_DROPPED or self._dropped_by_all >= everywhere:",
        "if self._dropped_by_all >= everywhere:",
        (f"{DROPS}::test_one_environment_that_loses_all_its_episodes_is_found_among_others",),
    ),
    Bug(
        "guard: an environment may lose all its episodes",
        "spnpolicy/envs/checks/guard.py",
        "        self._dropped_by_all += int(discarded.sum())\n",
        "        self._dropped_by_all = int(discarded.sum())\n",
        (f"{DROPS}::test_when_nothing_but_drops_follow_each_other_the_environment_is_given_up",),
    ),
    Bug(
        "evaluation: explores, and moves the stream of exploration",
        "spnpolicy/training/evaluation.py",
        "player.act(step, explore=False)",
        "player.act(step, explore=True)",
        ("tests/spnpolicy/training/test_resume.py::test_evaluation_moves_no_random_stream",),
    ),
    Bug(
        "evaluation: short episodes count more than once",
        "spnpolicy/training/evaluation.py",
        "        pending[ended.env] = False\n",
        "        pending[ended.env[:1]] = False\n",
        ("tests/spnpolicy/training/test_evaluation.py",),
    ),
    Bug(
        "evaluation: reaching the time limit with a reward is a success",
        "spnpolicy/training/episodes.py",
        "success = step.terminated[done] & (reward[done] > 0)",
        "success = reward[done] > 0",
        ("tests/spnpolicy/training/test_evaluation.py",),
    ),
    Bug(
        "evaluation: the discounted return begins with a discount",
        "spnpolicy/training/episodes.py",
        "        self._discounted += self._weights * reward\n        self._weights *= self._discount\n",
        "        self._weights *= self._discount\n        self._discounted += self._weights * reward\n",
        ("tests/spnpolicy/training/test_evaluation.py",),
    ),
    Bug(
        "checkpoint: SHA-256 of tensors is not compared",
        "spnpolicy/training/storage/tensor_files.py",
        "    if digest.hexdigest() != facts.sha256:\n",
        "    if not digest.hexdigest():\n",
        (DAMAGE,),
    ),
    Bug(
        "checkpoint: SHA-256 of the state is not compared",
        "spnpolicy/training/storage/checkpoints.py",
        "    if hashlib.sha256(content).hexdigest() != facts.sha256:\n",
        "    if not facts.sha256:\n",
        (DAMAGE,),
    ),
    Bug(
        "checkpoint: another one may stand under the name of the latest",
        "spnpolicy/training/storage/checkpoints.py",
        "    if digest is not None and hashlib.sha256(content).hexdigest() != digest:\n",
        "    if digest is not None and not content:\n",
        (CHECKPOINTS,),
    ),
    Bug(
        "checkpoint: truth values may be two",
        "spnpolicy/training/storage/tensor_files.py",
        "        if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:\n",
        "        if tensor.dtype == torch.bool and tensor.numel() > 1 << 60:\n",
        ("tests/attacks/test_attacks.py",),
    ),
    Bug(
        "checkpoint: latest moves before the folder is complete",
        "spnpolicy/training/storage/checkpoints.py",
        "        os.rename(temporary, final)\n"
        "        sync_folder(root)\n"
        '        replace_file(root / pointer, f"{final.name} {digest}\\n".encode())\n',
        '        replace_file(root / pointer, f"{final.name} {digest}\\n".encode())\n'
        "        os.rename(temporary, final)\n"
        "        sync_folder(root)\n",
        (DISK, "tests/faults/checkpoints/test_kill_checkpoints.py"),
    ),
    Bug(
        "checkpoint: old ones are not removed",
        "spnpolicy/training/storage/checkpoints.py",
        "        for old in _folders(root, kind)[:-keep]:\n",
        "        for old in _folders(root, kind)[:0]:\n",
        (CHECKPOINTS,),
    ),
    Bug(
        "checkpoint: files nobody listed are ignored",
        "spnpolicy/training/storage/checkpoints.py",
        '            if name not in manifest and name != "manifest.json" and not name.startswith("."):\n',
        "            if not name:\n",
        (CHECKPOINTS, "tests/attacks/test_attacks.py"),
    ),
    Bug(
        "checkpoint: a header of any length is read into memory",
        "spnpolicy/training/storage/tensor_files.py",
        "    if length > MAX_HEADER:\n",
        "    if length > 1 << 60:\n",
        (CHECKPOINTS,),
    ),
    Bug(
        "checkpoint: a link is followed",
        "spnpolicy/base/files.py",
        "        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode\n"
        "        if stat.S_ISREG(mode):\n"
        "            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC\n",
        "        mode = os.stat(name, dir_fd=folder).st_mode\n"
        "        if stat.S_ISREG(mode):\n"
        "            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC\n",
        (f"{CHECKPOINTS}::test_symbolic_links_are_refused",),
    ),
    Bug(
        "metrics: a torn last line is read",
        "spnpolicy/training/metrics.py",
        '    lines = content.split(b"\\n")[:-1]\n',
        '    lines = [line for line in content.split(b"\\n") if line]\n',
        ("tests/spnpolicy/training/test_metrics.py",),
    ),
    Bug(
        "saver: the failures of long ago still count",
        "spnpolicy/training/storage/saver.py",
        "        self._failed_attempts, self._due, self.failures = 0, math.inf, 0\n",
        "        self._failed_attempts, self._due = 0, math.inf\n",
        ("tests/faults/checkpoints/test_saver.py",),
    ),
    Bug(
        "statistics: the interquartile mean cuts nothing off",
        "spnpolicy/experiments/statistics/bootstrap.py",
        "    cut = values.shape[-1] // 4\n",
        "    cut = 0\n",
        (STATISTICS,),
    ),
    Bug(
        "statistics: the bootstrap draws episodes, not runs",
        "spnpolicy/experiments/statistics/bootstrap.py",
        "    return task[generator.integers(len(task), size=(resamples, len(task)))]\n",
        "    return task.reshape(-1)[generator.integers(task.size, size=(resamples, *task.shape))]\n",
        (f"{STATISTICS}::test_episodes_of_a_run_are_not_independent",),
    ),
    Bug(
        "statistics: the interval has one side only",
        "spnpolicy/experiments/statistics/bootstrap.py",
        "    tail = (1.0 - confidence) / 2\n",
        "    tail = 1.0 - confidence\n",
        (f"{STATISTICS}::test_bootstrap_equals_a_slow_loop",),
    ),
    Bug(
        "parallel: gradients are added, not averaged",
        "spnpolicy/base/distributed.py",
        "    flat /= size\n",
        "",
        ("tests/spnpolicy/training/test_parallel.py::test_numbers_travel",),
    ),
    Bug(
        "parallel: gradients stay at home",
        "spnpolicy/parts/learner.py",
        "    average([*chain(*gradients), *losses])\n",
        "    average(losses)\n",
        ("tests/spnpolicy/training/test_parallel.py::test_two_halves_of_a_batch_give_the_step_of_the_whole_batch",),
    ),
    Bug(
        "sweeps: finished trials are begun again",
        "spnpolicy/experiments/sweeps/runner.py",
        'TrialStatus(trial, "kept" if is_finished(trial, folder) else "waiting")',
        "TrialStatus(trial)",
        ("tests/faults/sweeps/test_sweep_faults.py::test_finished_trials_are_left_alone",),
    ),
    Bug(
        "sweeps: a failure is forgotten",
        "spnpolicy/experiments/sweeps/runner.py",
        'status.state = "failed" if status.failures >= MOST_TRIES else "waiting"',
        'status.state = "done" if status.failures >= MOST_TRIES else "waiting"',
        (FAILED_RUNS,),
    ),
    Bug(
        "sweeps: a checkpoint of other settings is gone on with",
        "spnpolicy/experiments/sweeps/trials.py",
        '    if (own / "checkpoints").is_dir() and _has_config(own, config):\n',
        '    if (own / "checkpoints").is_dir():\n',
        ("tests/spnpolicy/experiments/sweeps/test_runner.py::test_a_sound_run_of_other_settings_is_not_gone_on_with",),
    ),
    Bug(
        "settings: unknown names are dropped",
        "spnpolicy/base/decoding.py",
        "    for key in value:\n        if key not in fields:\n",
        "    value = {key: item for key, item in value.items() if key in fields}\n"
        "    for key in value:\n        if key not in fields:\n",
        (DECODING,),
    ),
    Bug(
        "settings: true passes as one",
        "spnpolicy/base/decoding.py",
        "    if type(value) is kind:\n        return value\n",
        "    if isinstance(value, kind):\n        return value\n",
        (DECODING,),
    ),
    Bug(
        "settings: numbers may be infinite",
        "spnpolicy/base/decoding.py",
        "        if not math.isfinite(number):\n",
        "        if number is None:\n",
        (DECODING, "tests/fuzz/test_fuzz_hostile_json.py"),
    ),
    Bug(
        "settings: of two equal keys the last one counts",
        "spnpolicy/base/strict_json.py",
        "    if len(result) < len(pairs):\n",
        "    if len(result) > len(pairs):\n",
        (DECODING,),
    ),
    Bug(
        "settings: nan is a number",
        "spnpolicy/base/strict_json.py",
        '    raise ValueError(f"{name} is not a number that JSON allows")\n',
        "    return float(name)  # type: ignore[return-value]\n",
        (DECODING,),
    ),
    Bug(
        "command line: exit code 0 after a failure",
        "spnpolicy/cli/failures.py",
        "    return code\n",
        "    return 0\n",
        (EXIT_CODES,),
    ),
    Bug(
        "command line: exit code 0 after an interruption",
        "spnpolicy/cli/train.py",
        "    print(result_text(folder, config, result))\n    return 0 if result.is_finished else INTERRUPTED\n",
        "    print(result_text(folder, config, result))\n    return 0\n",
        (f"{EXIT_CODES}::test_130_on_ctrl_c_with_a_folder_that_can_be_resumed",),
    ),
    Bug(
        "command line: exit code 0 after a sweep with failed runs",
        "spnpolicy/cli/sweep.py",
        "    return FAILED if failed else 0\n",
        "    return 0\n",
        (FAILED_RUNS,),
    ),
)
