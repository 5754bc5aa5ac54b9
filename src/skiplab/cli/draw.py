"""`skiplab draw RUN ...`: the pictures of finished runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skiplab.cli.answer import Answer
from skiplab.cli.options import path, trust_option
from skiplab.errors import NotDrawn
from skiplab.machine import streams


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab draw`."""
    parser.add_argument("run", type=path, nargs="+", help="run folders, or studies")
    trust_option(parser)


def command(options: argparse.Namespace) -> Answer:
    """Draw the pictures of each run. The code is 1 if a run's pictures could not be drawn, else 0.

    Each run's line is printed once it is drawn.
    """
    runs = find_runs(options.run)
    from skiplab.pictures import draw_run

    drawn: list[dict[str, object]] = []
    code = 0
    for folder in runs:
        pictures: list[str] = []
        problem = None
        try:
            pictures += map(str, draw_run(folder, trust_code=options.trust_code))
        # The other runs are drawn all the same.
        except NotDrawn as error:
            streams.say(f"error: {folder}: {error}", sys.stderr)
            problem = str(error)
            code = 1
        else:
            print(f"written: {', '.join(pictures)}")
        drawn.append({"folder": str(folder), "pictures": pictures, "problem": problem})
    return Answer({"runs": drawn}, code=code)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders to draw: each run that is named, and a study's finished runs.

    Raises UsageError if a path is neither a run nor a study.
    """
    from skiplab.runs import folders
    from skiplab.study import record

    runs: list[Path] = []
    for each in paths:
        may_be_study = each.is_dir() and folders.identity_of(each) is None
        members = record.runs_of(each) if may_be_study else []
        runs += members or [folders.of_path(each)]
    # A run that is named but not finished is an error, which drawing raises.
    return [folder for folder in runs if folders.is_finished(folder) or folder in paths]
