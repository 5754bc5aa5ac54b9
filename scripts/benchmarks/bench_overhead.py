"""`scripts/bench overhead`: ours with metrics, log, progress bar and checkpoints on, against a bare loop with nothing on."""

import copy
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import bench_setup
from bench_setup import FAST_ON_CUDA, MODELS, Setting, repeated, seconds_of
from bench_table import Table, median_interval, ratios

if TYPE_CHECKING:
    from bare_loop import BareLoop
    from skiplab.config.schema import Config
    from skiplab.data.splits import Split
    from skiplab.training.trainer import Trainer


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """One table, filled model by model."""
    table = Table(
        "overhead",
        "everything on, against a bare loop over the same network with nothing on",
        ("ours", "bare"),
    )
    for name in models:
        title = MODELS[name].title
        found = bench_setup.in_process("bench_overhead:blocks", setting, model=name)
        pairs, per_repeat = found["pairs"], setting.pace(name).pairs
        ours, bare, ours_cpu, bare_cpu = (
            [
                statistics.fmean(pair[i] for pair in pairs[start : start + per_repeat])
                for start in range(0, len(pairs), per_repeat)
            ]
            for i in range(4)
        )
        of_pairs = ratios([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        low, high = median_interval(of_pairs)
        of_sums = sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs)
        note = f"of all sums {of_sums:.4f}; {len(pairs)} pairs: median {statistics.median(of_pairs):.4f}, 95 % {low:.4f} to {high:.4f}"
        milliseconds = [[1e3 * s for s in each] for each in (ours, bare, ours_cpu, bare_cpu)]
        table.add(title, "ms a step", *milliseconds[:2], digits=2, ratio_digits=4, note=note)
        table.add(title, "CPU ms a step", *milliseconds[2:], digits=2, ratio_digits=4)
        epoch = [found["steps_per_epoch"] * s for s in bare]
        table.add(
            title,
            "s, an epoch's end : bare epoch",
            found["ends"],
            epoch,
            digits=3,
            ratio_digits=3,
            percent=True,
        )
        memory = bench_setup.in_turns(
            {"ours": "bench_overhead:ours_alone", "bare": "bench_overhead:bare_alone"},
            setting,
            model=name,
        )
        table.add_peaks(title, memory["ours"], memory["bare"])
        recipe = " ".join((*MODELS[name].overrides, *(FAST_ON_CUDA if setting.is_cuda else ())))
        table.note(
            f"{title}: {recipe}; {found['source']}; blocks of {setting.pace(name).block} steps"
        )
    table.note(
        "ms a step: Trainer.advance() as fit() calls it; blocks in turns in one process, order swapped each time; a value a repeat",
        "end of an epoch: its row and the save of best and last, waited for until they are on the disk; a run writes behind its loop",
        "memory: processes of their own; the bare loop stores cropped and mirrored images padded, and twice, for its speed",
    )
    yield table


def prepared(setting: Setting, name: str) -> "tuple[Config, Split, str]":
    """The model's config, whole batches of images, and where they come from."""
    # a constant learning rate, as the bare loop has it: both do the same mathematics
    options = (
        *MODELS[name].overrides,
        "scheduler=constant",
        "epochs=100000",
        *(FAST_ON_CUDA if setting.is_cuda else ()),
    )
    config = bench_setup.config_of(setting, *options)
    return config, *bench_setup.images_of(setting, config)


def bare_loop(config: "Config", split: "Split", model: Any) -> "BareLoop":
    """The bare loop with the recipe of a config, over `model`."""
    from bare_loop import BareLoop

    augment, dataset = config.augment, config.dataset
    return BareLoop(
        model,
        split.images,
        split.labels,
        mean=dataset.mean,
        std=dataset.std,
        batch_size=config.batch_size,
        shuffle=config.trainer.shuffle,
        crop=augment.crop,
        flip=augment.flip == "random" or (augment.flip == "auto" and dataset.flip_keeps_label),
        optimizer={
            name: value for name, value in asdict(config.optimizer).items() if name != "norm_scale"
        },
    )


@contextmanager
def both(
    setting: Setting, config: "Config", split: "Split"
) -> "Iterator[tuple[Trainer, BareLoop]]":
    """Our trainer, and the bare loop over a copy of its weights."""
    from skiplab import build

    device = bench_setup.set_up(setting, config)
    with bench_setup.trainer_of(config, split, device) as trainer:
        model = build.network(config, device)
        model.load_state_dict(copy.deepcopy(trainer.step.model.state_dict()))
        yield trainer, bare_loop(config, split.to(device), model)


def blocks(setting: Setting, *, model: str) -> dict[str, Any]:
    """In one process: wall and CPU seconds a step of blocks of ours and of the bare loop in turns; seconds of our epochs' ends."""
    config, split, source = prepared(setting, model)
    pace = setting.pace(model)
    pairs, ends = [], []
    with both(setting, config, split) as (trainer, bare), bench_setup.fitting(trainer) as advance:
        for step in (advance, bare.step):
            repeated(step, setting.warmup(model))
        for _ in range(setting.repeats):
            for pair in range(pace.pairs):
                stay_within_epoch(trainer, pace.block)
                found = {}
                for step in (advance, bare.step)[:: 1 if pair % 2 == 0 else -1]:
                    found[step] = [
                        s / pace.block
                        for s in seconds_of(
                            lambda step=step: repeated(step, pace.block), trainer.context.device
                        )
                    ]
                pairs.append([found[step][i] for i in (0, 1) for step in (advance, bare.step)])
            ends.append(seconds_of(lambda: end_epoch(trainer), trainer.context.device)[0])
    return {
        "pairs": pairs,
        "ends": ends,
        "steps_per_epoch": trainer.step.batches.steps_per_epoch,
        "source": source,
    }


def stay_within_epoch(trainer: "Trainer", count: int) -> None:
    """Go to the beginning of the next epoch if `count` steps would end this one: its end is timed apart and must not count twice."""
    progress, per_epoch = trainer.progress, trainer.step.batches.steps_per_epoch
    if progress.step % per_epoch + count >= per_epoch:
        trainer.report_losses()
        progress.step += per_epoch - progress.step % per_epoch


def end_epoch(trainer: "Trainer") -> None:
    """What `Trainer.advance` does after the last step of an epoch, and then wait for the files."""
    trainer.evaluate()
    trainer.save()
    trainer.saver.writer.wait()


def ours_alone(setting: Setting, *, model: str) -> dict[str, Any]:
    """Some steps and the end of an epoch of ours, for the process's peak memory."""
    config, split, _ = prepared(setting, model)
    device = bench_setup.set_up(setting, config)
    with (
        bench_setup.trainer_of(config, split, device) as trainer,
        bench_setup.fitting(trainer) as advance,
    ):
        repeated(advance, setting.warmup(model) + 2)
        end_epoch(trainer)
    return {}


def bare_alone(setting: Setting, *, model: str) -> dict[str, Any]:
    """Some steps of the bare loop, for the process's peak memory."""
    import torch

    from bare_loop import warm_allocator
    from skiplab import build
    from skiplab.machine import devices

    config, split, _ = prepared(setting, model)
    device = devices.pick_device(setting.device)
    torch.set_num_threads(setting.threads)
    if device.type == "cpu":
        warm_allocator()
    loop = bare_loop(config, split.to(device), build.network(config, device))
    # what it needs, it has stored
    del split
    repeated(loop.step, setting.warmup(model) + 2)
    return {}
