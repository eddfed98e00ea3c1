"""Errors of the reinforcement-learning layer; the command line turns each into a few lines and an exit code."""


class SpnPolicyError(Exception):
    """Base class of every error that spnpolicy raises on purpose."""

    exit_code = 2


class ConfigError(SpnPolicyError, ValueError):
    """A setting has the wrong name, type or range."""


class EnvError(SpnPolicyError):
    """An environment broke its contract: wrong shape, nan, or no action allowed."""

    exit_code = 5


class CheckpointError(SpnPolicyError):
    """A checkpoint is missing, damaged or not safe to read."""


class DiskError(CheckpointError):
    """The disk refuses to keep a checkpoint."""

    exit_code = 4


class NonFiniteError(SpnPolicyError):
    """A loss or another number of an update became nan or infinite."""

    exit_code = 6
