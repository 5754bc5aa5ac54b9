"""`train`, and the entry points of both commands (verbs.py has `skiplab`). Imports torch only once a config has passed its check."""

import gc
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from skiplab import __version__
from skiplab.cli.skiplab import skiplab_command
from skiplab.config.values import nearest
from skiplab.errors import CheckpointError, UsageError
from skiplab.launch import as_one, launch, leave, settled
from skiplab.machine import streams, threads, torchrun
from skiplab.machine.signals import StopSignal

FULL_ERROR = "HYDRA_FULL_ERROR"


def train() -> None:
    """Entry point of `train`: exits with the codes that README lists."""
    streams.prepare()
    threads.wait_asleep()
    # until a network trains: what a start makes stays, and looking for garbage in it takes a tenth
    # of the start
    gc.disable()
    leave(lambda: as_one(lambda: train_command(sys.argv[1:])))


def skiplab() -> None:
    """Entry point of `skiplab`."""
    streams.prepare()
    threads.wait_asleep()
    leave(lambda: skiplab_command(sys.argv[1:]))


# -------------------------------------------------------------------------------------------------------------
# train


def train_command(arguments: Sequence[str]) -> int:
    """`train [-m] [KEY=VALUE ...]`: answered here, or checked and handed to Hydra."""
    if any(a in ("--help", "-h") for a in arguments):
        from skiplab.cli import help as help_text

        print(help_text.train())
        return 0
    if "--version" in arguments:
        print(f"skiplab {__version__}")
        return 0
    from skiplab import locations, placement
    from skiplab.config import grammar, grid, overrides, plugins, typed

    locations.check_working_folder()

    arguments = typed.checked(arguments)
    quoted = [grid.for_hydra(a) for a in arguments]
    # Hydra's parser refuses flags between overrides
    quoted.sort(key=lambda a: "=" in a and not a.startswith("-"))
    flags = overrides.parse_arguments(quoted)
    check_flags(flags)
    if flags.shell_completion:
        plugins.choose(os.environ.get("COMP_LINE", "").split()[1:])
    if flags.shell_completion or flags.hydra_help or flags.info:
        return shown_by_hydra(quoted)
    resumed = [
        a.partition("=")[2]
        for a in arguments
        if a.startswith("resume=") and a not in ("resume=auto", "resume=never")
    ]
    if resumed:
        if not resumed[-1]:
            raise UsageError(
                "resume=: auto, never, or the path of a run folder or checkpoint is expected"
            )
        if flags.cfg:
            raise UsageError(
                f"--cfg: shows the config of a new run; that of resume={resumed[-1]} is the config.yaml in its folder"
            )
        if flags.multirun:
            raise UsageError(
                f"resume={resumed[-1]}: one run goes on at a time; leave out -m (in a sweep resume=auto finds each cell's own run)"
            )
        return resume_command(
            locations.given(resumed[-1], key="resume"),
            [a for a in flags.overrides if not a.startswith("resume=")],
        )
    is_sweep = flags.multirun or grid.preset_of(flags.overrides) is not None
    overrides.check(flags.overrides, multirun=is_sweep, shows=bool(flags.cfg))
    if flags.cfg == "job" and is_sweep and not flags.package:
        from skiplab.study.sweep import preview

        preview(flags.overrides)
        return 0
    if flags.cfg:
        return shown_by_hydra(
            [
                grammar.evaluated(a) if a in flags.overrides else a
                for a in quoted
                if a not in ("-m", "--multirun")
            ]
        )
    if is_sweep:
        from skiplab.study.sweep import sweep_command

        placement.check_outputs()
        return sweep_command(flags.overrides, hydra_main, in_process=torchrun.place() is not None)
    with StopSignal() as stop_signal:
        return single_run([grammar.evaluated(text) for text in flags.overrides], stop_signal)


def check_flags(flags: Any) -> None:
    """Raise UsageError for flags of Hydra's that are not for here or do not go together."""
    if flags.experimental_rerun:
        raise UsageError(
            "--experimental-rerun: it loads a pickle, which can run foreign code; write train resume=RUN"
        )
    if flags.config_path or flags.config_name or flags.config_dir:
        raise UsageError(
            "--config-path, --config-name, --config-dir: presets live in conf/; add a file there, train --help lists them"
        )
    if flags.package is not None and flags.multirun:
        raise UsageError(
            f"--package {flags.package}: of one config; a study is shown with --cfg job alone, one of its configs without -m"
        )
    if flags.package is not None and not flags.cfg:
        raise UsageError(
            f"--package: a part of the config is shown with --cfg job --package {flags.package}"
        )
    asked = {
        "--run": flags.run,
        "-m": flags.multirun,
        "--cfg": flags.cfg,
        "--info": flags.info,
        "-sc": flags.shell_completion,
    }
    given = [
        flag for flag, value in asked.items() if value and not (flag == "-m" and flags.cfg == "job")
    ]
    if len(given) > 1:
        raise UsageError(f"{', '.join(given)}: one of them at a time")
    if flags.resolve and not flags.cfg:
        raise UsageError(
            "--resolve: a config is shown with its interpolations resolved by --cfg job --resolve"
        )
    jobs = [
        f"{verb}={shell}"
        for verb in ("install", "uninstall", "query")
        for shell in ("bash", "fish", "zsh")
    ]
    if (
        flags.shell_completion
        and "COMP_LINE" not in os.environ
        and any(text.startswith("query=") for text in flags.overrides)
    ):
        raise UsageError(
            f'-sc {flags.overrides[0]}: is what the shell calls on a tab; eval "$(train -sc install=bash)" sets it up'
        )
    if flags.shell_completion and (len(flags.overrides) != 1 or flags.overrides[0] not in jobs):
        raise UsageError(f"-sc: one of {', '.join(jobs[:6])} is expected")


def hydra_main(arguments: Sequence[str], task: Callable[[Any], None]) -> int:
    """Run the task as Hydra does, for every cell of a sweep, or have Hydra print something. What goes wrong is raised."""
    import hydra
    from hydra.errors import HydraException

    from skiplab.paths import conf_folder

    sys.argv = [sys.argv[0], *arguments]
    before = os.environ.get(FULL_ERROR)
    # Hydra would print a traceback of its own choosing, and exit with 1
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


def shown_by_hydra(arguments: Sequence[str]) -> int:
    """What Hydra prints and ends with, printed by us: a reader that goes away, `| head`, is then no error of Hydra's."""
    written = io.StringIO()
    try:
        with redirect_stdout(written):
            return hydra_main(arguments, lambda _cfg: None)
    finally:
        print(written.getvalue(), end="")


def single_run(texts: Sequence[str], stop_signal: StopSignal) -> int:
    """The run that the overrides of a command line without a sweep ask for."""
    from skiplab import locations, placement
    from skiplab.config import compose
    from skiplab.runs import folders

    config = compose.compose_config(texts)
    if config.out is not None and folders.is_locked(out := locations.given(config.out, key="out")):
        # before torch is imported, which takes longer
        raise folders.in_use(out)
    config = settled(config)
    parent, prefix = placement.OUTPUTS / time.strftime("%Y-%m-%d"), time.strftime("%H-%M-%S")
    with placement.held(config, parent, prefix) as (folder, is_new):
        if is_new:
            placement.record(folder, *compose.record_of(texts))
        return launch(config, folder, stop_signal)


def check_data(config: Any) -> None:
    """Import torch and raise UsageError if the data set's files are not to be had."""
    from skiplab import build
    from skiplab.data import splits

    for split in ("train", "test"):
        splits.find(config.dataset.name, split, root=build.root_of(config))


def resume_command(path: Path, texts: Sequence[str]) -> int:
    """`train resume=PATH [KEY=VALUE ...]`: the folder's own config, with values that may change."""
    from skiplab import placement, provenance
    from skiplab.config import overrides
    from skiplab.config.stored import dump, effect_on_schedule, flat, identity
    from skiplab.runs import folders

    try:
        folder = folders.of_path(path)
    except UsageError as error:
        meant = nearest(str(path), ["auto", "never"])
        raise UsageError(
            f"resume={error}; "
            + (meant if meant.startswith("did") else "auto and never are the other choices")
        ) from None
    with StopSignal() as stop_signal, folders.locked(folder):
        stored = config = provenance.load(folder)
        changed = overrides.apply_to_stored(config, texts)
        if changed != config or not folders.is_finished(folder):
            config = provenance.check(folder, stored)
            changed = settled(replace(changed, changed=config.changed))
        stood = (
            folders.standing(folder)
            if folders.has_state(folder)
            else folders.State("stopped", step=0, num_steps=0)
        )
        check_length(config, changed, stood)
        if changed != config:
            changed = provenance.recorded(config, changed, step=stood.step or 0)
        if folders.is_finished(folder) and not folders.has_state(folder) and changed != config:
            raise CheckpointError(f"{folder}: finished, and its last.ckpt is gone: it cannot go on")
        # before anything of the run is touched
        if changed != config:
            check_data(changed)
        if (
            changed != config
            and folders.is_finished(folder)
            and identity(changed) != identity(config)
        ):
            print(f"{folder} was finished; it goes on because the command changes it")
            (folder / folders.RESULT).unlink()
        if changed != config:
            for name, value in flat(changed).items():
                if (before := flat(config)[name]) != value:
                    print(f"{name}={value} (was {before})" + effect_on_schedule(name))
        if changed != stored:
            placement.write_config(folder, dump(changed))
        if not folders.is_finished(folder):
            is_as_long = (config.epochs, config.steps, config.trainer.limit_steps) == (
                changed.epochs,
                changed.steps,
                changed.trainer.limit_steps,
            )
            print(
                f"going on with {folder} at step {stood.step:,}"
                + (f" of {stood.num_steps:,}" if is_as_long and stood.num_steps else "")
            )
        return launch(changed, folder, stop_signal)


def check_length(config: Any, changed: Any, stood: Any) -> None:
    """Raise UsageError if the run already stands beyond the length that it is asked to have."""
    limits = (
        [changed.trainer.limit_steps]
        if changed.trainer.limit_steps != config.trainer.limit_steps
        else []
    )
    if (config.epochs, config.steps) != (changed.epochs, changed.steps):
        limits.append(
            changed.steps
            or round(
                changed.epochs * (stood.num_steps / config.epochs if config.steps is None else 0)
            )
        )
    for num_steps in limits:
        if num_steps and num_steps < stood.step:
            raise UsageError(
                f"the run stands at step {stood.step:,}, beyond the {num_steps:,} steps that the command asks for"
            )
