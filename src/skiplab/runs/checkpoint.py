"""The checkpoint container: no pickle, written atomically and in the background.

Its SHA-256 is checked before anything in it is parsed.

8 bytes   b"SKIPLAB1"                  format 1
32 bytes  SHA-256 of all that follows
8 bytes   length of the facts, little-endian
...       facts: canonical JSON
...       tensors: the safetensors format

A checkpoint NAME.ckpt keeps one generation before it, NAME.prev.ckpt.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from skiplab.errors import CheckpointError
from skiplab.runs import atomic

if TYPE_CHECKING:
    from torch import Tensor

Content = TypeVar("Content")
MAGIC = b"SKIPLAB1"
HEADER_SIZE = len(MAGIC) + 32 + 8


def keep(path: Path) -> None:
    """Keep `path` as `previous(path)` too. It stays where it is, so that readers find it.

    Does nothing if there is no such file. At every moment one of the two is whole.
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


def promote(path: Path) -> None:
    """Put the generation before in the place of a damaged `path`.

    Otherwise the next save would keep the damaged one.
    """
    os.replace(previous(path), path)


def previous(path: Path) -> Path:
    """Return the path of the generation before the checkpoint `path`."""
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def generations(path: Path) -> list[Path]:
    """Return the checkpoint and the generation before it, as far as they exist."""
    return [each for each in (path, previous(path)) if each.exists()]


def save(path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts as one container, and keep the one before.

    Raises ValueError for a fact that is not finite, FolderError where the file cannot be written.
    """
    # This imports torch, which `peek` and the command line do without.
    import safetensors.torch

    body = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    text = json.dumps(facts, sort_keys=True, allow_nan=False).encode()
    length = len(text).to_bytes(8, "little")
    digest = hashlib.sha256(length + text)
    digest.update(body)
    whole = (MAGIC + digest.digest() + length + text, body)
    atomic.write(path, whole, before_replacing=keep)


def load(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Return the tensors, on the CPU, and the facts of a container.

    Raises CheckpointError naming the file if it is not whole.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    with _opened(path) as file:
        facts = _read_facts(path, file)
        try:
            return safetensors.torch.load(file.read()), facts
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise CheckpointError(f"{path}: its tensors cannot be read ({reason})") from None


def peek(path: Path) -> dict[str, Any]:
    """Return only the facts of a container, checked as `load` does. Needs no torch."""
    with _opened(path) as file:
        return _read_facts(path, file)


def _opened(path: Path) -> BinaryIO:
    try:
        # Reading a pipe would never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: not a file")
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _read_facts(path: Path, file: BinaryIO) -> dict[str, Any]:
    """Check the container, a piece at a time, and leave `file` where its tensors begin."""
    try:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEADER_SIZE)
        if len(head) < HEADER_SIZE or not head.startswith(MAGIC):
            raise CheckpointError(f"{path}: not a Skiplab checkpoint of format 1")
        digest = hashlib.sha256(head[-8:])
        while piece := file.read(2**20):
            digest.update(piece)
        if digest.digest() != head[len(MAGIC) : -8]:
            raise CheckpointError(
                f"{path}: damaged: its SHA-256 is not the one it was written with"
            )
        length = int.from_bytes(head[-8:], "little")
        # Checked before memory is taken for it.
        if length > size - HEADER_SIZE:
            raise CheckpointError(
                f"{path}: damaged: {length:,} bytes of facts in a file of {size:,}"
            )
        file.seek(HEADER_SIZE)
        facts = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: its facts are not JSON") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: its facts are not a mapping")
    return facts


def digest(path: Path) -> str:
    """Return the SHA-256 that a container states of itself, in hexadecimal.

    Raises CheckpointError if it is no container.
    """
    with _opened(path) as file:
        head = file.read(HEADER_SIZE)
    if len(head) < HEADER_SIZE or not head.startswith(MAGIC):
        raise CheckpointError(f"{path}: not a Skiplab checkpoint of format 1")
    return head[len(MAGIC) : -8].hex()


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
            if each != path:
                os.replace(each, path)
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
