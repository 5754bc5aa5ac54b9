"""Paths that a user or the environment names: expanded, made absolute, and refused in one line where they cannot be used. No torch."""

import errno
import os
import stat
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path

from skiplab.errors import UsageError

# control characters, line and paragraph separators
UNPRINTABLE = ("Cc", "Zl", "Zp")
# bytes that are no text, as Python reads them
NO_TEXT = "Cs"
# nothing can be made there: a cache in it is left out
NOWHERE = Path(os.devnull) / "skiplab"


def absolute(text: str, *, key: str) -> str:
    """Return a path as an absolute one, its `~` expanded. Raises UsageError naming the key for what no file can be called."""
    # a config file could not hold it
    if any(unicodedata.category(character) == NO_TEXT for character in text):
        raise UsageError(
            f"{key}={text!r}: a path of text, without line breaks and control characters is expected"
        )
    joined = os.path.join(os.getcwd(), given(text, key=key))
    # `link/..` is not where the link lies
    straight = os.path.normpath(joined)
    return straight if os.path.realpath(straight) == os.path.realpath(joined) else joined


def given(text: str, *, key: str = "") -> Path:
    """Return a path that a user has typed, its `~` expanded. Raises UsageError naming the key, if any, for what no file can be called."""
    told = f"{key}=" if key else ""
    if any(unicodedata.category(character) in UNPRINTABLE for character in text):
        raise UsageError(
            f"{told}{text!r}: a path without line breaks and control characters is expected"
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UsageError(
            f"{told}{text}: no home folder is known for {text.split('/')[0]}; write the path out"
        )
    if is_too_long(os.path.join(os.getcwd(), expanded)):
        raise UsageError(
            f"{told}{shortened(text)}: cannot be a path ({os.strerror(errno.ENAMETOOLONG)}); a shorter one is expected"
        )
    return Path(expanded)


def check_working_folder() -> None:
    """Raise UsageError if the folder that the process works in has been removed: no relative path means anything there."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the working folder is not there any more ({error.strerror}); cd to one that is"
        ) from None


def is_too_long(path: str) -> bool:
    """Tell whether the system takes no path as long as this one; in a folder that is not there yet it asks for each name alone."""
    for each in (path, *(os.path.join(os.sep, name) for name in path.split(os.sep))):
        try:
            os.lstat(each)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return True
    return False


def shortened(text: str) -> str:
    """Return a text as one can read it in a message."""
    return text if len(text) <= 100 else f"{text[:60]}...{text[-20:]} ({len(text)} characters)"


# ---------------------------------------------------------------------------------------------------------
# the two folders


def cache_folder() -> Path:
    """Return where Skiplab keeps what it downloads and what it remembers: $XDG_CACHE_HOME/skiplab, else ~/.cache/skiplab.

    A relative $XDG_CACHE_HOME does not count, as its specification says. Who has no home folder
    gets a private temporary one.
    """
    for text in (os.environ.get("XDG_CACHE_HOME") or "", "~/.cache"):
        expanded = os.path.expanduser(text)
        if os.path.isabs(expanded):
            return Path(expanded) / "skiplab"
    return temporary_folder()


def temporary_folder() -> Path:
    """Return a folder of this user's own among the temporary ones. A foreign one of that name is not used: its files would be trusted."""
    # no temporary folder at all; no user ids (Windows, where a home folder is always known)
    with suppress(OSError, AttributeError):
        folder = Path(tempfile.gettempdir()) / f"skiplab-{os.geteuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.geteuid()
            and not found.st_mode & 0o022
        ):
            return folder
    return NOWHERE


def default_root() -> Path:
    """Return the data root where `dataset.root` is not set: $SKIPLAB_DATA, else the cache folder. Raises UsageError if it cannot be one."""
    if given := os.environ.get("SKIPLAB_DATA"):
        return usable(absolute(given, key="$SKIPLAB_DATA"), f"$SKIPLAB_DATA={shortened(given)}")
    folder, given = cache_folder(), os.environ.get("XDG_CACHE_HOME")
    return usable(
        str(folder),
        f"$XDG_CACHE_HOME={shortened(given)}" if given and folder != NOWHERE else str(folder),
    )


def data_root(text: str | None) -> Path:
    """Return the data root that `dataset.root` names, or the default one. Raises UsageError if it cannot be one."""
    return (
        default_root()
        if text is None
        else usable(absolute(text, key="dataset.root"), f"dataset.root={shortened(text)}")
    )


def usable(path: str, told: str) -> Path:
    """Return a folder's path. Raises UsageError, which begins with `told`, where something else lies there or it may not be searched."""
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise UsageError(f"{told}: is {kind_of(Path(path))}; a folder is expected")
        # which takes the right to search it
        os.stat(os.path.join(path, "."))
    except FileNotFoundError:
        if os.path.islink(path):
            raise UsageError(f"{told}: is {kind_of(Path(path))}; a folder is expected") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "set dataset.root or $SKIPLAB_DATA to a folder that can be read; dataset=digits needs no download"
        raise UsageError(f"{told}: cannot be used ({reason}); {advice}") from None
    return Path(path)


def root_in_words() -> str:
    """Return the default data root, or why there is none, for who only looks."""
    try:
        return str(default_root())
    except UsageError as error:
        return f"none: {error}"


# ------------------------------------------------------------------------------------------------------------
# what lies where

KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (a named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def kind_of(path: Path) -> str | None:
    """Return what lies at a path, in words: a file, a folder, a FIFO ...; None if nothing does. It is not opened."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else None
    # a loop of links, a folder that may not be searched
    except OSError as error:
        return f"out of reach ({error.strerror})"
    return next((words for is_kind, words in KINDS if is_kind(mode)), "no file")


def check_kind(path: Path) -> None:
    """Raise UsageError if something lies at `path` that is no file. It is never opened: reading a FIFO would wait for ever."""
    kind = kind_of(path)
    if kind is not None and kind != "a file":
        raise UsageError(
            f"{path}: is {kind}; a data file is expected there: move it away, or set dataset.root to another folder"
        )
