"""`skiplab evaluate RUN`: the report of a run's checkpoint, from its folder and the data."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab.cli.answer import Answer
from skiplab.cli.options import checkpoint_option, device_option, one_of, path, trust_option
from skiplab.machine import streams

if TYPE_CHECKING:
    from skiplab.evaluate import Evaluation


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab evaluate`."""
    parser.add_argument(
        "run", type=path, help="run folder; with --data also best.safetensors alone"
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--split",
        type=one_of("--split", ("test", "val")),
        default="test",
        metavar="test|val",
        help="the run's own images (test)",
    )
    chosen.add_argument(
        "--data", metavar="FOLDER|NAME", help="other images: a folder of classes, or a data set"
    )
    checkpoint_option(parser)
    device_option(parser)
    trust_option(parser)


def command(options: argparse.Namespace) -> Answer:
    """Return the report, after a note on stderr if reading the test set deserves one."""
    if options.data is not None:
        return on_other_images(options)
    from skiplab import provenance
    from skiplab.runs import folders

    folder = folders.of_path(options.run)
    if options.split == "test" and provenance.load(folder).evaluator.split == "val":
        streams.say(
            f"note: {folder} left the test set sealed; "
            "this reading is recorded, but is no part of its result",
            sys.stderr,
        )
    elif options.split == "test" and not folders.is_finished(folder):
        streams.say(
            f"note: {folder} is not finished: the test set is for its end, and this reading is "
            "recorded; --split val shows how the run stands",
            sys.stderr,
        )
    from skiplab.evaluate import evaluate_run

    evaluation = evaluate_run(
        folder,
        split=options.split,
        checkpoint_name=options.checkpoint,
        device_name=options.device,
        trust_code=options.trust_code,
    )
    return answer_of(options, evaluation, run=folder)


def on_other_images(options: argparse.Namespace) -> Answer:
    """Return the report on images that are not the run's own."""
    from skiplab.other_images import evaluate_on

    evaluation = evaluate_on(
        options.run,
        options.data,
        checkpoint_name=options.checkpoint,
        device_name=options.device,
        trust_code=options.trust_code,
    )
    return answer_of(options, evaluation, run=options.run)


def answer_of(options: argparse.Namespace, evaluation: "Evaluation", *, run: Path) -> Answer:
    """Return an evaluation as docs/json.md has it."""
    document = {
        "run": str(run),
        "split": options.split if options.data is None else None,
        "data": options.data,
        "checkpoint": options.checkpoint,
        "step": evaluation.step,
        "device": evaluation.device,
        "findings": evaluation.findings,
        # The report has it above ten classes alone.
        "top5_accuracy": None,
    }
    said = "\n".join(evaluation.findings)
    text = f"{evaluation.text}\n{said}" if said else evaluation.text
    return Answer(document | evaluation.figures, text)
