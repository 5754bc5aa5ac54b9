"""Skiplab: train residual and skip-connection networks on small images.

    import skiplab

    run = skiplab.train("model=resnet", "dataset=mnist", epochs=1)
    run.predict("digit.png").names

`load`, `train`, `study`, `compare` and `runs` are the Python interface; docs/python.md tells it.
They are loaded when they are first used, so that `import skiplab` takes no time. `__init__.pyi`
states their types.
"""

import importlib

__version__ = "0.2.0"
API = ["Comparison", "Predictions", "Rows", "Run", "compare", "load", "runs", "study", "train"]


def __getattr__(name: str) -> object:
    """Load the Python interface when one of its names is first used."""
    if name not in API:
        raise AttributeError(f"module 'skiplab' has no attribute {name!r}")
    return getattr(importlib.import_module("skiplab.api"), name)


def __dir__() -> list[str]:
    """Return the names that a user completes, before they are loaded."""
    return sorted({*globals(), *API})
