"""`skiplab VERB`: what looks at runs that `train` made. Imports torch only for the verbs that compute."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from skiplab import __version__
from skiplab.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse with errors like all others: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage."""
        raise UsageError(f"{message}; see {self.prog} --help")


def skiplab_command(arguments: Sequence[str]) -> int:
    """`skiplab VERB ...`."""
    parser = Parser(prog="skiplab", description="Look at runs that `train` made.", epilog="`train` makes them: train --help")
    parser.add_argument("--version", action="version", version=f"skiplab {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    evaluate = verbs.add_parser("evaluate", help="the report of a run's checkpoint, from its folder alone")
    evaluate.add_argument("run", type=Path, help="run folder")
    evaluate.add_argument("--split", choices=("test", "val"), default="test")
    evaluate.add_argument("--checkpoint", choices=("best", "last"), default="best")
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    listing = verbs.add_parser("list", help="the runs under a folder, and the command that goes on with each")
    listing.add_argument("folder", type=Path, nargs="?", default=Path("outputs"))
    proof = verbs.add_parser("verify", help="train a shortened run straight and another through kills -9, and compare them bit by bit")
    proof.add_argument("what", nargs="*", metavar="RUN | KEY=VALUE", help="a run folder, or overrides as train takes them")
    proof.add_argument("--kills", type=int, default=4, help="how often (4); every second one while a checkpoint is written")
    proof.add_argument("--steps", type=int, default=60, help="optimizer steps of the shortened run (60)")
    verbs.add_parser("info", help="versions, devices, threads, data root")
    from skiplab import config as configs

    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs.choices:
        raise UsageError(f"skiplab {arguments[0]}: no such verb; {configs.nearest(arguments[0], verbs.choices)}")
    options = parser.parse_args(list(arguments))
    if options.verb == "list":
        from skiplab import listing as listings

        print(listings.under(options.folder))
    elif options.verb == "info":
        from skiplab import listing as listings

        print(listings.info())
    elif options.verb == "verify":
        return verify_command(options.what, kills=options.kills, steps=options.steps)
    else:
        from skiplab import folders

        folder = folders.of_path(options.run)
        if options.split == "test" and not folders.is_finished(folder):
            rule = "the test set is for its end, and this reading is recorded; --split val shows how the run stands"
            print(f"note: {folder} is not finished: {rule}", file=sys.stderr)
        from skiplab.outcome import evaluate_run

        print(evaluate_run(folder, split=options.split, checkpoint_name=options.checkpoint, device_name=options.device))
    return 0


def verify_command(what: Sequence[str], *, kills: int, steps: int) -> int:
    """`skiplab verify`: the proof on stdout; 0 if the two runs are equal to the bit, else 1."""
    from skiplab import config as configs, constraints, folders, overrides

    if kills < 0 or steps < 1:
        raise UsageError(f"--kills {kills} --steps {steps}: at least 0 kills and 1 step are expected")
    if len(what) == 1 and "=" not in what[0]:
        config = configs.load(folders.of_path(Path(what[0])) / folders.CONFIG)
    else:
        overrides.check(what, multirun=False)
        config = overrides.compose_config(what)
    from skiplab import launch, verify

    config = launch.settled(config)
    print(f"{steps} steps straight, then through {kills} kills; for a large network this takes minutes", flush=True)
    short = verify.shortened(config, steps=steps, steps_per_epoch=constraints.steps_per_epoch(config))
    verdict = verify.verify(short, kills=kills)
    print(verify.in_words(verdict))
    return 1 if verdict.different else 0
