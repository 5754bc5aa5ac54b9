"""The ways a run can end badly: one class per exit code.

Each message is one line that a user can act on.
"""


class SkiplabError(Exception):
    """An error of ours: its message is for the user, its `exit_code` for the shell."""

    exit_code = 1


class UsageError(SkiplabError):
    """A bad command line, config, data file or download, or a checkpoint of another network.

    It may hold several messages, one per line.
    """

    exit_code = 2


class CheckpointError(SkiplabError):
    """No usable checkpoint where one was asked for."""

    exit_code = 3


class FolderError(SkiplabError):
    """The output folder is in use, not writable, full, or not a run's."""

    exit_code = 4


class Diverged(SkiplabError):
    """The loss is no longer finite."""

    exit_code = 5


class OutOfMemory(SkiplabError):
    """The device's memory does not hold this run."""

    exit_code = 6


class RankFailed(SkiplabError):
    """Another process of a run on several devices has failed.

    `trace` is its traceback, or empty if the error is one of ours.
    """

    def __init__(self, message: str, *, exit_code: int = 1, trace: str = ""):
        super().__init__(message)
        self.exit_code, self.trace = exit_code, trace


class Stopped(SkiplabError):
    """The run stopped on purpose, after a save: exit code 7 by max_time, 128 + N by signal N."""

    def __init__(self, message: str, *, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class NotDrawn(SkiplabError):
    """Pictures could not be drawn. Everything else is there."""


def in_words(error: Exception) -> str:
    """Return an error, ours or not, in one line."""
    said = " ".join(str(error).split())[:200]
    return said if isinstance(error, SkiplabError) else f"{type(error).__name__}: {said}"
