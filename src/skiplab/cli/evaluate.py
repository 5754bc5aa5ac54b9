"""`skiplab evaluate RUN`: the report of a run's checkpoint, from its folder and the data."""

import argparse
import sys

from skiplab.cli.answer import Answer
from skiplab.cli.options import device, one_of, path, trust_option


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab evaluate`."""
    parser.add_argument("run", type=path, help="run folder")
    parser.add_argument(
        "--split", type=one_of("--split", ("test", "val")), default="test", metavar="test|val"
    )
    parser.add_argument(
        "--checkpoint",
        type=one_of("--checkpoint", ("best", "last")),
        default="best",
        metavar="best|last",
    )
    parser.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda, cuda:N or mps"
    )
    trust_option(parser)


def command(options: argparse.Namespace) -> Answer:
    """Return the report, after a note on stderr if reading the test set deserves one."""
    from skiplab import provenance
    from skiplab.runs import folders

    folder = folders.of_path(options.run)
    if options.split == "test" and provenance.load(folder).evaluator.split == "val":
        print(
            f"note: {folder} left the test set sealed; "
            "this reading is recorded, but is no part of its result",
            file=sys.stderr,
        )
    elif options.split == "test" and not folders.is_finished(folder):
        print(
            f"note: {folder} is not finished: the test set is for its end, and this reading is "
            "recorded; --split val shows how the run stands",
            file=sys.stderr,
        )
    from skiplab.evaluate import evaluate_run

    evaluation = evaluate_run(
        folder,
        split=options.split,
        checkpoint_name=options.checkpoint,
        device_name=options.device,
        trust_code=options.trust_code,
    )
    document = {
        "run": str(folder),
        "split": options.split,
        "checkpoint": options.checkpoint,
        "step": evaluation.step,
        "device": evaluation.device,
        # The report has it above ten classes alone.
        "top5_accuracy": None,
    }
    return Answer(document | evaluation.figures, evaluation.text)
