"""A process that does optimizer steps on request, so that several can be timed in short turns.

bench_steps.py SETTING CASE reads numbers of steps from stdin, a line each, and answers each with
the seconds that they took.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import bench_setup
from bench_setup import MODELS, MeasurementError, Setting

# Steps before the first answer.
WARMUP = 3


@contextmanager
def process(
    setting: Setting, case: str, *, threads: int, environment: dict[str, str]
) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that does steps of `case`, a name of MODELS, on `threads` threads."""
    told = json.dumps(asdict(replace(setting, threads=threads)))
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    command = [sys.executable, __file__, told, case]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables | environment,
    ) as started:
        try:
            seconds(started, WARMUP)
            yield started
        finally:
            started.kill()


def seconds(started: "subprocess.Popen[str]", steps: int) -> float:
    """Measure the seconds of `steps` steps. Raises MeasurementError if the process has ended."""
    assert started.stdin is not None
    assert started.stdout is not None
    try:
        started.stdin.write(f"{steps}\n")
        started.stdin.flush()
        return float(started.stdout.readline())
    except (OSError, ValueError):
        raise MeasurementError(
            "contention: a process that does steps has ended", exit_code=1
        ) from None


def main(told: str, case: str) -> None:
    """Build the trainer of a case, then do the steps that stdin asks for."""
    setting = Setting(**json.loads(told))
    config = bench_setup.config_of(setting, *MODELS[case].overrides)
    device = bench_setup.set_up(setting, config)
    split, _ = bench_setup.images_of(setting, config, 12 * config.batch_size)
    with bench_setup.trainer_of(config, split, device) as trainer:
        trainer.step.model.train()
        step = 0
        for line in sys.stdin:
            began = time.perf_counter()
            for _ in range(int(line)):
                trainer.step.update(step % trainer.step.batches.steps_per_epoch)
                trainer.step.losses.clear()
                step += 1
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
