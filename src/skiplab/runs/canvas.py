"""Matplotlib as every picture is drawn with it: its own defaults, no TeX, quiet, whatever the user's files and environment say of it."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BACKEND = "MPLBACKEND"


@contextmanager
def plain() -> Iterator[None]:
    """While entered, Matplotlib is as it is shipped; the caller's settings are back afterwards. Also a decorator of what draws.

    A `matplotlibrc` is for the user's own pictures: text.usetex needs TeX, and a class may be named
    `a_$b$`.
    """
    with quiet():
        matplotlib = imported()
        defaults = {
            name: value
            for name, value in matplotlib.rcParamsDefault.items()
            if not name.startswith("backend")
        }
        with matplotlib.rc_context(defaults | {"text.parse_math": False}):
            yield


@contextmanager
def quiet() -> Iterator[None]:
    """While entered, Matplotlib logs nothing, and warns only where the caller has asked for warnings as errors."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            # of a class name: a box stands for it
            warnings.filterwarnings("ignore", "Glyph .* missing")
            warnings.simplefilter("ignore", append=True)
            yield
    finally:
        log.setLevel(level)


def imported() -> Any:
    """The package. Its import reads the user's settings, and raises where it cannot: then those that are shipped are read."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    # one that is for another environment raises
    backend = os.environ.pop(BACKEND, None)
    try:
        try:
            import matplotlib
        # a matplotlibrc that cannot be read; the first that is looked for is that of the current
        # folder
        except Exception:
            spec = find_spec("matplotlib")
            if spec is None or spec.origin is None:
                raise
            for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
                # of the package that did not come to be
                del sys.modules[name]
            with chdir(Path(spec.origin).parent / "mpl-data"):
                import matplotlib
    finally:
        if backend is not None:
            os.environ[BACKEND] = backend
    # the caller may draw too, after us
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    return matplotlib
