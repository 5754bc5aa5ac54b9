"""`scripts/bench documents`: ours against plain renderings of the loops of the two documents.

They are the lab *Residual and Skip Connections* and the notebook *Residual Blocks*.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import bench_setup
from bench_setup import MODELS, Setting, repeated
from bench_table import Table

if TYPE_CHECKING:
    from skiplab.config.schema import Config
    from skiplab.data.splits import Split
    from skiplab.training.trainer import Trainer


@dataclass(frozen=True)
class Case:
    """A document's loop at a batch size."""

    title: str
    model: str
    batch_size: int
    # Training images on a CPU and on CUDA, and images for validation.
    num_training: tuple[int, int]
    num_validation: int
    # Steps before a clock starts.
    warmup: int


LAB = Case("the lab's Deep_CNN, batch 256", "deepcnn", 256, (9216, 36_864), 1024, 3)
CASES = {
    "deepcnn": LAB,
    "deepcnn_bf16": replace(LAB, title="the same, ours with trainer.amp=bf16"),
    "resnet256": Case("the notebook's ResNet, batch 256", "resnet", 256, (2048, 51_200), 0, 1),
    "resnet2048": Case("the notebook's ResNet, batch 2048", "resnet", 2048, (4096, 53_248), 0, 1),
}


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """Yield one table."""
    from skiplab.machine import cpu

    table = Table(
        "documents",
        "everything on, against plain renderings of the lab's and the notebook's loops",
        ("ours", "plain"),
    )
    for case, each in CASES.items():
        title = each.title
        lacks_bf16 = not setting.is_cuda and not cpu.has_bf16()
        if each.model not in models or (case.endswith("_bf16") and lacks_bf16):
            continue
        functions = {"ours": "bench_documents:ours", "plain": "bench_documents:plain"}
        found = bench_setup.in_turns(functions, setting, case=case)
        for key, figure in (("train", "img/s, training pass"), ("epoch", "img/s, whole epoch")):
            table.add(
                title, figure, *([result[key] for result in found[name]] for name in functions)
            )
        table.add_peaks(title, found["ours"], found["plain"])
        table.note(f"{title}: {' '.join(overrides(case))}; {found['ours'][0]['source']}")
    table.note(
        "each measurement a process of its own; whole epoch: "
        "the lab evaluates its training set again, ours counts while it trains"
    )
    yield table


def overrides(case: str) -> list[str]:
    """Return the arguments of `train`."""
    model = MODELS[CASES[case].model]
    texts = [text for text in model.overrides if not text.startswith("batch_size=")]
    return [
        *texts,
        f"batch_size={CASES[case].batch_size}",
        "epochs=1",
        *(["trainer.amp=bf16"] if case.endswith("_bf16") else []),
    ]


def splits(setting: Setting, case: str, config: "Config") -> "tuple[Split, Split, str]":
    """Return training and validation images, and where they come from."""
    from skiplab.data.splits import Split

    num_training = CASES[case].num_training[setting.is_cuda]
    num_images = num_training + CASES[case].num_validation
    whole, source = bench_setup.images_of(setting, config, num_images)
    training = Split(whole.images[:num_training], whole.labels[:num_training])
    return training, Split(whole.images[num_training:], whole.labels[num_training:]), source


def ours(setting: Setting, *, case: str) -> dict[str, Any]:
    """Measure img/s of a training pass, and of a whole epoch with all that `train` does."""
    config = bench_setup.config_of(setting, *overrides(case))
    device = bench_setup.set_up(setting, config)
    training, validation, source = splits(setting, case, config)
    with bench_setup.trainer_of(config, training, device) as trainer:
        trainer.step.model.train()
        repeated(lambda: step_of(trainer), CASES[case].warmup)
        trainer.report_losses()
        began = time.perf_counter()
        repeated(lambda: step_of(trainer), trainer.step.batches.steps_per_epoch)
        trainer.report_losses()
        trained = time.perf_counter() - began
    with bench_setup.trainer_of(
        config, training, device, validation if len(validation) else None
    ) as trainer:
        began = time.perf_counter()
        trainer.fit()
        whole = time.perf_counter() - began
    return {"train": len(training) / trained, "epoch": len(training) / whole, "source": source}


def step_of(trainer: "Trainer") -> None:
    """Do a step and its share of the log, without an epoch's end."""
    trainer.step.update(trainer.progress.step)
    trainer.progress.step += 1
    trainer.context.log.advance()
    if trainer.progress.step % trainer.settings.log_every == 0:
        trainer.report_losses()


def plain(setting: Setting, *, case: str) -> dict[str, Any]:
    """Measure img/s of a training pass and of a whole epoch of the document's loop."""
    import torch

    import plain_loops
    from skiplab.machine import devices

    each = CASES[case]
    training, validation, source = splits(
        setting, case, bench_setup.config_of(setting, *overrides(case))
    )
    torch.set_num_threads(setting.threads)
    seconds = plain_loops.document(
        each.model,
        (training.images.numpy(), training.labels.numpy()),
        (validation.images.numpy(), validation.labels.numpy()),
        batch_size=each.batch_size,
        warmup=each.warmup,
        device=devices.pick_device(setting.device),
    )
    return {name: len(training) / s for name, s in seconds.items()} | {"source": source}
