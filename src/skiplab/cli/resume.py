"""`train resume=PATH [KEY=VALUE ...]`: goes on with a run, with values that may change."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab import provenance, trust
from skiplab.config import overrides
from skiplab.config.schema import Config
from skiplab.config.stored import dump, effect_on_schedule, flat, identity
from skiplab.config.values import nearest
from skiplab.errors import CheckpointError, UsageError
from skiplab.launch import launch, resolve_machine, write_config
from skiplab.machine import streams
from skiplab.machine.signals import StopSignal
from skiplab.runs import folders, lock, status

if TYPE_CHECKING:
    from torch import nn


def find_source(arguments: Sequence[str]) -> str | None:
    """Return the path that the last resume=PATH names, or None if no run is named.

    Raises UsageError if it is empty.
    """
    sources = [
        argument.partition("=")[2]
        for argument in arguments
        if argument.startswith("resume=") and argument not in ("resume=auto", "resume=never")
    ]
    if not sources:
        return None
    if not sources[-1]:
        raise UsageError(
            "resume=: auto, never, or the path of a run folder or checkpoint is expected"
        )
    return sources[-1]


def check_flags(source: str, flags: argparse.Namespace) -> None:
    """Raise UsageError if flags of Hydra's ask for something else than to go on with one run."""
    if flags.cfg:
        raise UsageError(
            f"--cfg: shows the config of a new run; "
            f"that of resume={source} is the config.yaml in its folder"
        )
    if flags.multirun:
        raise UsageError(
            f"resume={source}: one run goes on at a time; "
            "leave out -m (in a sweep resume=auto finds each cell's own run)"
        )


def resume_command(
    path: Path, texts: Sequence[str], *, stop_signal: StopSignal | None = None
) -> int:
    """Go on with the run at `path`, its own config changed by the overrides `texts`.

    `stop_signal` is one that the caller has entered. Returns the exit code. Raises UsageError if
    there is no run, or a value may not change.
    """
    answers, texts = take_answers(texts)
    folder = find_folder(path)
    with ExitStack() as stack:
        heeded = stop_signal or stack.enter_context(StopSignal())
        stack.enter_context(lock.hold(folder))
        config = update_config(folder, texts, answers)
        return launch(config, heeded, locked=folder)


def find_folder(path: Path) -> Path:
    """Find the run folder of a path. Raises UsageError, with the nearest choice, if it is none."""
    try:
        return folders.of_path(path)
    except UsageError as error:
        advice = nearest(str(path), ["auto", "never"])
        if not advice.startswith("did"):
            advice = "auto and never are the other choices"
        raise UsageError(f"resume={error}; {advice}") from None


@dataclass(frozen=True)
class Answers:
    """What a command says of a run's own code: may it be run, and which, if a file has changed."""

    trust_code: bool = False
    code: str | None = None


def take_answers(texts: Sequence[str]) -> tuple[Answers, list[str]]:
    """Take trust_code= and code= out of a command's overrides, which are no keys of a config.

    Raises UsageError for a value that they do not have.
    """
    given = dict(text.split("=", 1) for text in texts if "=" in text)
    trust_code, code = given.get("trust_code", "false"), given.get("code")
    if trust_code not in ("true", "false"):
        raise UsageError(f"trust_code={trust_code}: {nearest(trust_code, ['true', 'false'])}")
    if code not in (None, trust.THEIRS, trust.MINE):
        raise UsageError(f"code={code}: {nearest(code, [trust.THEIRS, trust.MINE])}")
    rest = [text for text in texts if text.partition("=")[0] not in ("trust_code", "code")]
    return Answers(trust_code == "true", code), rest


def update_config(folder: Path, texts: Sequence[str], answers: Answers) -> Config:
    """Apply overrides to the config of a run folder, write it there, and return it.

    The caller holds the folder's lock. Prints what changes and where the run stands.
    """
    stored = before = provenance.load(folder)
    after = overrides.apply_to_stored(before, texts)
    if answers.code is not None and not stored.code:
        raise UsageError(f"code={answers.code}: {folder} has no code of its own; leave it out")
    if after != before or answers.code is not None or not folders.is_finished(folder):
        trust.admit_run(folder, stored, trust_code=answers.trust_code)
        after = trust.with_changed_files(folder, after, answers.code)
        before = provenance.check(folder, stored)
        after = resolve_machine(replace(after, changed=before.changed))
    stood = status.Status("stopped", step=0, num_steps=0)
    if folders.has_state(folder):
        stood = status.of_last_save(folder)
    check_length(before, after, stood)
    if after != before:
        after = provenance.record_changes(before, after, step=stood.step or 0)
        begin_change(folder, before, after)
        trust.admit(after)
        trust.keep_copies(folder, after)
    if after != stored:
        write_config(folder, dump(after))
    if not folders.is_finished(folder):
        is_as_long = length_of(before) == length_of(after)
        of = f" of {stood.num_steps:,}" if is_as_long and stood.num_steps else ""
        streams.say(f"going on with {folder} at step {stood.step:,}{of}")
    return after


def length_of(config: Config) -> tuple[int, int | None, int | None]:
    """Return the values that set how long a run is."""
    return config.epochs, config.steps, config.trainer.limit_steps


def check_length(before: Config, after: Config, stood: status.Status) -> None:
    """Raise UsageError if the run stands beyond the length that it is asked to have."""
    limits: list[int | None] = []
    if after.trainer.limit_steps != before.trainer.limit_steps:
        limits.append(after.trainer.limit_steps)
    if (before.epochs, before.steps) != (after.epochs, after.steps):
        steps_per_epoch = 0.0
        if before.steps is None:
            assert stood.num_steps is not None
            steps_per_epoch = stood.num_steps / before.epochs
        limits.append(after.steps or round(after.epochs * steps_per_epoch))
    for num_steps in limits:
        if num_steps and stood.step is not None and num_steps < stood.step:
            raise UsageError(
                f"the run stands at step {stood.step:,}, "
                f"beyond the {num_steps:,} steps that the command asks for"
            )


def begin_change(folder: Path, before: Config, after: Config) -> None:
    """Check that a run can go on changed, print what changes, and reopen it if it was finished.

    Raises CheckpointError if its last checkpoint is gone, UsageError if its data are not to be had:
    before anything of the run is touched.
    """
    is_finished = folders.is_finished(folder)
    if is_finished and not folders.has_state(folder):
        raise CheckpointError(
            f"{folder}: finished, and its {folders.LAST} is gone: it cannot go on"
        )
    check_data(after)
    check_weights(folder, before, after)
    if is_finished and identity(after) != identity(before):
        streams.say(f"{folder} was finished; it goes on because the command changes it")
        (folder / folders.RESULT).unlink()
    old, new = flat(before), flat(after)
    for name, value in new.items():
        if old[name] != value:
            streams.say(f"{name}={value} (was {old[name]}){effect_on_schedule(name)}")
    for now, was in zip(after.code, before.code, strict=True):
        if now != was:
            digests = f"{now.sha256[:8]} (was {was.sha256[:8]})"
            streams.say(f"{now.group}={now.name}: your changed file, SHA-256 {digests}")


def check_weights(folder: Path, before: Config, after: Config) -> None:
    """Check that a run's state fits a changed file of its own, before anything is written.

    Imports torch if a file of its network or its optimizer has changed. Raises UsageError if the
    weights, or the optimizer's state, do not fit.
    """
    changed = {now.group for now, was in zip(after.code, before.code, strict=True) if now != was}
    of_network = bool(changed & set(trust.OF_A_NETWORK))
    if not (of_network or "optimizer" in changed) or not folders.has_state(folder):
        return
    import torch

    from skiplab import build, weights
    from skiplab.runs import checkpoint

    model = build.network(after, torch.device("cpu"))
    path = checkpoint.generations(folder / folders.LAST)[0]
    advice = "code=theirs goes on with the run's own copy"
    if of_network:
        try:
            weights.load_weights(path, model, after)
        except UsageError:
            raise UsageError(
                f"code=mine: the weights of {folder} do not fit your changed file; {advice}"
            ) from None
    if "optimizer" in changed:
        try:
            try_optimizer(path, model, after)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UsageError(
                f"code=mine: a step of your changed optimizer fails on the state of {folder} "
                f"({reason}); {advice}"
            ) from None


def try_optimizer(path: Path, model: "nn.Module", config: Config) -> None:
    """Take a step with a user's optimizer, from its state in a checkpoint, with gradients of zero.

    Changes the model. Raises whatever the optimizer raises.
    """
    import torch

    from skiplab import build
    from skiplab.runs import checkpoint
    from skiplab.training import optimizers
    from skiplab.training.torch_optimizer import TorchOptimizer

    optimizer = build.optimizer_of(config, model, num_steps=1)
    saved = checkpoint.under("optimizer/", checkpoint.load(path)[0])
    if isinstance(optimizer, TorchOptimizer):
        optimizer.load(saved)
    else:
        optimizers.load_state(optimizer, model, saved)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def check_data(config: Config) -> None:
    """Check that the data set's files exist or can be fetched. Imports torch.

    Raises UsageError if they are not to be had.
    """
    from skiplab import data_files

    for split in ("train", "test"):
        data_files.find(config, split)
