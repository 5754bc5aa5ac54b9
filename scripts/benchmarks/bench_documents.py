"""`scripts/bench documents`: ours against plain renderings of the two documents' loops."""

import time
from collections.abc import Iterator
from typing import Any

import bench_setup
from bench_setup import MODELS, Setting, repeated
from bench_table import Table

# name -> its title, model, batch size; training images on a CPU and on CUDA, validation images,
# warm-up steps
CASES: dict[str, tuple[str, str, int, tuple[int, int], int, int]] = {
    "deepcnn": ("the lab's Deep_CNN, batch 256", "deepcnn", 256, (9216, 36_864), 1024, 3),
    "deepcnn_bf16": (
        "the same, ours with trainer.amp=bf16",
        "deepcnn",
        256,
        (9216, 36_864),
        1024,
        3,
    ),
    "resnet256": ("the notebook's ResNet, batch 256", "resnet", 256, (2048, 51_200), 0, 1),
    "resnet2048": ("the notebook's ResNet, batch 2048", "resnet", 2048, (4096, 53_248), 0, 1),
}


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """One table."""
    from skiplab.machine import cpu

    table = Table(
        "documents",
        "everything on, against plain renderings of the two documents' loops",
        ("ours", "plain"),
    )
    for case, (title, model, *_) in CASES.items():
        if model not in models or (
            case.endswith("_bf16") and not setting.is_cuda and not cpu.has_bf16()
        ):
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
        "each measurement a process of its own; whole epoch: the lab evaluates its training set again, ours counts while it trains"
    )
    yield table


def overrides(case: str) -> list[str]:
    """What `train` is told."""
    _, model, batch_size, *_ = CASES[case]
    texts = [text for text in MODELS[model].overrides if not text.startswith("batch_size=")]
    return [
        *texts,
        f"batch_size={batch_size}",
        "epochs=1",
        *(["trainer.amp=bf16"] if case.endswith("_bf16") else []),
    ]


def splits(setting: Setting, case: str, config: Any) -> tuple[Any, Any, str]:
    """Training and validation images, and where they come from."""
    from skiplab.data.splits import Split

    *_, counts, num_validation, _ = CASES[case]
    num_training = counts[setting.is_cuda]
    whole, source = bench_setup.images_of(setting, config, num_training + num_validation)
    training = Split(whole.images[:num_training], whole.labels[:num_training])
    return training, Split(whole.images[num_training:], whole.labels[num_training:]), source


def ours(setting: Setting, *, case: str) -> dict[str, Any]:
    """img/s of a training pass and of a whole epoch, with metrics, evaluation and checkpoints."""
    config = bench_setup.config_of(setting, *overrides(case))
    device = bench_setup.set_up(setting, config)
    training, validation, source = splits(setting, case, config)
    with bench_setup.trainer_of(config, training, device) as trainer:
        trainer.step.model.train()
        repeated(lambda: step_of(trainer), CASES[case][-1])
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


def step_of(trainer: Any) -> None:
    """A step and its share of the log, without an epoch's end."""
    trainer.step.update(trainer.progress.step)
    trainer.progress.step += 1
    trainer.context.log.advance()
    if trainer.progress.step % trainer.settings.log_every == 0:
        trainer.report_losses()


def plain(setting: Setting, *, case: str) -> dict[str, Any]:
    """img/s of a training pass and of a whole epoch of the document's loop."""
    import torch

    import plain_loops
    from skiplab.machine import devices

    _, model, batch_size, *_, warmup = CASES[case]
    training, validation, source = splits(
        setting, case, bench_setup.config_of(setting, *overrides(case))
    )
    torch.set_num_threads(setting.threads)
    seconds = plain_loops.document(
        model,
        (training.images.numpy(), training.labels.numpy()),
        (validation.images.numpy(), validation.labels.numpy()),
        batch_size=batch_size,
        warmup=warmup,
        device=devices.pick_device(setting.device),
    )
    return {name: len(training) / s for name, s in seconds.items()} | {"source": source}
