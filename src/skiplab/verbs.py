"""`skiplab VERB`: what looks at runs that `train` made. Imports torch only for the verbs that compute."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from skiplab import __version__
from skiplab.errors import NotDrawn, UsageError


class Parser(argparse.ArgumentParser):
    """argparse with errors like all others: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage."""
        raise UsageError(f"{message}; see {self.prog} --help")


def skiplab_command(arguments: Sequence[str]) -> int:
    """`skiplab VERB ...`; the exit code."""
    from skiplab import config as configs

    parser, verbs = parser_of_verbs()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs:
        raise UsageError(f"skiplab {arguments[0]}: no such verb; {configs.nearest(arguments[0], verbs)}")
    options = parser.parse_args(list(arguments))
    return COMMANDS[options.verb](options) or 0


def parser_of_verbs() -> tuple[Parser, list[str]]:
    """The parser, and the verbs that it knows."""
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
    drawing = verbs.add_parser("draw", help="the four pictures of finished runs, which a sweep leaves out")
    drawing.add_argument("run", type=Path, nargs="+", help="run folders, or studies")
    add_compare(verbs.add_parser("compare", help="runs in groups, averaged over seeds: a table, what can be told apart, pictures, a page"))
    search = verbs.add_parser(
        "search",
        help="search hyperparameters by Optuna, each trial a run; the same command goes on",
        description="Search hyperparameters by validation accuracy with Optuna (TPE, median pruner). A trial is a run under "
        "outputs/studies/NAME; the test set is not read. The same command again goes on, a larger --trials adds.",
        epilog="A list is a choice (block=conv,skip), range(1,8) whole numbers, interval(0.1,0.9) a continuum, "
        "tag(log,interval(1e-3,1)) one on a log scale; quote them for the shell. All other KEY=VALUE are as in train; study=NAME "
        "names the folder, jobs=N runs so many trials at once (auto: one a core or GPU), retries=N tries a failed one again.",
    )
    search.add_argument(
        "space", nargs="+", metavar="KEY=VALUES", help="as train -m takes them, and 'optimizer.lr=tag(log,interval(1e-3,1))'"
    )
    search.add_argument("--trials", type=int, default=20, help="how many, those of earlier calls counted in (20)")
    proof = verbs.add_parser("verify", help="train a shortened run straight and another through kills -9, and compare them bit by bit")
    proof.add_argument("what", nargs="*", metavar="RUN | KEY=VALUE", help="a run folder, or overrides as train takes them")
    proof.add_argument("--kills", type=int, default=4, help="how often (4); every second one while a checkpoint is written")
    proof.add_argument("--steps", type=int, default=60, help="optimizer steps of the shortened run (60)")
    verbs.add_parser("info", help="versions, devices, threads, data root")
    return parser, list(verbs.choices)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """The options of `skiplab compare`."""
    metrics = ("test.accuracy", "test.loss", "test.f1_macro", "test.expected_calibration_error", "val.accuracy", "val.loss")
    metrics += ("train.accuracy", "train.loss", "train.seconds")
    parser.add_argument("folder", type=Path, nargs="+", help="folders with runs: a study, or several")
    parser.add_argument("--by", help="keys to group by, block,depth (what differs but for the seed)")
    parser.add_argument("--metric", choices=metrics, default="test.accuracy", metavar="METRIC", help=f"one of {', '.join(metrics)}")
    parser.add_argument("--x", help="what the picture has as its x axis: depth, width, another key, or params, macs, seconds")
    parser.add_argument("--out", type=Path, help="where the files go (the study's folder, of several or of a run outputs/compare)")


def list_command(options: argparse.Namespace) -> None:
    """`skiplab list`."""
    from skiplab import listing

    print(listing.under(options.folder))


def info_command(_options: argparse.Namespace) -> None:
    """`skiplab info`."""
    from skiplab import listing

    print(listing.info())


def evaluate_command(options: argparse.Namespace) -> None:
    """`skiplab evaluate`."""
    from skiplab import folders, provenance

    folder = folders.of_path(options.run)
    if options.split == "test" and provenance.load(folder).evaluator.split == "val":
        print(f"note: {folder} left the test set sealed; this reading is recorded, but is no part of its result", file=sys.stderr)
    elif options.split == "test" and not folders.is_finished(folder):
        rule = "the test set is for its end, and this reading is recorded; --split val shows how the run stands"
        print(f"note: {folder} is not finished: {rule}", file=sys.stderr)
    from skiplab.outcome import evaluate_run

    print(evaluate_run(folder, split=options.split, checkpoint_name=options.checkpoint, device_name=options.device))


def draw_command(options: argparse.Namespace) -> int:
    """`skiplab draw`."""
    from skiplab import folders
    from skiplab.study import record

    studies = [path for path in options.run if path.is_dir() and folders.identity_of(path) is None and record.runs_of(path)]
    found = [folder for path in options.run for folder in (record.runs_of(path) if path in studies else [folders.of_path(path)])]
    runs = [folder for folder in found if folders.is_finished(folder) or folder in options.run]  # of a study what is there
    from skiplab.outcome import draw_run

    failed = 0
    for folder in runs:
        try:
            draw_run(folder)
        except NotDrawn as error:  # the others are drawn all the same
            print(f"error: {folder}: {error}", file=sys.stderr)
            failed += 1
        else:
            print(f"written: {', '.join(str(folder / name) for name in ('curves.png', 'confusion.png', 'mistakes.png', 'samples.png'))}")
    return 1 if failed else 0


def compare_command(options: argparse.Namespace) -> None:
    """`skiplab compare`."""
    from skiplab.study import results

    by = None if options.by is None else results.keys_of(options.by)
    if options.x is not None:
        results.check_x(options.x)
    found = results.read(options.folder)
    from skiplab.study import compare  # SciPy: a second

    compare.command(found, options.out or results.home(options.folder), by=by, metric=options.metric, x=options.x)


def search_command(options: argparse.Namespace) -> int:
    """`skiplab search`."""
    from skiplab import grid
    from skiplab.study import search

    if options.trials < 1:
        raise UsageError(f"--trials {options.trials}: at least 1 is expected")
    return search.command(search.Options([grid.for_hydra(text) for text in options.space], options.trials))


def verify_command(options: argparse.Namespace) -> int:
    """`skiplab verify`: the proof on stdout; 0 if the two runs are equal to the bit, else 1."""
    from skiplab import constraints, folders, grid, overrides, provenance

    what, kills, steps = [grid.for_hydra(text) for text in options.what], options.kills, options.steps
    if kills < 0 or steps < 1:
        raise UsageError(f"--kills {kills} --steps {steps}: at least 0 kills and 1 step are expected")
    if len(what) == 1 and "=" not in what[0]:
        config = provenance.load(folders.of_path(Path(what[0])))
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


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "evaluate": evaluate_command,
    "list": list_command,
    "draw": draw_command,
    "compare": compare_command,
    "search": search_command,
    "verify": verify_command,
    "info": info_command,
}
