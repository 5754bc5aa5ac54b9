"""Packages that are called like the function of the same name: `skiplab.runs()`, `skiplab.study()`.

Python binds an imported package's name in its parent, where it would hide the function.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module that passes a call on to the function of its name in `skiplab.api`."""

    def __call__(self, *arguments: object, **options: object) -> Any:  # noqa: ANN401 - any function's
        """Call the function."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module("skiplab.api"), name)(*arguments, **options)


def make_callable(name: str) -> None:
    """Make an imported module callable."""
    sys.modules[name].__class__ = CallableModule
