"""`skiplab compare FOLDER ...`: runs in groups, averaged over seeds."""

import argparse

from skiplab.cli.answer import Answer
from skiplab.cli.collector import pause_collector
from skiplab.cli.options import one_of, path
from skiplab.errors import UsageError

METRICS = (
    "test.accuracy",
    "test.loss",
    "test.f1_macro",
    "test.expected_calibration_error",
    "val.accuracy",
    "val.loss",
    "train.accuracy",
    "train.loss",
    "train.seconds",
)
# What --csv prints: a row per group, or per run.
CSV = ("-", "runs")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab compare`."""
    parser.add_argument(
        "folder", type=path, nargs="+", help="folders with runs: a study, or several"
    )
    parser.add_argument(
        "--by",
        help="keys to group by, block,depth (what differs but for the seed); "
        "over other keys, runs are pooled in pairs with all else equal",
    )
    parser.add_argument(
        "--metric",
        type=one_of("--metric", METRICS),
        default="test.accuracy",
        metavar="METRIC",
        help=f"one of {', '.join(METRICS)}",
    )
    parser.add_argument(
        "--x",
        help="what the picture has as its x axis: "
        "depth, width, another key, or params, macs, seconds",
    )
    parser.add_argument(
        "--csv",
        type=one_of("--csv", CSV),
        metavar="-|runs",
        help="print CSV on stdout and nothing else: a row per group, or per run",
    )
    parser.add_argument(
        "--latex",
        action="store_true",
        help="print the tables for LaTeX (booktabs) on stdout and nothing else",
    )
    parser.add_argument(
        "--out",
        type=path,
        help="where the files go (the study's folder, of several or of a run outputs/compare)",
    )


def command(options: argparse.Namespace) -> Answer:
    """Print the table and what can be told apart, and write the files."""
    output = output_of(options)
    from skiplab.study.compare import results

    by = None if options.by is None else results.keys_of(options.by)
    if options.x is not None:
        results.check_x(options.x)
    with pause_collector():
        found = results.read(options.folder)
        # SciPy takes a second to import, so whatever is wrong with the runs is found before.
        from skiplab.study.compare import tables

        document = tables.command(
            found,
            options.out or results.output_folder(options.folder),
            by=by,
            metric=options.metric,
            x=options.x,
            output=output,
        )
    return Answer(document)


def output_of(options: argparse.Namespace) -> str:
    """Return what to print: text, latex, csv or runs. Raises UsageError for more than one."""
    given = [name for name in ("json", "csv", "latex") if getattr(options, name)]
    if len(given) > 1:
        raise UsageError(f"{', '.join(f'--{name}' for name in given)}: one of them at a time")
    if options.latex:
        return "latex"
    return {None: "text", "-": "csv", "runs": "runs"}[options.csv]
