"""Matplotlib as every picture is drawn: with its own defaults, without TeX, and quiet.

The user's files and environment change none of that.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

BACKEND = "MPLBACKEND"


@contextmanager
def plain() -> Iterator[None]:
    """Give Matplotlib its own defaults inside the `with`, then the caller's settings back.

    Also decorates functions that draw. A `matplotlibrc` is for the user's own pictures: text.usetex
    needs TeX, and a class may be named `a_$b$`.
    """
    with quiet():
        matplotlib = import_matplotlib()
        defaults = {
            name: value
            for name, value in matplotlib.rcParamsDefault.items()
            if not name.startswith("backend")
        }
        with matplotlib.rc_context(defaults | {"text.parse_math": False}):
            yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Matplotlib from logging inside the `with`, and from warning.

    Warnings that the caller has turned into errors are still raised.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            # A box is drawn for a character of a class name that the font lacks.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            warnings.simplefilter("ignore", append=True)
            yield
    finally:
        log.setLevel(level)


def import_matplotlib() -> ModuleType:
    """Import matplotlib, whatever the user's settings.

    The import reads the user's settings, and raises if it cannot. Then it is repeated where it
    finds the settings that matplotlib comes with.
    """
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    # The import raises for a backend that this environment does not have.
    backend = os.environ.pop(BACKEND, None)
    try:
        try:
            import matplotlib
        # Some matplotlibrc cannot be read. The first place that is searched is the current folder.
        except Exception:
            spec = find_spec("matplotlib")
            if spec is None or spec.origin is None:
                raise
            for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
                # These modules belong to the import that failed.
                del sys.modules[name]
            with chdir(Path(spec.origin).parent / "mpl-data"):
                import matplotlib
    finally:
        if backend is not None:
            os.environ[BACKEND] = backend
    # The caller may draw later, with this backend.
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    return matplotlib
