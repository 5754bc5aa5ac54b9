#!/usr/bin/env python3
"""Skiplab's trainer against plain renderings of the two documents' loops: img/s, ratios and peak memory, interleaved.

    scripts/bench_step.py [--repeats 5] [--threads N] [--root ROOT]

Each measurement is a process of its own (allocator settings and peak memory belong to a process); ours and plain take turns,
so that a machine whose speed drifts favours neither. Uses the real CIFAR-10 and MNIST under ROOT (default: the usual data
root), else random images of the same shapes, and says which. A ratio is the median of the pairs' ratios.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

# name -> overrides, training images, validation images, batch size, warm-up steps
CASES: dict[str, tuple[list[str], int, int, int, int]] = {
    "deepcnn": (["experiment=deepcnn_cifar10", "block=residual"], 9216, 1024, 256, 3),
    "resnet": (["experiment=resnet_mnist"], 4096, 0, 2048, 1),
    "resnet256": (["experiment=resnet_mnist", "batch_size=256"], 2048, 0, 256, 1),
}
TITLES = {
    "deepcnn": "document 1's Deep_CNN, residual, batch 256",
    "resnet": "document 2's ResNet, batch 2048",
    "resnet256": "document 2's ResNet, batch 256",
}


def pictures(case: str, root: Path) -> tuple[Any, Any, str]:
    """(images, labels) for training and validation, and where they come from."""
    import numpy as np

    from skiplab import formats

    _, num_training, num_validation, _, _ = CASES[case]
    count = num_training + num_validation
    folder = root / ("cifar-10-batches-bin" if case == "deepcnn" else "MNIST/raw")
    if folder.is_dir():
        arrays = (formats.cifar10 if case == "deepcnn" else formats.mnist)(root, "train")
        images, labels, source = arrays.images[:count], arrays.labels[:count].astype(np.int64), f"real images under {root}"
    else:
        shape = (count, 32, 32, 3) if case == "deepcnn" else (count, 28, 28, 1)
        generator = np.random.default_rng(0)
        images, labels, source = generator.integers(0, 256, shape, np.uint8), generator.integers(0, 10, count), "random images"
    return (images[:num_training], labels[:num_training]), (images[num_training:], labels[num_training:]), source


def ours(case: str, training: Any, validation: Any, *, threads: int) -> dict[str, float]:
    """Seconds of a training pass and of a whole epoch of our trainer with everything on: metrics, evaluation, checkpoints."""
    import torch
    from hydra import compose, initialize_config_dir

    from skiplab import config, data, hardware, overrides, parts
    from skiplab.log import Log
    from skiplab.paths import conf_folder

    texts, _, _, _, warmup = CASES[case]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        checked = config.check(overrides.plain(compose("config", [*texts, "epochs=1"])))
    hardware.set_up(threads=threads, deterministic=False, keep_allocator=True)
    device = torch.device("cpu")
    splits = [data.Split(torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in (training, validation)]

    def trainer_in(folder: Path, log: Log) -> Any:
        held = splits[1] if len(splits[1]) else None
        return parts.make_trainer(checked, parts.network(checked, device), splits[0], held, device, folder, log, lambda: 0, accumulate=1)

    seconds = {}
    with tempfile.TemporaryDirectory() as name, closing(Log(Path(name), console=False)) as log:
        trainer = trainer_in(Path(name), log)
        for step in range(warmup):
            trainer.train_step(step)
            trainer.progress.step += 1
        trainer.report_losses()
        began = time.perf_counter()
        for step in range(trainer.batches.steps_per_epoch):
            trainer.train_step(step)
            trainer.progress.step += 1
            if trainer.progress.step % trainer.settings.log_every == 0:
                trainer.report_losses()
        trainer.report_losses()
        seconds["train"] = time.perf_counter() - began
        trainer = trainer_in(Path(name), log)
        began = time.perf_counter()
        trainer.fit()
        seconds["epoch"] = time.perf_counter() - began
    return seconds


def measure_here(case: str, contender: str, root: Path, threads: int) -> None:
    """One measurement, as JSON on stdout."""
    import torch

    training, validation, source = pictures(case, root)
    _, num_training, _, batch_size, warmup = CASES[case]
    if contender == "ours":
        seconds = ours(case, training, validation, threads=threads)
    else:
        import plain_loops

        torch.set_num_threads(threads)
        seconds = plain_loops.measure(case, training, validation, batch_size=batch_size, warmup=warmup)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = {name: num_training / s for name, s in seconds.items()}
    print(json.dumps(rates | {"peak_mib": peak, "source": source, "torch": str(torch.__version__)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    parser.add_argument("--root", type=Path)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "CONTENDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    from skiplab import files, hardware

    root = options.root or files.default_root()
    if options.measure:
        measure_here(options.measure[0], options.measure[1], root, options.threads)
        return
    print(f"{hardware.cpu_name()}, {options.threads} threads, {options.repeats} interleaved pairs; median (min to max)")
    for case in options.cases:
        rows: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
        for _ in range(options.repeats):
            for contender, measured in rows.items():
                command = [sys.executable, __file__, "--measure", case, contender, "--threads", str(options.threads), "--root", str(root)]
                environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                measured.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"\n{TITLES[case]} (torch {rows['ours'][0]['torch']}, {rows['ours'][0]['source']})")
        for name, unit in (("train", "img/s, training pass"), ("epoch", "img/s, whole epoch"), ("peak_mib", "MiB, peak memory")):
            a, b = ([row[name] for row in rows[contender]] for contender in ("ours", "plain"))
            ratio = [x / y for x, y in zip(a, b, strict=True)]
            print(f"  {unit:<22} ours {shown(a, 0)}   plain {shown(b, 0)}   ratio {shown(ratio, 2)}", flush=True)


def shown(values: list[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


if __name__ == "__main__":
    main()
