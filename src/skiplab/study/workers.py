"""Start the processes that the cells of a study run in.

They are forked from a server that has imported all they need and never ran an operation.
"""

import faulthandler
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from skiplab.config.schema import Config
from skiplab.exits import guard
from skiplab.launch import launch
from skiplab.machine import streams
from skiplab.machine.signals import StopSignal, kept_back, let_through
from skiplab.runs import atomic

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

PRELOADED = ["skiplab.study.preload"]
# A longer path, in bytes, leaves no room for multiprocessing's own folder and file.
LONGEST_TMPDIR = 70
SHORT_TMPDIRS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")


def context(preloaded: Sequence[str]) -> "ForkServerContext | SpawnContext":
    """Return the context of processes: a server that has imported these modules and forks.

    On Windows each process starts fresh.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    shorten_temporary_folder()
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(preloaded))
    return server


def shorten_temporary_folder() -> None:
    """Have multiprocessing put its sockets into a short folder, if $TMPDIR is too long.

    The system takes paths of 107 bytes at most.
    """
    usual = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TMPDIR:
        return
    for folder in SHORT_TMPDIRS:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            try:
                tempfile.tempdir = folder
                # The first call makes the folder; the next ones return the same.
                multiprocessing.util.get_temp_dir()
            finally:
                tempfile.tempdir = usual
            return


def start(
    config: Config, *, log: Path, environment: Mapping[str, str], texts: Sequence[str] = ()
) -> BaseProcess:
    """Start the run of a config with `out` in its own process.

    Its output is appended to `log`; `texts` are the overrides that go into its .hydra/.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = (config, str(log), dict(environment), list(texts))
    process = context(PRELOADED).Process(target=run_in, args=arguments)
    # The server keeps signals blocked for good: one to the whole group is for the sweep, which
    # passes it on.
    with kept_back():
        process.start()
    return process


def run_in(config: Config, log: str, environment: Mapping[str, str], texts: Sequence[str]) -> None:
    """Train with a config that is checked already, and exit with the run's code."""
    os.environ.update(environment)
    if hasattr(signal, "SIGUSR1"):
        # A save may be asked for before there is anything to save.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        # A terminal's Ctrl-C is for the sweep, which passes it on once.
        os.setsid()
    let_through()
    streams.to_log(log)
    # With it, a crash in native code leaves a traceback too.
    faulthandler.enable()
    threading.Thread(target=stop_with_parent, daemon=True).start()

    def run() -> int:
        with StopSignal() as stop_signal:
            return launch(
                config, stop_signal, record=lambda folder: record_overrides(folder, texts)
            )

    code = guard(run)
    sys.stdout.flush()
    sys.exit(code)


def record_overrides(folder: Path, texts: Sequence[str]) -> None:
    """Record the overrides that the cell was started with, as Hydra does. Nothing reads them."""
    (folder / ".hydra").mkdir(exist_ok=True)
    content = yaml.safe_dump(list(texts)).encode()
    atomic.write(folder / ".hydra/overrides.yaml", content)


def stop_with_parent() -> None:
    """Save and stop when the sweep has ended, for whatever reason.

    Nobody would start the next run, or know of this one.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(parent, "sentinel"):
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
