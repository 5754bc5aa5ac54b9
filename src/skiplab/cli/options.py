"""Types of option values that several verbs share, as argparse calls them."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from skiplab import locations
from skiplab.config import values
from skiplab.errors import UsageError


def one_of(option: str, choices: Sequence[str]) -> Callable[[str], str]:
    """Make the type of an option with fixed choices. It raises UsageError with the nearest one."""

    def check(value: str) -> str:
        if value not in choices:
            raise UsageError(f"{option} {value}: {values.nearest(value, choices)}")
        return value

    return check


def number(option: str, *, least: int) -> Callable[[str], int]:
    """Make the type of an option that is a whole number. It raises UsageError below `least`."""

    def check(value: str) -> int:
        count = values.as_count(value)
        if count is None or count < least:
            raise UsageError(f"{option} {value}: a whole number from {least} on is expected")
        return count

    return check


def path(value: str) -> Path:
    """Convert an argument into a path. Raises UsageError for what no file can be called."""
    return locations.given(value)


def config_dir_option(parser: argparse.ArgumentParser) -> None:
    """Declare --config-dir, the folder of a user's own options."""
    parser.add_argument(
        "--config-dir",
        type=path,
        metavar="DIR",
        help="folder with options of your own (conf/ in the working folder)",
    )


def checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Declare --checkpoint: which weights of a run folder."""
    parser.add_argument(
        "--checkpoint",
        type=one_of("--checkpoint", ("best", "last")),
        default="best",
        metavar="best|last",
    )


def device_option(parser: argparse.ArgumentParser) -> None:
    """Declare --device."""
    parser.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda, cuda:N or mps"
    )


def trust_option(parser: argparse.ArgumentParser) -> None:
    """Declare --trust-code: the user has read a run folder's own code, and it may be run."""
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the code in the run folder, which you have read, though it is not known as yours",
    )


def device(value: str) -> str:
    """Check a --device. Raises UsageError for what is no device."""
    from skiplab.config import keys, lexicon

    if not re.fullmatch(keys.leaves()["device"].metadata["pattern"], value):
        message = f"--device {value}: auto, cpu, cuda, cuda:N or mps is expected"
        guess = lexicon.device_of(value)
        raise UsageError(f"{message}; did you mean {guess}?" if guess else message)
    return value
