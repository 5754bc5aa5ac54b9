"""The one way into a run: choose and lock its folder, then run in it. Imports torch only to run."""

import errno
import gc
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab import exits, locations, own_code, provenance, regular, trust
from skiplab.config.keys import leaves
from skiplab.config.options import Folder
from skiplab.config.schema import Config
from skiplab.config.stored import code_values, dump, flat, identity
from skiplab.errors import CheckpointError, FolderError, SkiplabError, Stopped, UsageError
from skiplab.machine import streams, torchrun
from skiplab.machine.signals import StopSignal
from skiplab.runs import atomic, folders, lock, status

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

# Characters of name= in a folder's name.
LONGEST_LABEL = 40
# The names of our run folders begin with the time. Earlier releases numbered those of a sweep.
RUN_NAME = re.compile(r"(\d\d-\d\d-\d\d|\d+)-")
# What the system says of a disk that takes no more.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def launch(
    config: Config,
    stop_signal: StopSignal,
    *,
    parent: Path = Path(),
    prefix: str = "",
    record: Callable[[Path], None] | None = None,
    locked: Path | None = None,
    chosen: Callable[[Path], None] | None = None,
) -> int:
    """Run a checked config, from where its folder stands, and return the exit code.

    The folder is `out=`, or the unfinished run of the same identity, or a fresh one in `parent`
    whose name begins with `prefix`. A fresh folder is passed to `record`, which may write in it
    how the run was asked for. `locked`: a run's folder that the caller has locked, with a config
    that is resolved for this machine; then nothing is chosen. `chosen` is called with the folder
    once it is locked.

    Raises SkiplabError if the run cannot begin or is stopped.
    """
    if locked is not None:
        return run_in_folder(config, locked, stop_signal)
    trust.admit(config)
    check_out_is_free(config)
    config = resolve_machine(config)
    with hold_folder(config, parent, prefix) as (folder, is_new):
        if chosen is not None:
            chosen(folder)
        trust.keep_copies(folder, config)
        if is_new and record is not None:
            record(folder)
        return run_in_folder(config, folder, stop_signal)


def run_in_folder(config: Config, folder: Path, stop_signal: StopSignal) -> int:
    """Run in a folder whose lock is held. A finished run prints its report."""
    if folders.is_finished(folder):
        streams.say(f"{folder} is finished; its report:\n\n{read_report(folder)}")
        # NumPy takes long to import.
        from skiplab.runs import findings

        said = findings.of_folder(folder, config.dataset.classes, split=config.evaluator.split)
        if said:
            streams.say("\n".join(said))
        return 0
    go_on = f"train resume={shlex.quote(str(folder))}"
    try:
        from skiplab.run import run

        # Whoever started this process may have switched the garbage collector off.
        gc.enable()
        streams.spare()
        run(config, folder, stop_signal)
    except Stopped as error:
        raise Stopped(f"{error}; go on with: {go_on}", exit_code=error.exit_code) from None
    except SkiplabError:
        raise
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise FolderError(
            f"{folder}: cannot be written ({error.strerror}); with room again: {go_on}"
        ) from None
    except Exception as error:
        if (problem := exits.explain_memory_error(error)) is not None:
            raise problem from None
        exits.show_traceback()
        if (own := own_code.explain(error)) is not None:
            raise own from None
        advice = f"; go on with: {go_on}"
        return exits.report_unforeseen(error, log=folder / folders.LOG, advice=advice)
    return 0


def read_report(folder: Path) -> str:
    """Read a finished run's report.txt. Raises UsageError if that is not possible."""
    try:
        return (folder / "report.txt").read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise UsageError(
            f"{folder}: finished, and its report.txt cannot be read; "
            f"skiplab evaluate {shlex.quote(str(folder))} makes it anew"
        ) from None


# --------------------------------------------------------------------------------------------------
# what depends on this machine


def check_out_is_free(config: Config) -> None:
    """Raise FolderError if a living run is in `out=`: before torch is imported, a second later."""
    if config.out is not None:
        folder = locations.given(config.out, key="out")
        if lock.is_locked(folder):
            raise lock.in_use(folder)


def with_data(config: Config) -> Config:
    """Return the config with what dataset=folder reads from its images: classes, counts, mean.

    Raises UsageError if they cannot be read. Decodes them if that was not done yet.
    """
    if not isinstance(config.dataset, Folder):
        return config
    # NumPy and Pillow take long to import.
    from skiplab import own_images

    return own_images.resolve(config)


def resolve_machine(config: Config) -> Config:
    """Resolve what depends on this machine and its files. Imports torch.

    These are the number of devices, the width that meets the budget, the weights of init_from, and
    what images of one's own are.
    Raises UsageError if this machine lacks the devices, no width meets the budget, or init_from
    names no run: before a folder is made or data are read.
    """
    # What is wrong with the images is said before torch is imported.
    config = with_data(provenance.pin_start(config))
    from skiplab import budget
    from skiplab.machine import devices

    if config.match != "none":
        config = budget.solve_width(config)
        streams.say(budget.describe(config))
    options = config.trainer
    count = devices.num_devices(
        config.device, options.devices, started=torchrun.place(), sync_bn=options.sync_bn
    )
    if count == options.devices:
        return config
    return replace(config, trainer=replace(options, devices=count))


# --------------------------------------------------------------------------------------------------
# the folder


@contextmanager
def hold_folder(config: Config, parent: Path, prefix: str) -> Iterator[tuple[Path, bool]]:
    """Choose the folder to run in and hold its lock. Yields the folder, and whether it is fresh.

    A fresh folder in which nothing was saved is removed again when the run in it ends in an error
    that is reported.
    """
    with ExitStack() as stack:
        if config.out is not None:
            folder = locations.given(config.out, key="out")
            make_out(folder)
            stack.enter_context(lock.hold(folder))
            is_new = claim_out(config, folder)
        else:
            with lock.one_at_a_time(locations.outputs()):
                folder, is_new = choose_folder(config, parent, prefix)
                stack.enter_context(lock.hold(folder))
        try:
            yield folder, is_new
        except (SkiplabError, OSError) as error:
            if is_new and not isinstance(error, Stopped):
                discard(folder)
            raise


def discard(folder: Path) -> None:
    """Remove a fresh run's folder if nothing was saved in it.

    It would be listed as a run to go on with.
    """
    if not folders.has_state(folder):
        shutil.rmtree(folder, ignore_errors=True)


def make_out(folder: Path) -> None:
    """Make out= if it is not there. Raises FolderError if it is there and is no run's folder."""
    try:
        is_foreign = folder.exists() and not holds_ours_alone(folder)
        if is_foreign and folders.identity_of(folder) is None:
            raise FolderError(f"out={folder}: exists and is not a run folder; take another")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"out={folder}: cannot be made ({regular.why(folder, error)})") from None


def holds_ours_alone(folder: Path) -> bool:
    """Tell whether a path is a folder with nothing in it but what a killed start leaves."""
    return folder.is_dir() and all(is_ours(path) for path in folder.iterdir())


def is_ours(path: Path) -> bool:
    """Tell whether a file is one that a start leaves when it is killed before it has a config."""
    return path.name in (".lock", ".hydra") or (
        path.name.startswith(f".{folders.CONFIG}-") and path.suffix == atomic.TEMPORARY
    )


def claim_out(config: Config, folder: Path) -> bool:
    """Return True and write the config if out= is fresh, False if this run goes on in it.

    Raises FolderError if another run is in it.
    """
    if folders.identity_of(folder) is not None:
        check_same_run(config, folder)
        go_on_in(config, folder)
        return False
    write_config(folder, dump(config))
    return True


def choose_folder(config: Config, parent: Path, prefix: str) -> tuple[Path, bool]:
    """Choose the unfinished run of the same identity under outputs/, or make a fresh folder.

    Returns the folder, and whether it is fresh.
    """
    clear_leftovers(parent)
    found = None
    if config.resume == "auto":
        found = folders.unfinished(locations.outputs(), identity(config))
    if found is None:
        folder = folders.make(parent, name_folder(config, prefix))
        write_config(folder, dump(config))
        return folder, True
    try:
        go_on_in(config, found, hint="; resume=never starts afresh")
    except (CheckpointError, UsageError) as error:
        raise type(error)(
            f"{error}; it is this command's unfinished run: resume=never starts afresh"
        ) from None
    return found, False


def clear_leftovers(parent: Path) -> None:
    """Remove folders of runs that were killed before they had a config.

    The caller holds the lock of outputs/.
    """
    for folder in parent.iterdir() if parent.is_dir() else ():
        if folder.is_dir() and RUN_NAME.match(folder.name) and holds_ours_alone(folder):
            shutil.rmtree(folder, ignore_errors=True)


def name_folder(config: Config, prefix: str) -> str:
    """Name a fresh folder by when it began, what it trains, and its label."""
    name = folders.slug(f"{prefix}-{config.dataset.name}-{config.model.name}-{config.block.name}")
    label = label_of(config)
    return f"{name}-{label}" if label else name


def label_of(config: Config) -> str:
    """Return name= as a part of a folder's name, at most LONGEST_LABEL characters.

    It has letters, digits, dots, dashes and underscores, and is empty if name= has none of them.
    """
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", config.name or "")
    return text[:LONGEST_LABEL].strip("_.-")


def go_on_in(config: Config, folder: Path, *, hint: str = "") -> None:
    """Print where an unfinished run stands, and give it the label that the command has.

    Raises CheckpointError if it cannot go on, UsageError if its files are not as they were written.
    """
    stored = provenance.load(folder)
    if folders.is_finished(folder):
        return
    provenance.check(folder, stored)
    if folders.has_state(folder):
        stood = status.of_last_save(folder)
        streams.say(f"going on with {folder} at step {stood.step:,} of {stood.num_steps:,}{hint}")
    if config.name is not None and config.name != stored.name:
        write_config(folder, dump(replace(stored, name=config.name)))


def check_same_run(config: Config, folder: Path) -> None:
    """Raise FolderError unless the run in `folder` is the one of `config`, and may go on."""
    if folders.identity_of(folder) != identity(config):
        raise FolderError(
            f"out={folder}: holds another run ({describe_difference(config, folder)}); "
            f"take another out=, or go on with it by resume={folder}"
        )
    if config.resume == "never":
        raise FolderError(
            f"out={folder}: holds this run already; "
            "leave out resume=never to go on, or take another out="
        )


def describe_difference(config: Config, folder: Path) -> str:
    """Name at most five keys in which the run in `folder` differs, and its history."""
    theirs = provenance.load(folder)
    ours = flat(config)
    fields = leaves()
    keys = [
        key
        for key, value in flat(theirs).items()
        if ours.get(key) != value and fields[key].metadata["changes_numbers"]
    ]
    codes = code_values(config).items() ^ code_values(theirs).items()
    keys += sorted({key for key, _ in codes})
    if theirs.init_sha256 != config.init_sha256:
        keys.append("the weights of init_from")
    text = f"{', '.join(keys[:5])} differ" if keys else "the same values"
    if theirs.changed:
        text += f", changed on the way: {provenance.in_words(theirs.changed)}"
    return text


# --------------------------------------------------------------------------------------------------
# files


def check_outputs() -> None:
    """Raise FolderError if outputs/ cannot be made or written.

    Hydra makes a sweep's folder in it.
    """
    with lock.one_at_a_time(locations.outputs()):
        pass


def write_config(folder: Path, text: str) -> None:
    """Write the folder's config.yaml."""
    atomic.write(folder / folders.CONFIG, text.encode())


def write_hydra_record(
    folder: Path,
    cfg: object,
    hydra_config: "HydraConf | DictConfig",
) -> None:
    """Write Hydra's usual .hydra/ folder as a record. It is never read back."""
    from omegaconf import OmegaConf

    try:
        (folder / ".hydra").mkdir(exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder}: not writable ({error.strerror})") from None
    parts = {"config": cfg, "hydra": hydra_config, "overrides": hydra_config.overrides.task}
    for name, content in parts.items():
        text = OmegaConf.to_yaml(content)
        atomic.write(folder / ".hydra" / f"{name}.yaml", text.encode())
