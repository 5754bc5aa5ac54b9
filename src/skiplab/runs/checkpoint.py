"""A run's checkpoints: written atomically and in the background, one generation kept before each.

The generation before NAME.safetensors is NAME.prev.safetensors. `container.py` has the format.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skiplab.errors import CheckpointError
from skiplab.runs import atomic, container
from skiplab.runs.container import load, peek, stated_digest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load", "peek", "stated_digest"]

Content = TypeVar("Content")
# The suffix of checkpoints of format 1.
SUFFIX_1 = ".ckpt"


def keep(path: Path) -> None:
    """Keep `path` as `previous(path)` too. It stays where it is, so that readers find it.

    Does nothing if there is no such file. At every moment one of the two is whole. What an earlier
    release left in format 1 is then needed no more, and removed.
    """
    if not path.exists():
        return
    second = path.with_name(f".{path.name}-link{atomic.TEMPORARY}")
    try:
        second.unlink(missing_ok=True)
        os.link(path, second)
    # Without hard links only the generation before is there for a moment.
    except OSError:
        os.replace(path, previous(path))
    else:
        os.replace(second, previous(path))
        # A rename between two links of one file does nothing. They are there if a save was cut off
        # just before.
        second.unlink(missing_ok=True)
    for old in _of_format_1(path):
        old.unlink(missing_ok=True)


def promote(path: Path) -> None:
    """Put the generation before in the place of a damaged `path`.

    Otherwise the next save would keep the damaged one.
    """
    if previous(path).exists():
        os.replace(previous(path), path)
    # The one before is of format 1, and keeps its name.
    elif any(old.exists() for old in _of_format_1(path)):
        path.unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Return the path of the generation before the checkpoint `path`."""
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def _of_format_1(path: Path) -> list[Path]:
    """Return where an earlier release wrote `path` and the generation before it, in format 1."""
    old = path.with_suffix(SUFFIX_1)
    return [] if old == path else [old, previous(old)]


def generations(path: Path) -> list[Path]:
    """Return the checkpoint and the generations before it, newest first, as far as they exist.

    Those of format 1 come last, since no release that writes format 2 writes them.
    """
    return [each for each in (path, previous(path), *_of_format_1(path)) if each.exists()]


def save(path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts as one file, and keep the one before.

    Raises ValueError for a fact that is not finite, FolderError where the file cannot be written.
    """
    atomic.write(path, container.pack(tensors, facts), before_replacing=keep)


def newest(path: Path) -> "tuple[tuple[dict[str, Tensor], dict[str, Any]], CheckpointError | None]":
    """Return what the newest whole generation holds, and what is wrong with a newer one.

    Raises CheckpointError if none is whole.
    """
    return _newest(path, load)


def peek_newest(path: Path) -> dict[str, Any]:
    """Return the facts of the newest whole generation. Raises CheckpointError if none is whole."""
    return _newest(path, peek)[0]


def _newest(path: Path, read: Callable[[Path], Content]) -> tuple[Content, CheckpointError | None]:
    problem: CheckpointError | None = None
    for each in generations(path) or [path]:
        try:
            return read(each), problem
        except CheckpointError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def restore(path: Path, *, step: int) -> None:
    """Put the generation of `step` at `path`.

    A save that was cut off may have put a later one there.

    Raises CheckpointError if no whole generation is of that step, unless a later one shows that the
    steps to come will write it again.
    """
    found: list[object] = []
    problem: CheckpointError | None = None
    for each in generations(path):
        try:
            found.append(peek(each).get("step"))
        except CheckpointError as error:
            problem = problem or error
            continue
        if found[-1] == step:
            if each.suffix == path.suffix and each != path:
                os.replace(each, path)
            elif each.suffix != path.suffix:
                path.unlink(missing_ok=True)
                previous(path).unlink(missing_ok=True)
            return
    if step > 0 and not any(isinstance(other, int) and other > step for other in found):
        raise problem or CheckpointError(
            f"{path}: missing; it should hold the weights of step {step:,}"
        )


def not_finite(tensors: "Mapping[str, Tensor]") -> str:
    """Return which tensors hold values that are not finite, in words; empty if none does."""
    names = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if not names:
        return ""
    more = f" and {len(names) - 3} more of {len(tensors)}" if len(names) > 3 else ""
    return f"not finite: {', '.join(names[:3])}{more}"


def under(prefix: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors whose name begins with `prefix`, by the rest of their name."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def snapshot(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Copy tensors to the host: the originals may change while the copy is written."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


class Writer:
    """Writes in a thread inside the `with`, one job at a time.

    A job's error is raised by the next call.
    """

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.job: Future[None] | None = None

    def __enter__(self) -> "Writer":
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self.pool is not None
        # This waits. An error that is raised already matters more than one of the job.
        self.pool.shutdown()
        if kind is None:
            self.wait()

    def submit(self, write: Callable[[], None]) -> None:
        """Start a job once the one before is done. Raises what that one raised."""
        assert self.pool is not None, "submit works only inside `with`"
        self.wait()
        self.job = self.pool.submit(write)

    def check(self) -> None:
        """Raise what the job in flight has raised, if it is done. Does not wait."""
        if self.job is not None and self.job.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the job in flight, and raise what it raises."""
        job, self.job = self.job, None
        if job is not None:
            job.result()
