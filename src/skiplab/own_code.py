"""Run a user's own files, and only those that he has named or trusted. Imports no torch.

A file is known by the SHA-256 of its content. What this process may run is in ALLOWED. What the
user has run before lies in his cache folder, `code/SHA256.py`, so a run of his own goes on without
a question. A file is always run from the bytes that were hashed: it is not read a second time, and
no `.pyc` next to it is looked at.
"""

import functools
import hashlib
import importlib.abc
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, ModuleType

from skiplab import regular
from skiplab.errors import SkiplabError, UsageError
from skiplab.locations import cache_folder

# The most bytes of a file of code.
LARGEST = 2**20


@dataclass(frozen=True)
class Source:
    """The content of a file, and where it was read."""

    path: str
    content: bytes


# What this process may run, by the SHA-256 of the content.
ALLOWED: dict[str, Source] = {}


def digest(content: bytes) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read(path: Path | str) -> bytes:
    """Return a file's content. Raises OSError if it is no file, or larger than LARGEST."""
    return regular.read(path, most=LARGEST)


def content_at(path: Path | str) -> bytes | None:
    """Return a file's content, or None if it cannot be read."""
    with suppress(OSError, ValueError):
        return read(path)
    return None


def read_if(path: Path | str, sha256: str) -> bytes | None:
    """Return a file's content if it is there and has this SHA-256, else None."""
    content = content_at(path)
    return content if content is not None and digest(content) == sha256 else None


def allow(path: Path | str, content: bytes) -> None:
    """Let this process run a content, which tracebacks then show as that of the file `path`."""
    ALLOWED.setdefault(digest(content), Source(os.path.abspath(path), content))


# --------------------------------------------------------------------------------------------------
# What the user has run before


def store() -> Path:
    """Return the folder of all contents that this user has named or trusted."""
    return cache_folder() / "code"


def remembered(sha256: str) -> bytes | None:
    """Return a content that this user has named or trusted before, else None."""
    return read_if(store() / f"{sha256}.py", sha256)


def remember(sha256: str) -> None:
    """Note that this user has named or trusted an allowed content.

    Where the cache cannot be written he is asked again.
    """
    content, path = ALLOWED[sha256].content, store() / f"{sha256}.py"
    if read_if(path, sha256) is not None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)


# --------------------------------------------------------------------------------------------------
# Running it


class _Loader(importlib.abc.InspectLoader):
    """Runs bytes that were hashed. A SourceFileLoader would read again, and take a .pyc."""

    def __init__(self, source: Source):
        self.source = source

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.source.content)

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.source.content, self.source.path)


def load(name: str, sha256: str) -> object:
    """Return what `name` (FILE.NAME) stands for in an allowed content, which is run once.

    Raises UsageError, in one line, if it is not allowed, or fails when it is run.
    """
    if sha256 not in ALLOWED:
        raise UsageError(f"{name}: code that was not asked for is not run")
    source = ALLOWED[sha256]
    leaf = name.rpartition(".")[2]
    try:
        return getattr(_module(sha256), leaf)
    except SkiplabError:
        raise
    # A file of somebody's own may raise anything, and may even call sys.exit.
    except (Exception, SystemExit) as error:
        if (problem := explain(error)) is not None:
            raise problem from error
        if isinstance(error, AttributeError):
            raise UsageError(f"{shown(source.path)}: has no {leaf} once it is run") from None
        raise UsageError(
            f"{shown(source.path)}: cannot be run ({describe(error)}); {ADVICE}"
        ) from error


@functools.cache
def _module(sha256: str) -> ModuleType:
    """Run a file as a module of its own, which is not found by its name."""
    source = ALLOWED[sha256]
    name = f"skiplab_own_{sha256[:16]}"
    spec = importlib.util.spec_from_loader(name, _Loader(source), origin=source.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = source.path
    # Dataclasses, pickles and torch.compile look a class's module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# --------------------------------------------------------------------------------------------------
# Errors in it

ADVICE = "SKIPLAB_TRACEBACK=1 in the environment shows its traceback"


def explain(error: BaseException) -> UsageError | None:
    """Return the line for an error that a user's file has raised, or None for any other error."""
    if isinstance(error, SyntaxError) and error.filename in _paths():
        return syntax_problem(error, error.filename or "")
    if (place := where(error)) is None:
        return None
    return UsageError(f"{place}: {describe(error)}; {ADVICE}")


def syntax_problem(error: SyntaxError, path: str) -> UsageError:
    """Return the line for a file that is not Python."""
    return UsageError(f"{shown(path)}:{error.lineno or 1}: {error.msg}")


def where(error: BaseException) -> str | None:
    """Return FILE:LINE, the innermost line of a user's file that an error went through, or None."""
    known = _paths()
    lines = [
        (frame.f_code.co_filename, line)
        for frame, line in _frames(error)
        if frame.f_code.co_filename in known
    ]
    return f"{shown(lines[-1][0])}:{lines[-1][1]}" if lines else None


def describe(error: BaseException) -> str:
    """Return an error's type and what it says, in one line."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def shown(path: str) -> str:
    """Return a path as people write it: relative if it lies in the working folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _paths() -> set[str]:
    return {source.path for source in ALLOWED.values()}


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    at = error.__traceback__
    while at is not None:
        yield at.tb_frame, at.tb_lineno
        at = at.tb_next
