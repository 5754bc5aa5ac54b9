"""`scripts/bench roofline`: a training step against this machine's matrix product and copy.

Also where its time goes.
"""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import bench_setup
from bench_setup import FAST_ON_CUDA, MODELS, Setting, repeated, seconds_of
from bench_table import Table

if TYPE_CHECKING:
    import torch

    from skiplab.training.trainer import Trainer

# Sizes of the square matrices.
SIZES = {"cpu": (1024, 2048), "cuda": (1024, 2048, 8192)}
# Bytes of the tensor that is copied.
COPIED = 256 * 2**20
ATTEMPTS, PROFILED_STEPS = 5, 3
# The kind of an operator, by what is in its name.
KINDS = {"convolution": "convolution", "batch_norm": "batch norm", "batchnorm": "batch norm"}
OTHERS = "all others"


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """Yield tables of FLOP/s, bytes/s and the shares of the operators."""
    found = {
        MODELS[name].title: bench_setup.in_process("bench_roofline:roofline", setting, model=name)
        for name in models
    }
    precision = "bf16" if setting.is_cuda else "float32"
    work = Table(
        "roofline",
        f"GFLOP/s of a training step against the best matrix product ({precision})",
        ("step", "product"),
    )
    bytes_moved = Table(
        "roofline", "GB/s that a step must move at least, against a copy", ("step", "copy")
    )
    shares = Table(
        "roofline",
        f"operators of {PROFILED_STEPS} training steps, from torch.profiler",
        ("ms", "ms, all"),
    )
    for title, result in found.items():
        work.add(title, "GFLOP/s", result["flops"], result["product"], ratio_digits=2, percent=True)
        bytes_moved.add(
            title, "GB/s", result["bytes"], result["copied"], digits=1, ratio_digits=2, percent=True
        )
        whole = [sum(each) for each in zip(*result["operators"].values(), strict=True)]
        for kind, milliseconds in result["operators"].items():
            shares.add(title, kind, milliseconds, whole, digits=1, ratio_digits=2, percent=True)
        peaks = f"{result['peak_mib']:,.0f} MiB"
        if result["cuda_peak_mib"]:
            peaks += f", {result['cuda_peak_mib']:,.0f} MiB on the GPU"
        products = ", ".join(f"{size}: {rate:,.0f}" for size, rate in result["products"].items())
        work.note(
            f"{title}: {result['source']}; best product by size, GFLOP/s: {products}; "
            f"peak memory {peaks}"
        )
    work.note(
        "FLOPs of a step: 3 x those of the forward pass (convolutions and linear layers), "
        "for the forward and the two backward products",
        f"the product: the best of the sizes and of {ATTEMPTS} attempts in each turn",
    )
    bytes_moved.note(
        "bytes of a step: what autograd keeps, the weights, gradients and a moment, "
        "each written once and read once: a floor",
        f"the copy: {COPIED // 2**20} MiB, read and written, "
        f"the best of {ATTEMPTS} attempts in each turn",
    )
    shares.note(
        "own time of the operators on the "
        + ("GPU, without torch.compile" if setting.is_cuda else "CPU")
    )
    yield from (work, bytes_moved, shares)


def roofline(setting: Setting, *, model: str) -> dict[str, Any]:
    """Measure steps, products and copies in turns in one process, then the profile."""
    from skiplab import build
    from skiplab.machine import memory

    options = FAST_ON_CUDA if setting.is_cuda else ()
    config = bench_setup.config_of(setting, *MODELS[model].overrides, "epochs=1000", *options)
    device = bench_setup.set_up(setting, config)
    split, source = bench_setup.images_of(setting, config)
    found: dict[str, Any] = {
        "flops": [],
        "product": [],
        "bytes": [],
        "copied": [],
        "products": {},
        "source": source,
    }
    with (
        bench_setup.trainer_of(config, split, device) as trainer,
        bench_setup.fitting(trainer) as advance,
    ):
        summary = build.summary_of(config, trainer.step.model)  # pyright: ignore[reportArgumentType]
        kept = memory.needed(
            trainer.step.model,
            lambda n: batch(trainer, n),
            num_images=config.batch_size,
            autocast=trainer.step.autocast,
        )
        repeated(advance, setting.warmup(model))
        # The large tensors below must not count in the peaks.
        found |= bench_setup.peaks()
        steps = max(2, setting.pace(model).block)
        for _ in range(setting.repeats):
            step = seconds_of(lambda: repeated(advance, steps), device)[0] / steps
            products = {size: product(size, device) for size in SIZES[device.type]}
            found["products"] = {
                size: max(rate, found["products"].get(size, 0)) for size, rate in products.items()
            }
            found["flops"].append(3 * summary.flops * config.batch_size / step / 1e9)
            found["product"].append(max(products.values()))
            found["bytes"].append(2 * kept / step / 1e9)
            found["copied"].append(copied(device))
    # The profiler names no operators in compiled code.
    if setting.is_cuda:
        config = bench_setup.config_of(setting, *MODELS[model].overrides, "trainer.amp=bf16")
    with bench_setup.trainer_of(config, split, device) as trainer:
        found["operators"] = operators(
            trainer, warmup=setting.warmup(model), repeats=setting.repeats
        )
    return found


def batch(trainer: "Trainer", count: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the first images and labels of a batch."""
    images, labels = trainer.step.batches.at(0)
    return images[:count], labels[:count]


def product(size: int, device: "torch.device") -> float:
    """Measure GFLOP/s of a square matrix product: the best attempt."""
    import torch

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    seconds = min(seconds_of(lambda: torch.mm(a, b, out=out), device)[0] for _ in range(ATTEMPTS))
    return 2 * size**3 / seconds / 1e9


def copied(device: "torch.device") -> float:
    """Measure GB/s of a copy, bytes read and written: the best attempt."""
    import torch

    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    seconds = min(seconds_of(lambda: target.copy_(source), device)[0] for _ in range(ATTEMPTS))
    return 2 * COPIED / seconds / 1e9


def operators(trainer: "Trainer", *, warmup: int, repeats: int) -> dict[str, list[float]]:
    """Measure milliseconds of the operators' own time in some steps, a value per repeat.

    The kinds are convolutions, batch norms and all others.
    """
    from torch.profiler import ProfilerActivity, profile

    is_cuda = trainer.context.device.type == "cuda"
    activities = [ProfilerActivity.CPU]
    if is_cuda:
        activities.append(ProfilerActivity.CUDA)
    steps = itertools.count()

    def some(count: int) -> None:
        repeated(lambda: trainer.step.update(next(steps)), count)
        # This waits for the device.
        trainer.report_losses()

    trainer.step.model.train()
    some(warmup)
    spent: dict[str, list[float]] = {kind: [] for kind in (*dict.fromkeys(KINDS.values()), OTHERS)}
    for _ in range(repeats):
        with profile(activities=activities) as profiled:
            some(PROFILED_STEPS)
        for milliseconds in spent.values():
            milliseconds.append(0.0)
        for event in profiled.key_averages():
            kind = next((kind for text, kind in KINDS.items() if text in event.key.lower()), OTHERS)
            own = event.self_device_time_total if is_cuda else event.self_cpu_time_total
            spent[kind][-1] += own / 1e3
    return spent
