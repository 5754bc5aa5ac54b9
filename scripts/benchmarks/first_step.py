"""Run `train`, and note when its first and its last optimizer step were done.

first_step.py FILE [ARGUMENT ...]

`scripts/bench start` runs it. It imports nothing that `train` would not import, and nothing
earlier: it waits for the module of `Step`, and wraps `Step.update` when that is imported. FILE gets
JSON, a moment for each name: wall seconds of the monotonic clock, and CPU seconds.
"""

import importlib.machinery
import json
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiplab.training.step import Step

WATCHED = "skiplab.training.step"
MOMENTS: dict[str, tuple[float, float]] = {}


class Watcher:
    """Finds the module as usual, and wraps what it defines."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            watch(module.Step)

        loader.exec_module = exec_module
        return spec


def watch(step_class: "type[Step]") -> None:
    """Note the moment after each step."""
    update: Callable[..., object] = step_class.update

    def noting(self: "Step", step: int, **options: float) -> object:
        result = update(self, step, **options)
        if "first" not in MOMENTS and self.device.type == "cuda":
            sys.modules["torch"].cuda.synchronize()
        now = time.monotonic(), time.process_time()
        MOMENTS.setdefault("first", now)
        MOMENTS["last"] = now
        return result

    step_class.update = noting  # pyright: ignore[reportAttributeAccessIssue]


def main() -> None:
    """Run `train`, then write the moments."""
    sys.meta_path.insert(0, Watcher())  # pyright: ignore[reportArgumentType]
    file = sys.argv[1]
    sys.argv = ["train", *sys.argv[2:]]
    from skiplab.cli.main import train

    try:
        train()
    finally:
        with open(file, "w") as report:
            json.dump(MOMENTS, report)


if __name__ == "__main__":
    main()
