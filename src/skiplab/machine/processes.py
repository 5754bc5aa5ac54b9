"""The processes behind the ranks: how they start, what they are told, how they end together.

They are children of the first process, or torchrun's. All that passes between them is JSON in a
store that the first process holds; torchrun's store where it started them.
"""

import functools
import itertools
import json
import logging
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import torch

from skiplab import own_code
from skiplab.errors import RankFailed, SkiplabError
from skiplab.machine import signals, torchrun
from skiplab.machine.ranks import ALONE, Ranks, connected
from skiplab.machine.torchrun import Place

if TYPE_CHECKING or torch.distributed.is_available():
    from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

# What the first process sends to the others; "device" is the type of their devices.
Told = dict[str, Any]
# What the other processes do in a run.
Work = Callable[[Ranks, Told], None]
HOST = "127.0.0.1"
# Seconds for a process to leave word why it ends, and for the first one to notice.
PATIENCE = 10.0
STORE_LIMIT = timedelta(minutes=5)
# Matches the errors that another process's end raises here.
LOST = re.compile(r"gloo|nccl|connection|peer|socket|store", re.IGNORECASE)


# --------------------------------------------------------------------------------------------------
# The first process


@contextmanager
def leading(size: int, work: Work, told: Told, *, advice: str) -> Iterator[Ranks]:
    """Lead the other processes of a run, which do `work`; yield the ranks.

    Raises RankFailed, with `advice` for the user, when one of them ends badly.
    """
    if size == 1:
        yield ALONE
        return
    place = torchrun.place()
    others = Others.of_torchrun(place) if place is not None else Children(size, work, advice=advice)
    others.store.set("told", json.dumps(told))
    done = False
    try:
        with connected(
            others.store, others.place, device=device_of(told, others.place), check=others.check
        ) as team:
            try:
                yield team
                team.meet()
                done = True
            # An error of ours names its own cause, whether all ranks or only the first raised it.
            except SkiplabError:
                raise
            # Look for the cause before the connections are closed: the others would take that for
            # the cause.
            except Exception as error:
                if (failure := others.explain(error)) is not None:
                    raise failure from None
                raise
            finally:
                if not done:
                    # The others may wait in an operation that this process has left.
                    others.leave()
    except RankFailed as failure:
        raise RankFailed(
            f"{failure}; {advice}", exit_code=failure.exit_code, trace=failure.trace
        ) from None
    finally:
        if not done:
            others.leave()
        others.end()


def device_of(told: Told, place: Place) -> torch.device:
    """Return the device of a process; a CUDA device has the process's number on its machine."""
    if told["device"] == "cuda":
        return torch.device("cuda", place.local_rank)
    return torch.device(told["device"])


class Others:
    """The other processes of a run, as the first sees them. Torchrun starts and ends its own."""

    def __init__(self, store: "Store", place: Place):
        self.store, self.place = store, place

    @classmethod
    def of_torchrun(cls, place: Place) -> "Others":
        """Return the processes that wait in `follow_torchrun`."""
        store = torchrun_store()
        return cls(PrefixStore(f"run {store.add('runs', 1) - 1}", store), place)

    def failure(self) -> RankFailed | None:
        """Return what has gone wrong with one of them; None if nothing has."""
        if self.store.check(["error"]):
            return RankFailed(**json.loads(self.store.get("error")))
        return None

    def check(self) -> None:
        """Raise RankFailed if something has gone wrong with one of them."""
        if (failure := self.failure()) is not None:
            raise failure

    def explain(self, error: Exception) -> RankFailed | None:
        """Return the failure of another process that caused `error` here.

        None if the error is this process's own.
        """
        is_lost = isinstance(error, RuntimeError) and LOST.search(str(error)) is not None
        deadline = time.monotonic() + (PATIENCE if is_lost else 0)
        while (failure := self.failure()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if failure is None and is_lost:
            return RankFailed(
                f"another process of this run is gone ({' '.join(str(error).split())[:120]})"
            )
        return failure

    def leave(self) -> None:
        """Let the others go: this process has left the run before its end."""

    def end(self) -> None:
        """End the run for all: it is over for this process."""
        self.store.set("end", "")


class Children(Others):
    """Processes that this one starts, one for each further rank."""

    def __init__(self, size: int, work: Work, *, advice: str):
        # A socket of our own, since the store would listen on every interface.
        listener = socket.create_server((HOST, 0))
        port = listener.getsockname()[1]
        server = TCPStore(
            HOST,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=STORE_LIMIT,
            master_listen_fd=listener.detach(),
        )
        super().__init__(PrefixStore("run", server), Place(0, size, 0, size))
        self.advice = advice
        self.over = threading.Event()
        # Asking for an exit code waits for the process, which only one thread can do at a time.
        self.lock = threading.Lock()
        stay_on_this_machine()
        # Each child is a fresh interpreter. A fork of a process that has run OpenMP hangs in its
        # first operation, and CUDA forbids forks.
        context = multiprocessing.get_context("spawn")
        self.processes: list[BaseProcess] = []
        # If it started later, it would let the signals in again.
        resource_tracker.ensure_running()
        try:
            with signals.kept_back():
                for rank in range(1, size):
                    process = context.Process(
                        target=be_child, args=(Place(rank, size, rank, size), port, work)
                    )
                    process.start()
                    self.processes.append(process)
        # The system may have no room for more processes.
        except OSError:
            self.leave()
            raise
        threading.Thread(target=self.watch, daemon=True).start()

    def failure(self) -> RankFailed | None:
        return super().failure() or self.death()

    def death(self) -> RankFailed | None:
        """Return how one of them has died; None if none has."""
        for rank, process in enumerate(self.processes, 1):
            with self.lock:
                code = process.exitcode
            if code:
                how = f"ended with exit code {code}"
                if code < 0:
                    how = f"was ended by {signal.Signals(-code).name}"
                return RankFailed(f"rank {rank} (pid {process.pid}) {how}")
        return None

    def watch(self) -> None:
        """End this process if another is gone and it does not notice in time.

        It may wait in an operation that never ends.
        """
        waiting = {process.sentinel: process for process in self.processes}
        while waiting:
            for sentinel in connection.wait(list(waiting)):
                process = waiting.pop(sentinel)  # pyright: ignore[reportArgumentType]
                with self.lock:
                    # The child has closed its end of the pipe and is about to exit.
                    process.join()
            if (failure := self.death()) is not None:
                if not self.over.wait(PATIENCE):
                    with suppress(OSError):
                        os.write(2, f"error: {failure}; {self.advice}\n".encode())
                    os._exit(failure.exit_code)
                return

    def leave(self) -> None:
        for process in self.processes:
            with self.lock:
                process.kill()

    def end(self) -> None:
        self.over.set()
        super().end()
        for process in self.processes:
            with self.lock:
                process.join(PATIENCE)
                process.kill()
                process.join()


def stay_on_this_machine() -> None:
    """Have gloo use the loopback interface, unless the environment names another.

    By default it looks up the host's name.
    """
    if hasattr(socket, "if_nameindex"):
        loopback = [name for _, name in socket.if_nameindex() if name.rstrip("0123456789") == "lo"]
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])


# --------------------------------------------------------------------------------------------------
# The other processes


def be_child(place: Place, port: int, work: Work) -> None:
    """Do a child's part in one run, and exit."""
    # A stop is meant for the first process, which decides for all.
    signals.ignore()
    threading.Thread(target=end_with_parent, daemon=True).start()
    store = TCPStore(HOST, port, is_master=False, wait_for_workers=False, timeout=STORE_LIMIT)
    if (giving_up := follow(PrefixStore("run", store), place, work)) is not None:
        giving_up.join()
    os._exit(0)


def end_with_parent() -> None:
    """Exit when the parent process has ended, however it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def follow(store: "Store", place: Place, work: Work) -> threading.Timer | None:
    """Do this process's part in the run that `store` describes; return None if all went well.

    An error is left in the store, for the first process to report. If that process does not notice,
    the timer that is returned ends this one.
    """

    def check() -> None:
        if store.check(["end"]):
            raise RankFailed("the first process has ended")

    giving_up = None
    told = json.loads(store.get("told"))
    # Torch logs its remarks in the first process too.
    logging.disable()
    # The connections are closed last: the first process then looks into the store.
    with ExitStack() as stack:
        try:
            team = stack.enter_context(
                connected(store, place, device=device_of(told, place), check=check)
            )
            work(team, told)
            team.meet()
        except Exception as raised:
            error = own_code.explain(raised) or raised
            reason = " ".join(str(error).split())[:200]
            said = {
                "message": f"rank {place.rank}: {type(error).__name__}: {reason}",
                "exit_code": 1,
                "trace": traceback.format_exc(),
            }
            if isinstance(error, SkiplabError):
                said = {
                    "message": f"rank {place.rank}: {error}",
                    "exit_code": error.exit_code,
                    "trace": "",
                }
            # The store raises RuntimeError if it is gone with its process.
            with suppress(RuntimeError):
                store.compare_set("error", "", json.dumps(said))
            giving_up = threading.Timer(2 * PATIENCE, give_up, kwargs=said)
            giving_up.daemon = True
            giving_up.start()
    return giving_up


def give_up(message: str, exit_code: int, trace: str) -> None:
    """Exit: this process has failed, and the first one has not noticed in time.

    The first one may wait in an operation of the device that never ends.
    """
    with suppress(OSError):
        os.write(2, f"{trace}error: {message}\n".encode())
    os._exit(exit_code)


def follow_torchrun(place: Place, work: Work) -> None:
    """Do the part of one of torchrun's processes in every run of the first, until it ends."""
    # Between runs there is nothing to save or to report.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The store raises RuntimeError if it is gone with its process.
    with suppress(RuntimeError):
        store = torchrun_store()
        for number in itertools.count():
            run = PrefixStore(f"run {number}", store)
            while not run.check(["told"]):
                if store.check(["over"]):
                    return
                time.sleep(0.05)
            with signals.ignored():
                giving_up = follow(run, place, work)
            while not run.check(["end"]):
                time.sleep(0.05)
            if giving_up is not None:
                giving_up.cancel()


def tell_torchrun_over() -> None:
    """Let torchrun's other processes go: no more runs will come."""
    with suppress(RuntimeError):
        torchrun_store().set("over", "")


@functools.cache
def torchrun_store() -> "Store":
    """Return the store in which the processes that torchrun started meet."""
    if (place := torchrun.place()) is not None and place.local_size == place.size:
        stay_on_this_machine()
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://")))
    return PrefixStore("skiplab", store)
