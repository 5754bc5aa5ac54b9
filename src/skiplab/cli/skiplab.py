"""`skiplab VERB`: what looks at runs that `train` made. Imports torch only for the verbs that compute."""

import argparse
import gc
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from skiplab import __version__
from skiplab.config.values import nearest
from skiplab.errors import NotDrawn, UsageError


class Parser(argparse.ArgumentParser):
    """argparse with errors like all others: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage."""
        raise UsageError(f"{message}; see {self.prog} --help")


def skiplab_command(arguments: Sequence[str]) -> int:
    """`skiplab VERB ...`; the exit code."""
    from skiplab import locations

    parser, verbs = parser_of_verbs()
    if not arguments or all(argument in ("--help", "-h", "--version") for argument in arguments):
        parser.parse_args(list(arguments))
    verb = next((argument for argument in arguments if argument in verbs), arguments[0])
    if verb not in verbs:
        verb = next((argument for argument in arguments if not argument.startswith("-")), verb)
        raise UsageError(
            f"skiplab {verb}: {OTHER_COMMANDS.get(verb) or f'no such verb; {nearest(verb, verbs)}'}"
        )
    rest = list(arguments)
    rest.remove(verb)
    locations.check_working_folder()
    return (
        COMMANDS[verb](read_options(verbs[verb], rest, takes_keys=verb in ("search", "verify")))
        or 0
    )


def read_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str], *, takes_keys: bool
) -> argparse.Namespace:
    """A verb's options, which may stand before, between and after what it works on. Raises UsageError on a misspelt one."""
    from skiplab.config import typed

    known = [text for action in parser._actions for text in action.option_strings]
    if takes_keys:
        arguments = typed.checked(arguments, command="", flags=known)
    for argument in arguments:
        word = argument.partition("=")[0]
        if not argument.strip():
            raise UsageError(
                "an empty argument, perhaps of a shell variable that is not set; leave it out"
            )
        if word.startswith("--") and len(word) > 2 and word not in known:
            raise UsageError(
                f"{word}: {parser.prog} has no such option; {nearest(word, [name for name in known if len(name) > 2])}"
            )
    return parser.parse_intermixed_args(list(arguments))


def one_of(option: str, choices: Sequence[str]) -> Callable[[str], str]:
    """What argparse calls on an option's value; raises UsageError with the nearest choice."""

    def take(value: str) -> str:

        if value not in choices:
            raise UsageError(f"{option} {value}: {nearest(value, choices)}")
        return value

    return take


def path(value: str) -> Path:
    """What argparse calls on a path; raises UsageError for what no file can be called."""
    from skiplab import locations

    return locations.given(value)


def device(value: str) -> str:
    """What argparse calls on --device; raises UsageError for what is no device."""
    from skiplab.config import keys, lexicon

    if not re.fullmatch(keys.leaves()["device"].metadata["pattern"], value):
        guess = lexicon.device_of(value)
        rule = "auto, cpu, cuda, cuda:N or mps is expected"
        raise UsageError(
            f"--device {value}: {rule}" + (f"; did you mean {guess}?" if guess else "")
        )
    return value


def number(option: str, *, least: int) -> Callable[[str], int]:
    """What argparse calls on an option's number."""

    def take(value: str) -> int:
        from skiplab.config import values

        count = values.as_count(value)
        if count is None or count < least:
            raise UsageError(f"{option} {value}: a whole number from {least} on is expected")
        return count

    return take


def parser_of_verbs() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each verb."""
    parser = Parser(
        prog="skiplab",
        description="Look at runs that `train` made.",
        epilog="`train` makes them: train --help",
    )
    parser.add_argument("--version", action="version", version=f"skiplab {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    evaluate = verbs.add_parser(
        "evaluate", help="the report of a run's checkpoint, from its folder alone"
    )
    evaluate.add_argument("run", type=path, help="run folder")
    evaluate.add_argument(
        "--split", type=one_of("--split", ("test", "val")), default="test", metavar="test|val"
    )
    evaluate.add_argument(
        "--checkpoint",
        type=one_of("--checkpoint", ("best", "last")),
        default="best",
        metavar="best|last",
    )
    evaluate.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda, cuda:N or mps"
    )
    listing = verbs.add_parser(
        "list", help="the runs under a folder, and the command that goes on with each"
    )
    listing.add_argument("folder", type=path, nargs="?", default=Path("outputs"))
    drawing = verbs.add_parser(
        "draw", help="the four pictures of finished runs, which a sweep leaves out"
    )
    drawing.add_argument("run", type=path, nargs="+", help="run folders, or studies")
    add_compare(
        verbs.add_parser(
            "compare",
            help="runs in groups, averaged over seeds: a table, what can be told apart, pictures, a page",
        )
    )
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
        "space",
        nargs="+",
        metavar="KEY=VALUES",
        help="as train -m takes them, and 'optimizer.lr=tag(log,interval(1e-3,1))'",
    )
    search.add_argument(
        "--trials",
        type=number("--trials", least=1),
        default=20,
        help="how many, those of earlier calls counted in (20)",
    )
    proof = verbs.add_parser(
        "verify",
        help="train a shortened run straight and another through kills -9, and compare them bit by bit",
    )
    proof.add_argument(
        "what",
        nargs="*",
        metavar="RUN | KEY=VALUE",
        help="a run folder, or overrides as train takes them",
    )
    proof.add_argument(
        "--kills",
        type=number("--kills", least=0),
        default=4,
        help="how often (4); every second one while a checkpoint is written",
    )
    proof.add_argument(
        "--steps",
        type=number("--steps", least=1),
        default=60,
        help="optimizer steps of the shortened run (60)",
    )
    verbs.add_parser("info", help="versions, devices, threads, data root")
    return parser, dict(verbs.choices)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """The options of `skiplab compare`."""
    metrics = (
        "test.accuracy",
        "test.loss",
        "test.f1_macro",
        "test.expected_calibration_error",
        "val.accuracy",
        "val.loss",
    )
    metrics += ("train.accuracy", "train.loss", "train.seconds")
    parser.add_argument(
        "folder", type=path, nargs="+", help="folders with runs: a study, or several"
    )
    parser.add_argument(
        "--by", help="keys to group by, block,depth (what differs but for the seed)"
    )
    parser.add_argument(
        "--metric",
        type=one_of("--metric", metrics),
        default="test.accuracy",
        metavar="METRIC",
        help=f"one of {', '.join(metrics)}",
    )
    parser.add_argument(
        "--x",
        help="what the picture has as its x axis: depth, width, another key, or params, macs, seconds",
    )
    parser.add_argument(
        "--out",
        type=path,
        help="where the files go (the study's folder, of several or of a run outputs/compare)",
    )


def list_command(options: argparse.Namespace) -> None:
    """`skiplab list`."""
    from skiplab.cli import list as listing

    with collector_at_rest():
        print(listing.under(options.folder))


def info_command(_options: argparse.Namespace) -> None:
    """`skiplab info`."""
    from skiplab.cli import list as listing

    print(listing.info())


def evaluate_command(options: argparse.Namespace) -> None:
    """`skiplab evaluate`."""
    from skiplab import provenance
    from skiplab.runs import folders

    folder = folders.of_path(options.run)
    if options.split == "test" and provenance.load(folder).evaluator.split == "val":
        print(
            f"note: {folder} left the test set sealed; this reading is recorded, but is no part of its result",
            file=sys.stderr,
        )
    elif options.split == "test" and not folders.is_finished(folder):
        rule = "the test set is for its end, and this reading is recorded; --split val shows how the run stands"
        print(f"note: {folder} is not finished: {rule}", file=sys.stderr)
    from skiplab.finish import evaluate_run

    print(
        evaluate_run(
            folder,
            split=options.split,
            checkpoint_name=options.checkpoint,
            device_name=options.device,
        )
    )


def draw_command(options: argparse.Namespace) -> int:
    """`skiplab draw`."""
    from skiplab.runs import folders
    from skiplab.study import record

    studies = [
        path
        for path in options.run
        if path.is_dir() and folders.identity_of(path) is None and record.runs_of(path)
    ]
    found = [
        folder
        for path in options.run
        for folder in (record.runs_of(path) if path in studies else [folders.of_path(path)])
    ]
    # of a study what is there
    runs = [folder for folder in found if folders.is_finished(folder) or folder in options.run]
    from skiplab.finish import draw_run

    failed = 0
    for folder in runs:
        try:
            draw_run(folder)
        # the others are drawn all the same
        except NotDrawn as error:
            print(f"error: {folder}: {error}", file=sys.stderr)
            failed += 1
        else:
            print(
                f"written: {', '.join(str(folder / name) for name in ('curves.png', 'confusion.png', 'mistakes.png', 'samples.png'))}"
            )
    return 1 if failed else 0


def compare_command(options: argparse.Namespace) -> None:
    """`skiplab compare`."""
    from skiplab.study.compare import results

    by = None if options.by is None else results.keys_of(options.by)
    if options.x is not None:
        results.check_x(options.x)
    with collector_at_rest():
        found = results.read(options.folder)
        # SciPy: a second
        from skiplab.study.compare import tables

        tables.command(
            found,
            options.out or results.output_folder(options.folder),
            by=by,
            metric=options.metric,
            x=options.x,
        )


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Leave garbage uncollected: what is read of thousands of runs is none, and to look through it takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def search_command(options: argparse.Namespace) -> int:
    """`skiplab search`."""
    from skiplab.config import grid
    from skiplab.study import search

    return search.command(
        search.Options([grid.for_hydra(text) for text in options.space], options.trials)
    )


def verify_command(options: argparse.Namespace) -> int:
    """`skiplab verify`: the proof on stdout; 0 if the two runs are equal to the bit, else 1."""
    from skiplab import provenance
    from skiplab.config import compose, grid, overrides, rules
    from skiplab.runs import folders

    what, kills, steps = (
        [grid.for_hydra(text) for text in options.what],
        options.kills,
        options.steps,
    )
    if len(what) == 1 and "=" not in what[0]:
        config = provenance.load(folders.of_path(path(what[0])))
    else:
        overrides.check(what, multirun=False, several="a proof is of one run")
        config = compose.compose_config(what)
    from skiplab import launch
    from skiplab.cli import verify

    config = launch.settled(config)
    print(
        f"{steps} steps straight, then through {kills} kills; for a large network this takes minutes",
        flush=True,
    )
    short = verify.shortened(config, steps=steps, steps_per_epoch=rules.steps_per_epoch(config))
    verdict = verify.verify(short, kills=kills)
    print(verify.in_words(verdict))
    return 1 if verdict.different else 0


OTHER_COMMANDS = {
    "train": "train is a command of its own; write train KEY=VALUE, see train --help",
    "resume": "write train resume=RUN",
    "sweep": "write train -m KEY=A,B, or train sweep=NAME",
    "help": "write skiplab --help",
    "version": "write skiplab --version",
}
COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "evaluate": evaluate_command,
    "list": list_command,
    "draw": draw_command,
    "compare": compare_command,
    "search": search_command,
    "verify": verify_command,
    "info": info_command,
}
