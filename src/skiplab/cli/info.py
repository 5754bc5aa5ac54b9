"""`skiplab info`: versions, devices, threads, data root."""

import argparse
from collections.abc import Iterator


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab info`: none."""


def command(_options: argparse.Namespace) -> None:
    """Print one line per fact: its name in ten columns, and its value."""
    for name, value in facts():
        print(f"{name:<10} {value}")


def facts() -> Iterator[tuple[str, object]]:
    """Yield the name and value of what a run on this machine would depend on. Imports torch."""
    import torch

    from skiplab.locations import root_in_words
    from skiplab.machine import cpu, devices, threads
    from skiplab.paths import conf_folder, own_folder
    from skiplab.words import counted

    yield from devices.versions().items()
    yield "cpu", f"{devices.cpu_name()}, {counted(cpu.num_cores(), 'core')} for this process"
    yield "threads", threads.in_words()
    if cpu.has_bf16():
        yield "bfloat16", "in hardware: trainer.amp=bf16 is faster here"
    else:
        yield "bfloat16", "not in hardware: trainer.amp=bf16 is slower on the CPU"
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield "cuda", "none"
    yield "mps", "yes" if torch.backends.mps.is_available() else "none"
    yield "data root", root_in_words()
    yield "conf", conf_folder()
    if (own := own_folder()) is not None:
        yield "own conf", own
