"""`train` as it is, which also notes when its first and its last optimizer step were done.   first_step.py FILE [ARGUMENT ...]

Run by scripts/bench start. Nothing is imported that `train` would not import, and nothing earlier:
the loop's module is watched for, and its `Step.update` wrapped when it comes. FILE gets JSON, a
moment for each name: wall (of the monotonic clock) and CPU seconds.
"""

import importlib.machinery
import json
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

WATCHED = "skiplab.training.step"
MOMENTS: dict[str, tuple[float, float]] = {}


class Watcher:
    """Finds the module as usual, and has what it defines wrapped."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> Any:
        if name != WATCHED:
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            watch(module.Step)

        spec.loader.exec_module = exec_module
        return spec


def watch(step_class: Any) -> None:
    """Note the moment after each step."""
    update = step_class.update

    def noting(self: Any, *arguments: Any, **options: Any) -> Any:
        result = update(self, *arguments, **options)
        if "first" not in MOMENTS and self.device.type == "cuda":
            sys.modules["torch"].cuda.synchronize()
        now = time.monotonic(), time.process_time()
        MOMENTS.setdefault("first", now)
        MOMENTS["last"] = now
        return result

    step_class.update = noting


def main() -> None:
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
