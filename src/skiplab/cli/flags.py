"""Hydra's flags on the command line of `train`: which are allowed, and which go together."""

import argparse
import os
from collections.abc import Sequence

from skiplab import locations, paths
from skiplab.errors import UsageError

COMPLETION_JOBS = tuple(
    f"{verb}={shell}"
    for verb in ("install", "uninstall", "query")
    for shell in ("bash", "fish", "zsh")
)


def check_flags(flags: argparse.Namespace) -> None:
    """Raise UsageError for flags of Hydra's that are not for here or do not go together."""
    if flags.experimental_rerun:
        raise UsageError(
            "--experimental-rerun: it loads a pickle, which can run foreign code; "
            "write train resume=RUN"
        )
    if flags.config_path or flags.config_name:
        raise UsageError(
            "--config-path, --config-name: options of your own lie in conf/ in the working folder, "
            "or --config-dir DIR names another; train --help lists them"
        )
    check_package(flags)
    check_one_at_a_time(flags)
    if flags.resolve and not flags.cfg:
        raise UsageError(
            "--resolve: a config is shown with its interpolations resolved by --cfg job --resolve"
        )
    if flags.shell_completion:
        check_completion(flags)


def choose_config_dir(arguments: Sequence[str]) -> None:
    """Take options from the folder that --config-dir names on a command line, else from conf/.

    This comes before all else, since help and every check know the user's own options. Raises
    UsageError if it is no folder.
    """
    named: list[str] = []
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            named.append(value if equals else after)
    paths.choose_own(locations.given(named[-1], key="--config-dir") if named else None)


def check_package(flags: argparse.Namespace) -> None:
    """Raise UsageError if --package is not a part of a config that is shown."""
    if flags.package is None:
        return
    if flags.multirun:
        raise UsageError(
            f"--package {flags.package}: of one config; "
            "a study is shown with --cfg job alone, one of its configs without -m"
        )
    if not flags.cfg:
        raise UsageError(
            f"--package: a part of the config is shown with --cfg job --package {flags.package}"
        )


def check_one_at_a_time(flags: argparse.Namespace) -> None:
    """Raise UsageError if several flags ask for different things. `-m --cfg job` is one thing."""
    wishes = {
        "--run": flags.run,
        "-m": flags.multirun and flags.cfg != "job",
        "--cfg": flags.cfg,
        "--info": flags.info,
        "-sc": flags.shell_completion,
    }
    given = [flag for flag, value in wishes.items() if value]
    if len(given) > 1:
        raise UsageError(f"{', '.join(given)}: one of them at a time")


def check_completion(flags: argparse.Namespace) -> None:
    """Raise UsageError unless -sc has one job, which a user or the shell may ask for."""
    is_query = any(text.startswith("query=") for text in flags.overrides)
    if is_query and "COMP_LINE" not in os.environ:
        raise UsageError(
            f"-sc {flags.overrides[0]}: is what the shell calls on a tab; "
            'eval "$(train -sc install=bash)" sets it up'
        )
    if len(flags.overrides) != 1 or flags.overrides[0] not in COMPLETION_JOBS:
        raise UsageError(f"-sc: one of {', '.join(COMPLETION_JOBS[:6])} is expected")
