"""`skiplab info`: versions, devices, threads, data root."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from skiplab.cli.answer import Answer
from skiplab.errors import UsageError


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab info`: none."""


def command(_options: argparse.Namespace) -> Answer:
    """Return one line per fact: its name in ten columns, and its value."""
    found = facts()
    return Answer(found, "\n".join(f"{name:<10} {value}" for name, value in lines(found)))


def facts() -> dict[str, Any]:
    """Return what a run on this machine would depend on, as docs/json.md states it.

    Imports torch.
    """
    import torch

    from skiplab import locations
    from skiplab.machine import cpu, devices, threads
    from skiplab.paths import conf_folder, own_folder

    number, where = threads.limit()
    found: dict[str, Any] = dict(devices.versions())
    found["cuda"] = torch.version.cuda
    found["cpu"] = {"name": devices.cpu_name(), "cores": cpu.num_cores()}
    found["threads"] = {"most": number, "because": where}
    found["bfloat16"] = cpu.has_bf16()
    found["gpus"] = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        gpu = {"device": f"cuda:{i}", "name": properties.name, "memory": properties.total_memory}
        found["gpus"].append(gpu)
    found["cuda_available"] = torch.cuda.is_available()
    found["mps"] = torch.backends.mps.is_available()
    for name, folder in (("data_root", locations.default_root), ("outputs", locations.outputs)):
        try:
            found |= {name: str(folder()), f"{name}_problem": None}
        except UsageError as error:
            found |= {name: None, f"{name}_problem": str(error)}
    found["conf"] = str(conf_folder())
    own = own_folder()
    found["own_conf"] = None if own is None else str(own)
    return found


def lines(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the name and value of each fact, in words."""
    from skiplab.machine import threads
    from skiplab.words import counted

    for name in ("skiplab", "python", "torch", "cuda", "system"):
        yield name, found[name]
    cores = counted(found["cpu"]["cores"], "core")
    yield "cpu", f"{found['cpu']['name']}, {cores} for this process"
    yield "threads", threads.in_words()
    if found["bfloat16"]:
        yield "bfloat16", "in hardware: trainer.amp=bf16 is faster here"
    else:
        yield "bfloat16", "not in hardware: trainer.amp=bf16 is slower on the CPU"
    for gpu in found["gpus"]:
        yield gpu["device"], f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB"
    if not found["cuda_available"]:
        yield "cuda", "none"
    yield "mps", "yes" if found["mps"] else "none"
    for name in ("data_root", "outputs"):
        folder, problem = found[name], found[f"{name}_problem"]
        yield name.replace("_", " "), folder or f"none: {problem}"
    yield "conf", found["conf"]
    if found["own_conf"] is not None:
        yield "own conf", found["own_conf"]
