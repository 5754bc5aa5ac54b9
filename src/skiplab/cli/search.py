"""`skiplab search KEY=VALUES ...`: a search for hyperparameters, each trial a run."""

import argparse

from skiplab.cli.answer import Answer
from skiplab.cli.options import config_dir_option, number


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab search`."""
    parser.description = (
        "Search hyperparameters by validation accuracy with Optuna (TPE, median pruner). "
        "A trial is a run under outputs/studies/NAME; the test set is not read. "
        "The same command again goes on, a larger --trials adds."
    )
    parser.epilog = (
        "A list is a choice (block=conv,skip), range(1,8) whole numbers, interval(0.1,0.9) a "
        "continuum, tag(log,interval(1e-3,1)) one on a log scale; quote them for the shell. "
        "All other KEY=VALUE are as in train; study=NAME names the folder, jobs=N runs so many "
        "trials at once (auto: one a core or GPU), retries=N tries a failed one again."
    )
    parser.add_argument(
        "space",
        nargs="+",
        metavar="KEY=VALUES",
        help="as train -m takes them, and 'optimizer.lr=tag(log,interval(1e-3,1))'",
    )
    parser.add_argument(
        "--trials",
        type=number("--trials", least=1),
        default=20,
        help="how many, those of earlier calls counted in (20)",
    )
    config_dir_option(parser)


def command(options: argparse.Namespace) -> Answer:
    """Run the search, which prints what it finds."""
    from skiplab import paths
    from skiplab.config import grid
    from skiplab.study import search

    paths.choose_own(options.config_dir)

    texts = [grid.for_hydra(text) for text in options.space]
    outcome = search.command(search.Options(texts, options.trials))
    return Answer(outcome.found, code=outcome.code)
