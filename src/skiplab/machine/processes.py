"""The processes behind the ranks: children of the first, or torchrun's. How they start, what they are told, how they end together.

All that passes between them is JSON in a store that the first process holds (torchrun's, where it
started them).
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

from skiplab.errors import RankFailed, SkiplabError
from skiplab.machine import signals, torchrun
from skiplab.machine.ranks import ALONE, Ranks, connected
from skiplab.machine.torchrun import Place

if TYPE_CHECKING or torch.distributed.is_available():
    from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

Told = dict[str, Any]
# what the other processes do in a run, from what the first has told them
Work = Callable[[Ranks, Told], None]
HOST = "127.0.0.1"
# seconds for a process to say why it ends, and for this one to notice
PATIENCE = 10.0
STORE_LIMIT = timedelta(minutes=5)
# what errors say that another process's end raises here
LOST = re.compile(r"gloo|nccl|connection|peer|socket|store", re.IGNORECASE)


# --------------------------------------------------------------------------------------------------
# seen from the first


@contextmanager
def leading(size: int, work: Work, told: Told, *, advice: str) -> Iterator[Ranks]:
    """The ranks of a run of which this process is the first; the others do `work`. Raises RankFailed when one of them ends badly.

    `advice`: what a user can do then.
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
            # of all ranks, or of the first alone: it is told here
            except SkiplabError:
                raise
            # before the connections are closed, which the others would take for the cause
            except Exception as error:
                if (failure := others.explain(error)) is not None:
                    raise failure from None
                raise
            finally:
                if not done:
                    # they may wait in an operation that this process has left
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
    """The device of a process: its number is the process's own on its machine."""
    return (
        torch.device("cuda", place.local_rank)
        if told["device"] == "cuda"
        else torch.device(told["device"])
    )


class Others:
    """The other processes of a run, seen from the first. Those of torchrun's are started and ended by it."""

    def __init__(self, store: "Store", place: Place):
        self.store, self.place = store, place

    @classmethod
    def of_torchrun(cls, place: Place) -> "Others":
        """Those that wait in `follow_torchrun`."""
        store = torchrun_store()
        return cls(PrefixStore(f"run {store.add('runs', 1) - 1}", store), place)

    def failure(self) -> RankFailed | None:
        """What has gone wrong with one of them, if anything has."""
        return (
            RankFailed(**json.loads(self.store.get("error")))
            if self.store.check(["error"])
            else None
        )

    def check(self) -> None:
        """Raise RankFailed if something has gone wrong with one of them."""
        if (failure := self.failure()) is not None:
            raise failure

    def explain(self, error: Exception) -> RankFailed | None:
        """The failure of another process that `error`, raised here, comes from; None if it is this one's own."""
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
        """This process has left the run before its end."""

    def end(self) -> None:
        """The run is over for this process, and so for all."""
        self.store.set("end", "")


class Children(Others):
    """Processes that this one starts, one for each further rank."""

    def __init__(self, size: int, work: Work, *, advice: str):
        # the store would listen on every interface
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
        self.advice, self.over, self.lock = advice, threading.Event(), threading.Lock()
        stay_on_this_machine()
        # a fresh interpreter each: a fork of a process that has run OpenMP hangs in its first
        # operation, and CUDA forbids it
        context = multiprocessing.get_context("spawn")
        self.processes: list[BaseProcess] = []
        # started later, it would let the signals in again
        resource_tracker.ensure_running()
        try:
            with signals.kept_back():
                for rank in range(1, size):
                    process = context.Process(
                        target=be_child, args=(Place(rank, size, rank, size), port, work)
                    )
                    process.start()
                    self.processes.append(process)
        # the system has no room for more
        except OSError:
            self.leave()
            raise
        threading.Thread(target=self.watch, daemon=True).start()

    def failure(self) -> RankFailed | None:
        return super().failure() or self.death()

    def death(self) -> RankFailed | None:
        """How one of them has died, if one has."""
        for rank, process in enumerate(self.processes, 1):
            # to ask for an exit code is to wait for the process, which only one thread can
            with self.lock:
                code = process.exitcode
            if code:
                how = (
                    f"was ended by {signal.Signals(-code).name}"
                    if code < 0
                    else f"ended with exit code {code}"
                )
                return RankFailed(f"rank {rank} (pid {process.pid}) {how}")
        return None

    def watch(self) -> None:
        """End this process if another is gone and it does not notice: it may wait for what never comes."""
        waiting = {process.sentinel: process for process in self.processes}
        while waiting:
            for sentinel in connection.wait(list(waiting)):
                process = waiting.pop(sentinel)  # pyright: ignore[reportArgumentType]
                with self.lock:
                    # it has let go of its end of a pipe, and is about to leave
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
    """Have gloo use the loopback interface, unless the environment names another: it would go by the host's name."""
    if hasattr(socket, "if_nameindex"):
        loopback = [name for _, name in socket.if_nameindex() if name.rstrip("0123456789") == "lo"]
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])


# -------------------------------------------------------------------------------------------------
# seen from the others


def be_child(place: Place, port: int, work: Work) -> None:
    """What a child does: its part in one run."""
    # whoever stops a run means the first process, which decides for all
    signals.ignore()
    threading.Thread(target=end_with_parent, daemon=True).start()
    store = TCPStore(HOST, port, is_master=False, wait_for_workers=False, timeout=STORE_LIMIT)
    if (giving_up := follow(PrefixStore("run", store), place, work)) is not None:
        giving_up.join()
    os._exit(0)


def end_with_parent() -> None:
    """End this process when its parent has, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def follow(store: "Store", place: Place, work: Work) -> threading.Timer | None:
    """This process's part in the run that `store` tells of; None if all went well.

    What goes wrong is left in the store, for the first process to tell. Should it not notice, the
    timer that is returned ends this one.
    """

    def check() -> None:
        if store.check(["end"]):
            raise RankFailed("the first process has ended")

    giving_up = None
    told = json.loads(store.get("told"))
    # what torch remarks, it remarks in the first process too
    logging.disable()
    # the connections are closed last: when they are, the first process looks into the store
    with ExitStack() as stack:
        try:
            team = stack.enter_context(
                connected(store, place, device=device_of(told, place), check=check)
            )
            work(team, told)
            team.meet()
        except Exception as error:
            ours = isinstance(error, SkiplabError)
            line = (
                str(error)
                if ours
                else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            )
            code, trace = (error.exit_code, "") if ours else (1, traceback.format_exc())
            said = {"message": f"rank {place.rank}: {line}", "exit_code": code, "trace": trace}
            # of a store that is gone with its process
            with suppress(RuntimeError):
                store.compare_set("error", "", json.dumps(said))
            giving_up = threading.Timer(2 * PATIENCE, give_up, kwargs=said)
            giving_up.daemon = True
            giving_up.start()
    return giving_up


def give_up(message: str, exit_code: int, trace: str) -> None:
    """End this process, which has failed, though the first has not noticed: an operation of the device's waits for what never comes."""
    with suppress(OSError):
        os.write(2, f"{trace}error: {message}\n".encode())
    os._exit(exit_code)


def follow_torchrun(place: Place, work: Work) -> None:
    """What each process of torchrun's but the first does: its part in every run of the first, until that has ended."""
    # between runs there is nothing to say
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # of a store that is gone with its process
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
    """Let the other processes of torchrun's go: no more runs will come."""
    with suppress(RuntimeError):
        torchrun_store().set("over", "")


@functools.cache
def torchrun_store() -> "Store":
    """Where the processes that torchrun started meet."""
    if (place := torchrun.place()) is not None and place.local_size == place.size:
        stay_on_this_machine()
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://")))
    return PrefixStore("skiplab", store)
