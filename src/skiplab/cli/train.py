"""`train [-m] [KEY=VALUE ...]`. Imports torch only once a config has passed its check."""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from skiplab import __version__
from skiplab.errors import UsageError
from skiplab.machine import torchrun
from skiplab.machine.signals import StopSignal
from skiplab.words import WANTS_MORE

# Flags that ask a run to print more.
VERBOSE = ("--verbose", "-v")
# With this variable in the environment, Hydra raises its errors.
FULL_ERROR = "HYDRA_FULL_ERROR"


def train_command(arguments: Sequence[str]) -> int:
    """Run `train` and return the exit code.

    Help and version are answered at once, then the command line is checked: it shows something, or
    goes on with a run, or is a study or a single run.
    """
    from skiplab.cli.flags import check_flags, choose_config_dir

    choose_config_dir(arguments)
    if any(argument in VERBOSE for argument in arguments):
        os.environ[WANTS_MORE] = "1"
        arguments = [argument for argument in arguments if argument not in VERBOSE]
    if any(argument in ("--help", "-h") for argument in arguments):
        print(help_text(arguments))
        return 0
    if "--version" in arguments:
        print(f"skiplab {__version__}")
        return 0
    from skiplab import locations
    from skiplab.cli import resume
    from skiplab.config import grid, overrides, plugins, typed

    locations.check_working_folder()
    arguments = typed.checked(arguments)
    quoted = [grid.for_hydra(argument) for argument in arguments]
    # Hydra's parser refuses flags between overrides.
    quoted.sort(key=lambda argument: "=" in argument and not argument.startswith("-"))
    flags = overrides.parse_arguments(quoted)
    check_flags(flags)
    if flags.shell_completion:
        plugins.choose(os.environ.get("COMP_LINE", "").split()[1:])
    if flags.shell_completion or flags.hydra_help or flags.info:
        return show_by_hydra(quoted)
    source = resume.find_source(arguments)
    if source is not None:
        resume.check_flags(source, flags)
        texts = [text for text in flags.overrides if not text.startswith("resume=")]
        return resume.resume_command(locations.given(source, key="resume"), texts)
    return start_command(quoted, flags)


def help_text(arguments: Sequence[str]) -> str:
    """Return the overview, or the help on the groups and keys that a command line asks about.

    Raises UsageError for what is neither.
    """
    from skiplab.cli import help

    if not (asked := help.find_topics(arguments)):
        return help.overview()
    from skiplab.cli import topics

    return topics.text_for(asked)


def start_command(quoted: Sequence[str], flags: argparse.Namespace) -> int:
    """Check the overrides, then show their config or study, or run it. Returns the exit code.

    `quoted` is the command line as Hydra takes it, `flags` the same as Hydra's parser reads it.
    Raises UsageError if an override is wrong.
    """
    from skiplab.config import grammar, grid, overrides

    is_sweep = flags.multirun or grid.preset_of(flags.overrides) is not None
    overrides.check(flags.overrides, multirun=is_sweep, shows=bool(flags.cfg))
    if flags.cfg == "job" and is_sweep and not flags.package:
        from skiplab.study.sweep import preview

        preview(flags.overrides)
        return 0
    if flags.cfg:
        shown = [text for text in quoted if text not in ("-m", "--multirun")]
        return show_by_hydra(
            [grammar.evaluated(text) if text in flags.overrides else text for text in shown]
        )
    if is_sweep:
        from skiplab.launch import check_outputs
        from skiplab.study.sweep import sweep_command

        check_outputs()
        return sweep_command(flags.overrides, run_hydra, in_process=torchrun.place() is not None)
    with StopSignal() as stop_signal:
        return run_once([grammar.evaluated(text) for text in flags.overrides], stop_signal)


def run_once(
    texts: Sequence[str],
    stop_signal: StopSignal,
    *,
    chosen: Callable[[Path], None] | None = None,
) -> int:
    """Run the config of a command line without a sweep, and return the exit code.

    `chosen` is called with the run's folder once it is locked.
    """
    from skiplab import locations
    from skiplab.config import compose
    from skiplab.launch import launch, write_hydra_record

    def record(folder: Path) -> None:
        write_hydra_record(folder, *compose.record_of(texts))

    config = compose.compose_config(texts)
    parent = locations.outputs() / time.strftime("%Y-%m-%d")
    prefix = time.strftime("%H-%M-%S")
    return launch(config, stop_signal, parent=parent, prefix=prefix, record=record, chosen=chosen)


def run_hydra(arguments: Sequence[str], task: Callable[[Any], None]) -> int:
    """Have Hydra run the task, for every run of a sweep, or print something. Its errors are raised.

    Raises UsageError for what Hydra finds wrong with the arguments.
    """
    import hydra
    from hydra.errors import HydraException

    from skiplab.paths import conf_folder, own_folder

    flags = ("--config-dir", "-cd")
    if not any(argument.partition("=")[0] in flags for argument in arguments) and own_folder():
        arguments = ["--config-dir", str(own_folder()), *arguments]
    sys.argv = [sys.argv[0], *arguments]
    before = os.environ.get(FULL_ERROR)
    # Hydra would print a traceback of its own choosing, and exit with 1.
    os.environ[FULL_ERROR] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(task)()
    except HydraException as error:
        raise UsageError(" ".join(str(error).split())) from None
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before
    return 0


def show_by_hydra(arguments: Sequence[str]) -> int:
    """Print what Hydra prints and ends with, and return the exit code.

    We print it, not Hydra: then a reader that goes away, as in `| head`, is no error of Hydra's.
    """
    written = io.StringIO()
    try:
        with redirect_stdout(written):
            return run_hydra(arguments, lambda _cfg: None)
    finally:
        print(written.getvalue(), end="")
