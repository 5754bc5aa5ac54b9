"""The map of a run, top to bottom.

config -> data -> model -> optimizer -> trainer -> evaluation -> report
"""

import shlex
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from skiplab import build, capacity, data_files, describe, finish, pictures, provenance, trust
from skiplab.config import stored, validate
from skiplab.config.schema import Config
from skiplab.errors import Diverged, OutOfMemory, RankFailed
from skiplab.machine import devices, memory, processes
from skiplab.machine.ranks import Ranks
from skiplab.machine.signals import StopSignal
from skiplab.runs import folders
from skiplab.runs.log import Log, Silence
from skiplab.runs.result import RunResult
from skiplab.training import rollback
from skiplab.training.context import Context
from skiplab.training.dry_run import dry_run
from skiplab.training.trainer import Trainer
from skiplab.weights import load_start


def run(config: Config, folder: Path, stop_signal: StopSignal) -> RunResult:
    """Train in `folder`, from its last checkpoint if it has one, and write the report.

    The caller holds the folder's lock. On several devices this process is the first rank, and the
    others `follow`. Returns the content of result.json.
    """
    device = devices.pick_device(config.device)
    run_folder = shlex.quote(str(folder))
    go_on = f"train resume={run_folder}"
    stop_signal.advice = f"stopped; go on with: {go_on}"
    assert isinstance(config.trainer.devices, int)
    told = {"config": stored.tree(config), "folder": str(folder.absolute()), "device": device.type}
    with closing(Log(folder)) as log:
        log.line(f"run folder {folder}")
        try:
            with processes.leading(
                config.trainer.devices, follow, told, advice=f"go on with: {go_on}"
            ) as ranks:
                context = Context(
                    folder=folder, device=device, log=log, stop_signal=stop_signal, ranks=ranks
                )
                trainer, checksum = prepare(config, context)
                if config.pictures != "never":
                    pictures.draw_start(config, trainer.step.batches, folder, log)
                with stop_signal.heeded():
                    fit(config, trainer, go_on)
        except RankFailed as error:
            log.record(f"{error}\n{error.trace}".strip())
            raise
        result, end = finish.finish(config, trainer, folder, log, checksum)
        if config.pictures != "never":
            stop_signal.advice = f"the run is finished; its pictures: skiplab draw {run_folder}"
            pictures.draw_finished(config, trainer, folder, log, end)
        return result


def follow(ranks: Ranks, told: processes.Told) -> None:
    """Take part in a run as a process that is not the first.

    It takes the same steps, on its parts of the batches, and writes and prints nothing.
    """
    config = validate.check(told["config"], is_stored=True)
    folder = Path(told["folder"])
    trust.admit_copies(folder, config)
    device = processes.device_of(told, ranks.place)
    context = Context(folder=folder, device=device, log=Silence(), ranks=ranks)
    trainer, _ = prepare(config, context)
    fit(config, trainer, "train resume=RUN")


def prepare(config: Config, context: Context) -> tuple[Trainer, str]:
    """Build the trainer, at step 0 or where the folder's last checkpoint stands.

    Returns the SHA-256 of the training data too.
    """
    folder = context.folder
    device = context.device
    log = context.log
    ranks = context.ranks
    place = ranks.place
    for note in devices.set_up(
        threads=config.trainer.threads,
        deterministic=config.trainer.deterministic,
        keep_allocator=config.trainer.keep_allocator,
        processes=place.local_size,
    ):
        log.line(note)
    # The first process fetches the files where they are missing.
    with ranks.main_first():
        training, validation, checksum = build.training_data(config, device)
    for note in data_files.notes(config):
        log.line(f"note: {note}")
    model = build.network(config, device, copies=memory.COPIES if device.type == "cpu" else 1)
    is_resumed = folders.has_state(folder)
    capacity.set_threads(config, model, folder, device, processes=place.local_size)
    if not is_resumed:
        build.fit_to_images(config, model, training, device)
        if config.init_from is not None:
            load_start(config, model)
    ranks.share(model.state_dict().values())
    saved = folder / folders.LAST if is_resumed else None
    accumulate = ranks.agreed(
        lambda: capacity.count_parts(config, model, training, device, saved=saved, place=place)
    )
    trainer = build.make_trainer(
        config, model, training, validation, context, accumulate=accumulate
    )
    assert isinstance(trainer.step.model, nn.Sequential)
    summary = build.summary_of(config, trainer.step.model)
    describe.log_start(config, trainer, summary, log)
    if config.changed:
        log.line(f"changed on the way: {provenance.in_words(config.changed)}")
    if is_resumed:
        trainer.resume()
        log.record(f"going on at step {trainer.progress.step:,} of {trainer.settings.num_steps:,}")
    return trainer, checksum


def fit(config: Config, trainer: Trainer, go_on: str) -> None:
    """Train to the last step.

    Raises OutOfMemory and Diverged with advice; `go_on` is the command that resumes the run.
    """
    try:
        dry_run(trainer)
        rollback.fit(trainer)
    except torch.OutOfMemoryError:
        name = devices.describe(trainer.context.device)
        raise OutOfMemory(
            f"{name} is full at batch_size={config.batch_size}: set trainer.accumulate=auto"
        ) from None
    except Diverged as error:
        raise Diverged(
            f"{error}: lower optimizer.lr, lengthen scheduler.warmup, set trainer.clip=1 "
            "or trainer.on_nonfinite=rollback; the last save is from before, "
            f"{go_on} optimizer.lr=SMALLER goes on from it"
        ) from None
