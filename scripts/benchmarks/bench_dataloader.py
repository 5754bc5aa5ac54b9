"""`scripts/bench dataloader`: ours against a torchvision-style loop with a DataLoader.

Both crop and mirror. The DataLoader has two workers.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import bench_setup
from bench_setup import MODELS, Setting, repeated, seconds_of
from bench_table import Table

CASES = ("resnet20", "resnet18", "deepcnn")


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """Yield one table."""
    title = (
        "everything on, against PIL images, torchvision transforms, "
        "a DataLoader with two workers, .item() every step"
    )
    table = Table("dataloader", title, ("ours", "DataLoader"))
    for name in [case for case in CASES if case in models]:
        functions = {"ours": "bench_dataloader:ours", "plain": "bench_dataloader:plain"}
        found = bench_setup.in_turns(functions, setting, model=name)
        table.add(
            MODELS[name].title,
            "img/s, training pass",
            *([result["rate"] for result in found[side]] for side in functions),
        )
        table.add_peaks(MODELS[name].title, found["ours"], found["plain"])
        table.note(
            f"{MODELS[name].title}: {' '.join(overrides(name))}; {found['ours'][0]['source']}"
        )
    table.note(
        "both crop with a border of 4 and mirror, with the same optimizer; "
        "each measurement a process of its own",
        "the two workers come on top of the threads; ours has none",
        "peak memory of the DataLoader: of the main process, "
        "and what the workers do not share with it at the end",
    )
    yield table


def overrides(model: str) -> list[str]:
    """Return the arguments of `train`, with crop and mirror for Deep_CNN too."""
    return [*MODELS[model].overrides, *(["augment=standard"] if model == "deepcnn" else [])]


def ours(setting: Setting, *, model: str) -> dict[str, Any]:
    """Measure img/s of the loop as `fit` runs it."""
    config = bench_setup.config_of(setting, *overrides(model), "epochs=1000")
    device = bench_setup.set_up(setting, config)
    split, source = bench_setup.images_of(setting, config)
    steps = -(-setting.pace(model).images // config.batch_size)
    with (
        bench_setup.trainer_of(config, split, device) as trainer,
        bench_setup.fitting(trainer) as advance,
    ):
        repeated(advance, setting.warmup(model))
        seconds, _ = seconds_of(lambda: repeated(advance, steps), device)
    return {"rate": steps * config.batch_size / seconds, "source": source}


def plain(setting: Setting, *, model: str) -> dict[str, Any]:
    """Measure img/s of the torchvision-style loop."""
    import torch

    import plain_loops
    from skiplab.machine import devices

    # One thread until the workers are forked: see plain_loops.with_workers.
    torch.set_num_threads(1)
    config = bench_setup.config_of(setting, *overrides(model))
    warmup = setting.warmup(model)
    steps = -(-setting.pace(model).images // config.batch_size)
    split, _ = bench_setup.images_of(setting, config, (steps + warmup) * config.batch_size)
    steps = len(split) // config.batch_size - warmup
    options = {
        name: value
        for name, value in asdict(config.optimizer).items()
        if name not in ("decay_norm_and_bias", "norm_scale")
    }
    recipe = plain_loops.Recipe(
        mean=list(config.dataset.mean),
        std=list(config.dataset.std),
        batch_size=config.batch_size,
        optimizer=options.pop("name"),
        options=options,
    )
    seconds, workers = plain_loops.with_workers(
        model,
        (split.images.numpy(), split.labels.numpy()),
        recipe,
        warmup=warmup,
        threads=setting.threads,
        device=devices.pick_device(setting.device),
    )
    peak = bench_setup.peaks()["peak_mib"] or 0.0
    return {"rate": steps * config.batch_size / seconds, "peak_mib": peak + workers}
