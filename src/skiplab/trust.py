"""Whether code of a user's own may be run, and the copy that a run folder keeps of it. No torch.

What a command names is the user's own, and is run. What a run folder names is not: a folder may
come from anybody. It is run if this user has named or trusted the same content before, or if he
says trust_code=true.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skiplab import own_code
from skiplab.config import code as codes
from skiplab.config.schema import Code, Config
from skiplab.errors import FolderError, UsageError
from skiplab.runs import atomic, contents

# The groups whose code a network is built with.
OF_A_NETWORK = ("block", "model")


def admit(config: Config) -> None:
    """Allow this process to run the code that a command's config names, and remember it.

    Raises UsageError if a file has changed since the command was given.
    """
    for code in config.code:
        if code.sha256 not in own_code.ALLOWED:
            content = own_code.read_if(code.path, code.sha256)
            if content is None and (content := own_code.remembered(code.sha256)) is None:
                raise UsageError(
                    f"{code.group}={code.name}: {own_code.shown(code.path)} has changed, or is "
                    "gone, since the command was given; give it again"
                )
            own_code.allow(code.path, content)
        own_code.remember(code.sha256)


def admit_run(
    folder: Path,
    config: Config,
    *,
    trust_code: bool,
    say: str = "trust_code=true",
    groups: Sequence[str] = tuple(codes.BASES),
) -> None:
    """Allow this process to run the code of a run folder, under the rule above.

    `say` is how the command at hand is told to trust, `groups` which code it needs. Raises
    UsageError for code that this user has neither named nor trusted, and if the run's copy is
    missing or is not what the run was trained with.
    """
    needed = [code for code in config.code if code.group in groups]
    unknown: list[Code] = []
    for code in needed:
        path = copy_path(folder, code)
        if code.sha256 in own_code.ALLOWED:
            continue
        if (content := own_code.remembered(code.sha256)) is not None:
            own_code.allow(path, content)
        elif not trust_code:
            unknown.append(code)
        else:
            own_code.allow(path, read_copy(folder, code))
            own_code.remember(code.sha256)
    if unknown:
        pieces = ", ".join(f"{code.group}={code.name}" for code in unknown)
        files = ", ".join(dict.fromkeys(str(copy_path(folder, code)) for code in unknown))
        raise UsageError(
            f"{folder}: has code of its own, {pieces}, which you have not run before; it is not "
            f"run unasked: read {files}, then say {say}"
        )


def admit_weights(path: Path, config: Config) -> None:
    """Allow this process to run the code that weights alone need, if this user has run it before.

    Raises UsageError otherwise: a file of weights has no copy of the code that one could read.
    """
    for code in config.code:
        if code.group not in OF_A_NETWORK or code.sha256 in own_code.ALLOWED:
            continue
        if (content := own_code.remembered(code.sha256)) is None:
            raise UsageError(
                f"{path}: its network has code of its own, {code.group}={code.name}, which you "
                "have not run before; open its run folder, which has a copy"
            )
        own_code.allow(code.path, content)


def admit_copies(folder: Path, config: Config) -> None:
    """Allow this process to run a run's code: the process that started it has asked already."""
    for code in config.code:
        if code.sha256 not in own_code.ALLOWED:
            own_code.allow(copy_path(folder, code), read_copy(folder, code))


def at_copies(folder: Path, config: Config) -> Config:
    """Return the config with the run's copies in the place of the files that it was begun with."""
    code = [replace(each, path=str(copy_path(folder, each).absolute())) for each in config.code]
    return replace(config, code=tuple(code))


def copy_path(folder: Path, code: Code) -> Path:
    """Return where a run folder keeps a file of its own code: code/FILE-SHA.py."""
    stem = code.name.rpartition(".")[0]
    return folder / contents.CODE / f"{stem}-{code.sha256[:8]}.py"


# The answers to a file that has changed since a run began.
THEIRS, MINE = "theirs", "mine"


def with_changed_files(folder: Path, config: Config, answer: str | None) -> Config:
    """Return the config of a run that goes on, with the code that `answer` says.

    `theirs` is the run's copy, `mine` the user's file as it is now; None has to do where no file
    has changed. Raises UsageError for a changed file without an answer, and for one that does not
    fit.
    """
    found: list[Code] = []
    for code in config.code:
        content = own_code.content_at(code.path)
        if content is None or own_code.digest(content) == code.sha256:
            if content is None and answer == MINE:
                raise UsageError(f"code=mine: {code.path} is not there; code=theirs goes on")
            found.append(code)
            continue
        if answer is None:
            raise UsageError(
                f"{folder}: {own_code.shown(code.path)} has changed since the run began; "
                f"code=theirs goes on with the run's own copy, {copy_path(folder, code)}; "
                "code=mine goes on with your changed file, and the run's history records it"
            )
        leaf = code.name.rpartition(".")[2]
        if answer == MINE:
            code = replace(codes.read(code.group, f"{code.path}:{leaf}"), name=code.name)
        found.append(code)
    return replace(config, code=tuple(found))


def read_copy(folder: Path, code: Code) -> bytes:
    """Return the run's copy. Raises UsageError if it is missing or was changed."""
    path = copy_path(folder, code)
    if (content := own_code.read_if(path, code.sha256)) is not None:
        return content
    what = "is not what the run was trained with" if os.path.lexists(path) else "is missing"
    raise UsageError(
        f"{path}: {what} (SHA-256 {code.sha256[:8]}...); put the file back, and it goes on"
    )


def keep_copies(folder: Path, config: Config) -> None:
    """Write a copy of each file of the config's own code into a run folder.

    The code is allowed already. Raises FolderError if it cannot be written.
    """
    for code in config.code:
        path = copy_path(folder, code)
        if own_code.read_if(path, code.sha256) is not None:
            continue
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise FolderError(f"{path.parent}: cannot be made ({error.strerror})") from None
        atomic.write(path, own_code.ALLOWED[code.sha256].content)
