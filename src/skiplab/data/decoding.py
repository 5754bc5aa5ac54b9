"""Decode many image files, in several processes where that pays. Imports no torch.

A process is spawned, never forked: the caller may have threads, and some systems cannot fork. It
ends with the pipe to its caller, so a caller that is killed leaves none behind.
"""

import hashlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skiplab.data import images
from skiplab.data.arrays import Bytes
from skiplab.machine import cpu

# Files that a process decodes before it reports.
CHUNK = 32
# A process takes a fifth of a second to start, so it must have so many files to decode.
LEAST_FILES = 500
# If so many processes have died and none has decoded anything, none can, whatever the files are.
MOST_FAILED_STARTS = 3

Chunk = Sequence[int]
Advance = Callable[[int], None]


class Outcome(NamedTuple):
    """What became of one file: the SHA-256 of its bytes, whether it is grey, or why it failed.

    `is_lasting` says whether it will fail again as long as it stays as it is.
    """

    sha256: str
    is_grey: bool
    problem: str = ""
    is_lasting: bool = True


def decode_all(paths: Sequence[str], pixels: Bytes, advance: Advance) -> list[Outcome]:
    """Decode files into `pixels`, uint8 (N, H, W, C), and return what became of each.

    A file that cannot be decoded leaves its pixels as they are. `advance` is told of the files that
    are done.
    """
    outcomes: list[Outcome] = [Outcome("", False)] * len(paths)

    def take(chunk: Chunk, done: Sequence[Outcome], decoded: Bytes) -> None:
        good = [i for i, outcome in zip(chunk, done, strict=True) if not outcome.problem]
        pixels[good] = decoded
        for i, outcome in zip(chunk, done, strict=True):
            outcomes[i] = outcome
        advance(len(chunk))

    chunks = [range(i, min(i + CHUNK, len(paths))) for i in range(0, len(paths), CHUNK)]
    number = min(cpu.num_cores(), len(paths) // LEAST_FILES)
    shape = pixels.shape[1:]
    left: Iterable[Chunk] = chunks
    if number > 1:
        left = Pool(number, paths, shape).work(chunks, take)
    for chunk in left:
        take(chunk, *decode_some([paths[i] for i in chunk], shape))
    return outcomes


def decode_some(paths: Sequence[str], shape: Sequence[int]) -> tuple[list[Outcome], Bytes]:
    """Decode files here to `shape` (H, W, C). Returns outcomes, and the pixels of the good ones."""
    height, width, channels = shape
    outcomes: list[Outcome] = []
    decoded: list[Bytes] = []
    for path in paths:
        digest = ""
        try:
            content = images.read(Path(path))
            digest = hashlib.sha256(content).hexdigest()
            image = images.open_image(content)
            pixels = images.to_array(image, size=(height, width), channels=channels)
        except images.Unreadable as error:
            is_lasting = not isinstance(error, images.OutOfReach)
            outcomes.append(Outcome(digest, False, str(error), is_lasting))
        else:
            decoded.append(pixels)
            outcomes.append(Outcome(digest, image.is_grey))
    return outcomes, np.stack(decoded) if decoded else np.empty((0, *shape), np.uint8)


# --------------------------------------------------------------------------------------------------
# Several processes


class Pool:
    """Processes that decode chunks of files, each behind a pipe of its own."""

    def __init__(self, number: int, paths: Sequence[str], shape: Sequence[int]):
        self.number, self.paths, self.shape = number, paths, shape
        self.busy: dict[Connection, tuple[BaseProcess, Chunk]] = {}
        self.num_done = self.num_died = 0

    def work(
        self, chunks: Sequence[Chunk], take: Callable[[Chunk, Sequence[Outcome], Bytes], None]
    ) -> list[Chunk]:
        """Have the processes decode the chunks, and `take` what they return.

        Returns the chunks that are left if no process can be started.
        """
        left = deque(chunks)
        try:
            for _ in range(self.number):
                self.start(left)
            while self.busy:
                for pipe in connection.wait(list(self.busy)):
                    assert isinstance(pipe, Connection)
                    self.listen(pipe, left, take)
        finally:
            for pipe, (process, _) in self.busy.items():
                pipe.close()
                process.terminate()
        return list(left)

    def start(self, left: deque[Chunk]) -> None:
        """Start a process and give it a chunk, if there is one left and the system allows it."""
        if not left:
            return
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, tuple(self.shape)), daemon=True)
        try:
            process.start()
        except OSError:
            here.close()
            return
        finally:
            there.close()
        self.give(here, process, left)

    def give(self, pipe: Connection, process: BaseProcess, left: deque[Chunk]) -> None:
        """Give a process its next chunk, or let it end."""
        if not left:
            pipe.close()
            process.join()
            return
        chunk = left.popleft()
        # A process that has died meanwhile is noticed when it is listened to.
        with suppress(OSError):
            pipe.send([self.paths[i] for i in chunk])
        self.busy[pipe] = process, chunk

    def listen(
        self,
        pipe: Connection,
        left: deque[Chunk],
        take: Callable[[Chunk, Sequence[Outcome], Bytes], None],
    ) -> None:
        """Take what a process has decoded, and give it more.

        A process that has died is replaced. Its files are tried one by one, so that the one that
        ends a process is found.
        """
        process, chunk = self.busy.pop(pipe)
        try:
            outcomes = pipe.recv()
            content = pipe.recv_bytes()
        except (EOFError, OSError):
            pipe.close()
            process.join()
            self.num_died += 1
            if self.num_done == 0 and self.num_died > MOST_FAILED_STARTS:
                left.append(chunk)
                return
            if len(chunk) > 1:
                left.extendleft([i] for i in reversed(chunk))
            else:
                problem = "ends the process that decodes it"
                take(
                    chunk,
                    [Outcome("", False, problem, False)],
                    np.empty((0, *self.shape), np.uint8),
                )
            self.start(left)
            return
        self.num_done += 1
        take(chunk, outcomes, np.frombuffer(content, np.uint8).reshape(-1, *self.shape))
        self.give(pipe, process, left)


def serve(pipe: Connection, shape: tuple[int, int, int]) -> None:
    """Decode the files that come through the pipe, until it is closed at the other end."""
    # A terminal's Ctrl-C is for the caller.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            outcomes, pixels = decode_some(pipe.recv(), shape)
            pipe.send(outcomes)
            pipe.send_bytes(pixels.tobytes())
