"""The processes that the cells of a study run in: forked from one that has imported all they need and never ran an operation."""

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
from typing import Any

import yaml

from skiplab.config.schema import Config
from skiplab.exits import guard
from skiplab.launch import launch
from skiplab.machine import streams
from skiplab.machine.signals import StopSignal, kept_back, let_through
from skiplab.runs import checkpoint

PRELOADED = ["skiplab.study.preload"]
# bytes, which leaves room for multiprocessing's own folder and file
LONGEST_TMPDIR = 70
SHORT_TMPDIRS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")


def context(preloaded: Sequence[str]) -> Any:
    """Where processes come from: a server that has imported these modules and forks, or (Windows) a fresh start each."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    shorten_temporary_folder()
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(preloaded))
    return server


def shorten_temporary_folder() -> None:
    """Have multiprocessing put its sockets where their paths fit, if $TMPDIR is too long: the system takes 107 bytes at most."""
    usual = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TMPDIR:
        return
    for folder in SHORT_TMPDIRS:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            try:
                tempfile.tempdir = folder
                # made at the first call, kept for the next ones
                multiprocessing.util.get_temp_dir()
            finally:
                tempfile.tempdir = usual
            return


def start(
    config: Config, *, log: Path, environment: Mapping[str, str], texts: Sequence[str] = ()
) -> BaseProcess:
    """The run of a config with `out`, in a process of its own; its words go to the end of `log`, `texts` into its .hydra/."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context(PRELOADED).Process(
        target=run_in, args=(config, str(log), dict(environment), list(texts))
    )
    # from the server for good: a signal to the whole group is for the sweep, which passes it on
    with kept_back():
        process.start()
    return process


def run_in(config: Config, log: str, environment: Mapping[str, str], texts: Sequence[str]) -> None:
    """What the process does: `train` with a config that is checked already. Exits with its code."""
    os.environ.update(environment)
    if hasattr(signal, "SIGUSR1"):
        # a wish for a save, before there is anything to save
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        # a terminal's Ctrl-C is for the sweep, which passes it on once
        os.setsid()
    let_through()
    streams.to_log(log)
    # a crash in native code leaves a traceback too
    faulthandler.enable()
    threading.Thread(target=stop_with_parent, daemon=True).start()

    def run() -> int:
        with StopSignal() as stop_signal:
            return launch(config, stop_signal, record=lambda folder: record(folder, texts))

    code = guard(run)
    sys.stdout.flush()
    sys.exit(code)


def record(folder: Path, texts: Sequence[str]) -> None:
    """The overrides that the cell was started with, as Hydra records them; never read back."""
    (folder / ".hydra").mkdir(exist_ok=True)
    checkpoint.write_atomically(
        folder / ".hydra/overrides.yaml", yaml.safe_dump(list(texts)).encode()
    )


def stop_with_parent() -> None:
    """Save and stop when the sweep is gone, however it went: nobody would start what comes next, or know of this run."""
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(parent, "sentinel"):
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
