"""Whose a run folder's files are, and what was changed on the way. Imports no torch.

A run's config is held against its identity and its checkpoints.

A run that a command changes after its first step (epochs=4 on resume) is no longer the run that a
fresh start with those values gives. It keeps the history of its changes in config.yaml, and its
identity is of values and history.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from skiplab import locations, regular
from skiplab.config import code, stored, validate
from skiplab.config.keys import leaves
from skiplab.config.schema import Change, Config
from skiplab.errors import CheckpointError, UsageError
from skiplab.machine import threads
from skiplab.runs import checkpoint, contents, facts, folders, result, status
from skiplab.runs.facts import Origin, Outline


def load(folder: Path) -> Config:
    """Return a run folder's config.

    Raises UsageError naming the keys if config.yaml was edited by hand: if its keys are not those
    of the identity in its first line.
    """
    config = stored.load(folder / folders.CONFIG)
    made, stated = stored.identity(config), folders.identity_of(folder)
    if made != stated:
        difference = (
            describe_difference(config, original(folder))
            or f" (its keys make the identity {made[:8]}, its first line has {(stated or '')[:8]})"
        )
        raise UsageError(f"{folder / folders.CONFIG}: edited by hand{difference}; {ADVICE}")
    return config


ADVICE = "undo that, or start another run; to change a run on its way: train resume=RUN KEY=VALUE"


def original(folder: Path) -> Mapping[str, Any] | None:
    """Return the keys that the run was trained with; None if they are not known.

    Its checkpoint states them, or its record of the command.
    """
    with suppress(CheckpointError):
        run = facts.newest_outline(folder / folders.LAST).run
        if run is not None and run.config is not None:
            return run.config
    # .hydra/ is only a record, but good enough to name keys by.
    try:
        text = regular.read_text(folder / ".hydra/config.yaml", most=contents.LARGEST)
        tree = {name: value for name, value in yaml.safe_load(text).items() if name != "hydra"}
        return stored.identity_values(validate.check(tree, is_stored=True))
    except (
        OSError,
        ValueError,
        AttributeError,
        TypeError,
        RecursionError,
        yaml.YAMLError,
        UsageError,
    ):
        return None


def describe_difference(config: Config, before: Mapping[str, Any] | None) -> str:
    """Return ` (seed=5, was 0)`, the keys in which `config` differs from those of a run.

    Returns an empty text if the run's keys are not known.
    """
    if before is None:
        return ""
    now, old = (json.loads(json.dumps(each)) for each in (stored.identity_values(config), before))
    keys = [key for key in sorted({*now, *old}) if now.get(key) != old.get(key)]
    parts = [
        f"{key}={value_of(now, key)}, was {value_of(old, key)}" for key in keys if key != "changed"
    ]
    if "changed" in keys:
        parts.append("its history, changed")
    if not parts:
        return ""
    more = " ..." if len(parts) > 5 else ""
    return f" ({'; '.join(parts[:5])}{more})"


def value_of(telling: Mapping[str, Any], key: str) -> object:
    """Return a key's value among those that are not neutral."""
    field = leaves().get(key)
    value = telling.get(key, field.metadata["neutral"] if field is not None else None)
    if key in code.DIGESTS and value is not None:
        return format_value(value, key)
    return json.dumps(value) if value is None or isinstance(value, bool) else value


# --------------------------------------------------------------------------------------------------
# what was changed


def record_changes(before: Config, after: Config, *, step: int) -> Config:
    """Return `after` with its changes of the run `before`, at `step`, added to the run's history.

    Before the first step nothing was trained, so nothing is added. A value that is taken back at
    the same step leaves no trace.
    """
    if step == 0:
        return replace(after, changed=())
    history = {(change.step, change.key): change for change in before.changed}
    old, new = (stored.flat(each) | stored.code_values(each) for each in (before, after))
    training = [
        key
        for key, field in leaves().items()
        if field.metadata["changes_numbers"] and not field.metadata["at_end"]
    ]
    for key in [*training, *code.DIGESTS]:
        if old.get(key) == new.get(key):
            continue
        earlier = history.pop((step, key), None)
        was = old.get(key) if earlier is None else earlier.before
        if was != new.get(key):
            history[step, key] = Change(step, key, was, new.get(key))
    return replace(after, changed=tuple(history.values()))


def in_words(changed: Sequence[Change]) -> str:
    """Return `epochs 2 -> 4 at step 18`, one phrase per change."""
    return ", ".join(
        f"{change.key} {format_value(change.before, change.key)} -> "
        f"{format_value(change.after, change.key)} at step {change.step:,}"
        for change in changed
    )


def describe_stored_changes(changes: object) -> str:
    """Return the changes that a result.json lists, in words.

    Returns an empty text for none, and for what an earlier release wrote.
    """
    entries = changes if isinstance(changes, list) else []
    try:
        return ", ".join(
            f"{e['key']} {format_value(e['from'], e['key'])} -> {format_value(e['to'], e['key'])} "
            f"at step {e['step']:,}"
            for e in entries
        )
    except (KeyError, TypeError, ValueError):
        return "in a way that its result.json does not tell"


def format_value(value: object, key: str = "") -> str:
    """Return a value as a command line has it; of a SHA-256 the first digits."""
    if key in code.DIGESTS:
        return str(value)[:8]
    if isinstance(value, (tuple, list)):
        return f"[{','.join(map(format_value, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def training_identity(config: Config) -> str:
    """Return the identity of a run's training.

    It leaves evaluator.split aside, which only says what the report is of.
    """
    return stored.identity(replace(config, evaluator=replace(config.evaluator, split="test")))


def origin(config: Config) -> Origin:
    """Return what a checkpoint records of its run."""
    plain: dict[str, Any] = json.loads(json.dumps(stored.identity_values(config)))
    return Origin(identity=training_identity(config), config=plain)


def lineage(config: Config) -> Iterator[str]:
    """Yield the identity of the run's training now, then before each of its changes.

    The last change comes first.
    """
    yield training_identity(config)
    for i in range(len(config.changed) - 1, -1, -1):
        change = config.changed[i]
        config = replace(config, changed=config.changed[:i], **value_before(config, change))
        yield training_identity(config)


def value_before(config: Config, change: Change) -> dict[str, Any]:
    """Return the part of a config that a change has changed, as it was before."""
    group, _, leaf = change.key.rpartition(".")
    if change.key in code.DIGESTS:
        was = str(change.before)
        codes = [replace(c, sha256=was) if c.group == group else c for c in config.code]
        return {"code": tuple(codes)}
    values = {leaf: change.before}
    return {group: replace(getattr(config, group), **values)} if group else values


def is_of(config: Config, found: Outline) -> bool:
    """Tell whether a checkpoint is of this run, at whatever point of its history.

    Earlier releases stored no identity.
    """
    return found.run is None or found.run.identity in set(lineage(config))


def check(folder: Path, config: Config) -> Config:
    """Return the config with its history as the newest whole checkpoint bears it out.

    A change counts from the step at which the run stood when it was made.

    Raises UsageError if that checkpoint is of another run, CheckpointError if there is none that is
    whole.
    """
    # A run without a save begins again, as the config is now.
    if not folders.has_state(folder):
        return config if folders.is_finished(folder) else replace(config, changed=())
    found = facts.newest_outline(folder / folders.LAST)
    if not is_of(config, found):
        differ = describe_difference(config, found.run and found.run.config)
        raise UsageError(
            f"{folder / folders.LAST}: of another run than {folders.CONFIG}{differ}; {ADVICE}"
        )
    step = status.of_last_save(folder).step or 0
    if all(change.step <= step for change in config.changed):
        return config
    # The newest save was damaged, so the run stands at the one before.
    history = {(min(change.step, step), change.key): change for change in config.changed}
    return replace(
        config,
        changed=tuple(replace(change, step=at) for (at, _), change in history.items() if at > 0),
    )


# --------------------------------------------------------------------------------------------------
# weights of a run


def weights(folder: Path, name: str, config: Config) -> Path:
    """Return the checkpoint with a run's `best` or `last` weights, of whichever generation.

    Raises CheckpointError if no whole file holds just those: that of another step or of another run
    is not taken in their place.
    """
    path = folder / (folders.BEST if name == "best" else folders.LAST)
    wanted = step_of(folder, name)
    seen: list[str] = []
    for each in checkpoint.generations(path):
        try:
            found = facts.outline(each)
        except CheckpointError as error:
            seen.append(str(error))
            continue
        if not is_of(config, found):
            seen.append(f"{each}: of another run than {folders.CONFIG}")
        elif found.step == wanted:
            return each
        else:
            seen.append(f"{each}: of step {found.step}")
    what = "not to be had" if seen else "missing"
    details = f" ({'; '.join(seen)})" if seen else ""
    go_on = "" if folders.is_finished(folder) else "; train resume=RUN goes on and saves them again"
    raise CheckpointError(
        f"{path}: {what}, the {name} weights are of step {wanted:,}{details}{go_on}"
    )


def step_of(folder: Path, name: str) -> int:
    """Return the optimizer step of a run's `best` or `last` weights.

    Raises CheckpointError if nothing states it.
    """
    if (ended := result.read(folder)) is not None:
        step = ended.best_step if name == "best" else ended.steps
    else:
        found = facts.newest_outline(folder / folders.LAST)
        step = found.best_step if name == "best" else found.step
    if step is None:
        raise CheckpointError(
            f"neither {folder / folders.RESULT} nor {folder / folders.LAST} "
            f"says which step is {name}"
        )
    if ended is None and name == "best" and step == 0:
        raise CheckpointError(f"{folder}: no best weights are saved yet; train resume=RUN goes on")
    return step


def threads_before(folder: Path) -> int | None:
    """Return the number of threads of a process of the run so far.

    Returns None before its first save, or if it did not run on a CPU.
    """
    try:
        device = facts.newest_outline(folder / folders.LAST).device
    except CheckpointError:
        return None
    return None if device is None else threads.of_device(device)


# --------------------------------------------------------------------------------------------------
# init_from


def pin_start(config: Config) -> Config:
    """Return the config with the SHA-256 of the weights that init_from names.

    The SHA-256 makes them part of the run's identity.

    A stored config keeps the one that it has. Raises UsageError if init_from names no run,
    CheckpointError if its weights are not there.
    """
    if config.init_from is None or config.init_sha256 is not None:
        return config
    return replace(config, init_sha256=checkpoint.stated_digest(start_weights(config.init_from)))


def start_weights(path: str) -> Path:
    """Return the checkpoint that init_from means: a file, or the best one of a run folder."""
    try:
        source = locations.given(path)
        folder = folders.of_path(source)
        return source if source.is_file() else weights(folder, "best", load(folder))
    except UsageError as error:
        raise UsageError(f"init_from={error}") from None
