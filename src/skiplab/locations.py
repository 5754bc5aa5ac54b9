"""Paths that a user or the environment names, made absolute, or refused in one line. No torch."""

import errno
import os
import stat
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path

from skiplab.errors import UsageError

# Unicode categories: control characters, line and paragraph separators.
UNPRINTABLE = ("Cc", "Zl", "Zp")
# Unicode category of bytes that are no text, as Python reads them.
NO_TEXT = "Cs"
# Nothing can be made there, so a cache in it is left out.
NOWHERE = Path(os.devnull) / "skiplab"


def absolute(text: str, *, key: str) -> str:
    """Return the absolute path, with `~` expanded.

    Raises UsageError naming the key if no file can have that name.
    """
    # A config file could not hold such a path.
    if any(unicodedata.category(character) == NO_TEXT for character in text):
        raise UsageError(
            f"{key}={text!r}: a path of text, "
            "without line breaks and control characters is expected"
        )
    joined = os.path.join(os.getcwd(), given(text, key=key))
    # `link/..` is the parent of the link's target, which normpath does not know.
    straight = os.path.normpath(joined)
    return straight if os.path.realpath(straight) == os.path.realpath(joined) else joined


def given(text: str, *, key: str = "") -> Path:
    """Return a path that a user has typed, with `~` expanded.

    Raises UsageError naming the key, if there is one, if no file can have that name.
    """
    prefix = f"{key}=" if key else ""
    if any(unicodedata.category(character) in UNPRINTABLE for character in text):
        raise UsageError(
            f"{prefix}{text!r}: a path without line breaks and control characters is expected"
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UsageError(
            f"{prefix}{text}: no home folder is known for {text.split('/')[0]}; write the path out"
        )
    if is_too_long(os.path.join(os.getcwd(), expanded)):
        raise UsageError(
            f"{prefix}{shortened(text)}: cannot be a path ({os.strerror(errno.ENAMETOOLONG)}); "
            "a shorter one is expected"
        )
    return Path(expanded)


def check_working_folder() -> None:
    """Raise UsageError if the working folder is gone: relative paths mean nothing there."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the working folder is not there any more ({error.strerror}); cd to one that is"
        ) from None


def is_too_long(path: str) -> bool:
    """Tell whether the path, or one of its names, is longer than the system takes."""
    # Each name is tried at the root too, since the path's folder may not be there yet.
    for each in (path, *(os.path.join(os.sep, name) for name in path.split(os.sep))):
        try:
            os.lstat(each)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return True
    return False


def shortened(text: str) -> str:
    """Return a text of over 100 characters cut for a message."""
    return text if len(text) <= 100 else f"{text[:60]}...{text[-20:]} ({len(text)} characters)"


# --------------------------------------------------------------------------------------------------
# The cache and the data root


def cache_folder() -> Path:
    """Return the folder for downloads and caches: $XDG_CACHE_HOME/skiplab, else ~/.cache/skiplab.

    A relative $XDG_CACHE_HOME does not count, as its specification says. A user without a home
    folder gets a private temporary one.
    """
    for text in (os.environ.get("XDG_CACHE_HOME") or "", "~/.cache"):
        expanded = os.path.expanduser(text)
        if os.path.isabs(expanded):
            return Path(expanded) / "skiplab"
    return temporary_folder()


def temporary_folder() -> Path:
    """Return a temporary folder of this user's own, or NOWHERE.

    A folder of that name that another user owns or can write to is not used, since its files would
    be trusted.
    """
    # There may be no temporary folder. Windows has no user ids, but always a home folder.
    with suppress(OSError, AttributeError):
        folder = Path(tempfile.gettempdir()) / f"skiplab-{os.geteuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        is_own = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if stat.S_ISDIR(found.st_mode) and is_own:
            return folder
    return NOWHERE


def default_root() -> Path:
    """Return the default data root: $SKIPLAB_DATA, else the cache folder.

    Raises UsageError if it cannot be one.
    """
    if given := os.environ.get("SKIPLAB_DATA"):
        return usable(absolute(given, key="$SKIPLAB_DATA"), f"$SKIPLAB_DATA={shortened(given)}")
    folder, given = cache_folder(), os.environ.get("XDG_CACHE_HOME")
    subject = str(folder)
    if given and folder != NOWHERE:
        subject = f"$XDG_CACHE_HOME={shortened(given)}"
    return usable(str(folder), subject)


def data_root(text: str | None) -> Path:
    """Return the data root that `dataset.root` names; the default one for None.

    Raises UsageError if it cannot be one.
    """
    if text is None:
        return default_root()
    return usable(absolute(text, key="dataset.root"), f"dataset.root={shortened(text)}")


def usable(path: str, subject: str) -> Path:
    """Return a folder's path; it need not be there yet.

    Raises UsageError, which begins with `subject`, if it is no folder or may not be searched.
    """
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise UsageError(f"{subject}: is {kind_of(Path(path))}; a folder is expected")
        # This fails without the right to search the folder.
        os.stat(os.path.join(path, "."))
    except FileNotFoundError:
        if os.path.islink(path):
            raise UsageError(f"{subject}: is {kind_of(Path(path))}; a folder is expected") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = (
            "set dataset.root or $SKIPLAB_DATA to a folder that can be read; "
            "dataset=digits needs no download"
        )
        raise UsageError(f"{subject}: cannot be used ({reason}); {advice}") from None
    return Path(path)


def root_in_words() -> str:
    """Return the default data root, or why there is none, for `skiplab info`."""
    try:
        return str(default_root())
    except UsageError as error:
        return f"none: {error}"


# --------------------------------------------------------------------------------------------------
# The folder of the runs

OUTPUTS = "SKIPLAB_OUTPUTS"


def outputs() -> Path:
    """Return the folder under which runs and studies lie: $SKIPLAB_OUTPUTS, else outputs.

    A relative one lies under the working folder. Raises UsageError if the variable is empty or no
    file can have that name. What lies there is checked by whoever writes into it.
    """
    text = os.environ.get(OUTPUTS)
    if text is None:
        return Path("outputs")
    if not text.strip():
        raise UsageError(
            f"${OUTPUTS} is empty; a folder is expected, or unset it: then runs go to outputs/"
        )
    return given(text, key=f"${OUTPUTS}")


def studies() -> Path:
    """Return the folder under which studies lie. Raises UsageError as `outputs` does."""
    return outputs() / "studies"


def outputs_in_words() -> str:
    """Return where runs go, for advice in a message."""
    if text := os.environ.get(OUTPUTS, ""):
        return f"${OUTPUTS}={shortened(text)}"
    return "outputs/ under the folder that train is started in"


# --------------------------------------------------------------------------------------------------
# What lies at a path

KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (a named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def kind_of(path: Path) -> str | None:
    """Return what lies at a path, in words: a file, a folder, a FIFO ...; None if nothing does.

    It is not opened.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else None
    # The path may be a loop of links, or lie in a folder that may not be searched.
    except OSError as error:
        return f"out of reach ({error.strerror})"
    return next((words for is_kind, words in KINDS if is_kind(mode)), "no file")


def check_kind(path: Path) -> None:
    """Raise UsageError if something lies at `path` that is no file.

    It is never opened, since reading a FIFO would wait for ever.
    """
    kind = kind_of(path)
    if kind is not None and kind != "a file":
        raise UsageError(
            f"{path}: is {kind}; a data file is expected there: "
            "move it away, or set dataset.root to another folder"
        )
