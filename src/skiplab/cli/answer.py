"""What a verb has found: one JSON document for programs, or text for people.

With `--json` standard output holds the document and nothing else. All that the verb prints goes to
standard error, and after an error standard output is empty. docs/json.md states every key.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from skiplab.machine import streams
from skiplab.words import printable


@dataclass(frozen=True)
class Answer:
    """The end of a verb."""

    document: Mapping[str, object]
    # What is printed without --json; None if the verb has printed all of it on its way.
    text: str | None = None
    code: int = 0


# A verb's `command`: it returns an answer, or the exit code (None for 0) if it takes no --json.
Command = Callable[[argparse.Namespace], Answer | int | None]


def add_option(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document (docs/json.md); notes and progress go to stderr",
    )


def give(command: Command, options: argparse.Namespace) -> int:
    """Run a verb, print its answer as the options ask for it, and return the exit code."""
    if not getattr(options, "json", False):
        found = command(options)
        if not isinstance(found, Answer):
            return found or 0
        if found.text is not None:
            streams.say(found.text)
        return found.code
    with redirect_stdout(sys.stderr):
        found = command(options)
    assert isinstance(found, Answer)
    # The document is nowhere else, so a failing output is a failure.
    streams.require()
    print(json.dumps(plain(found.document), indent=1, allow_nan=False))
    return found.code


def plain(value: object) -> object:
    """Return a value as JSON has it.

    A number that is not finite becomes null, a path a text, and bytes that are no UTF-8 escapes.
    """
    if isinstance(value, Mapping):
        return {printable(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (str, Path)):
        return printable(value)
    return value
