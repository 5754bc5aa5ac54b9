"""Finished run folders made by hand, for tests of what is said of them."""

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers import compose
from skiplab.config.stored import dump, identity
from skiplab.runs import folders
from skiplab.study.compare import comparison, results

IMAGES = 400
# Tests ask for the same configs again and again.
composed = functools.cache(compose)
Make = Callable[..., Path]


def answers(share: float, *, seed: int, flips: int = 0) -> NDArray[np.bool_]:
    """Which of the images a network gets right: the first `share`, but for some drawn ones."""
    right = np.arange(IMAGES) < share * IMAGES
    drawn = np.random.default_rng(seed).choice(IMAGES, flips, replace=False)
    right[drawn] ^= True
    return right


def maker(tmp_path: Path) -> Make:
    """A function that writes a finished run folder below a folder."""
    numbers = itertools.count()

    def run(
        *texts: str,
        right: NDArray[np.bool_] | None = None,
        seed: int = 0,
        folder: str | None = None,
        **changed: Any,
    ) -> Path:
        config = replace(composed(*texts), seed=seed)
        path = tmp_path / "study" / (folder or f"run-{next(numbers)}")
        path.mkdir(parents=True)
        right = answers(0.9, seed=seed, flips=10) if right is None else right
        (path / folders.CONFIG).write_text(dump(config))
        result = {
            "identity": identity(config),
            "data_sha256": "0" * 64,
            "test": {
                "accuracy": float(right.mean()),
                "loss": 0.3,
                "f1_macro": 0.5,
                "expected_calibration_error": 0.01,
            },
            "best_val_accuracy": float(right.mean()) - 0.01,
            "best_val_loss": 0.4,
            "train_seconds": 10.0 + config.depth,
            "summary": {"parameters": 1000 * config.depth, "macs": 10**6 * config.depth},
        }
        (path / folders.RESULT).write_text(json.dumps(result | changed))
        labels = np.arange(IMAGES) % 10
        np.savez(
            path / "predictions.npz",
            test_labels=labels,
            test_predictions=np.where(right, labels, (labels + 1) % 10),
        )
        rows = [
            {
                "step": 5 * e,
                "epoch": float(e),
                "train_loss": 1 / e,
                "train_accuracy": 0.5,
                "val_loss": 1.0,
                "val_accuracy": 0.1 * e,
            }
            for e in (1, 2, 3)
        ]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return run


def found(
    *folders_: Path, metric: str = "test.accuracy", by: Sequence[str] | None = None
) -> comparison.Comparison:
    keys = None if by is None else results.keys_of(",".join(by))
    return comparison.compare(
        results.read(list(folders_) or [Path("study")]), by=keys, metric=metric
    )
