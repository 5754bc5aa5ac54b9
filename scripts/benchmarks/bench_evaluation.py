"""`scripts/bench evaluation`: img/s of the evaluation against the training, and the milliseconds of the report."""

from collections.abc import Iterator
from typing import Any

import bench_setup
from bench_setup import MODELS, Setting, repeated, seconds_of
from bench_table import Table

PREDICTIONS, CLASSES = 10_000, 10


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """The evaluation, then the report."""
    table = Table(
        "evaluation", "evaluate() over a split, against training", ("evaluation", "training")
    )
    for name in models:
        found = bench_setup.in_process("bench_evaluation:evaluation", setting, model=name)
        table.add(MODELS[name].title, "img/s", found["evaluation"], found["training"])
        peaks = ", ".join(
            f"{found[key]:,.0f} MiB{where}" for key, where in PEAKS.items() if found[key]
        )
        table.note(f"{MODELS[name].title}: {found['source']}; peak memory {peaks}")
    table.note("blocks in turns, in one process a model; training: the loop as fit() runs it")
    yield table
    table = Table(
        "report",
        f"metrics and text of {PREDICTIONS:,} predictions in {CLASSES} classes",
        ("ours", "scikit-learn"),
    )
    found = bench_setup.in_process("bench_evaluation:report", setting)
    table.add("report", "ms", found["ours"], found["scikit-learn"], digits=1)
    table.note(
        "scikit-learn: its two bare calls of classification_report; it is imported beforehand; random predictions"
    )
    yield table


PEAKS = {"peak_mib": "", "cuda_peak_mib": " on the GPU"}


def evaluation(setting: Setting, *, model: str) -> dict[str, Any]:
    """img/s of evaluations and of blocks of training steps in turns."""
    from skiplab.data.splits import Split
    from skiplab.training.evaluation import evaluate

    config = bench_setup.config_of(setting, *MODELS[model].overrides, "epochs=1000")
    device = bench_setup.set_up(setting, config)
    split, source = bench_setup.images_of(setting, config)
    pace = setting.pace(model)
    found: dict[str, list[float]] = {"evaluation": [], "training": []}
    with (
        bench_setup.trainer_of(config, split, device) as trainer,
        bench_setup.fitting(trainer) as advance,
    ):
        held = Split(
            *(tensor[: pace.evaluated].to(device) for tensor in (split.images, split.labels))
        )
        steps = max(2, pace.block)

        def evaluation() -> None:
            evaluate(
                trainer.evaluator.predictor,
                held,
                trainer.evaluator.normalize,
                num_classes=len(config.dataset.classes),
            )

        repeated(advance, setting.warmup(model))
        evaluation()
        for _ in range(setting.repeats):
            found["evaluation"].append(len(held) / seconds_of(evaluation, device)[0])
            found["training"].append(
                steps * config.batch_size / seconds_of(lambda: repeated(advance, steps), device)[0]
            )
    return found | {"source": source}


def report(setting: Setting) -> dict[str, Any]:
    """Milliseconds of our report and of scikit-learn's own part of it, in turns."""
    import numpy as np
    import torch
    from sklearn.metrics import classification_report

    from skiplab.runs.report import Predictions, metrics, text

    torch.set_num_threads(setting.threads)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, PREDICTIONS)
    logits = generator.normal(size=(PREDICTIONS, CLASSES)) + 3 * np.eye(CLASSES)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    classes = [str(i) for i in range(CLASSES)]

    def ours() -> None:
        # it remembers what it has counted
        fresh = Predictions(labels, probabilities)
        text(metrics(fresh, classes, loss=0.0), heading="")

    def bare() -> None:
        predicted = probabilities.argmax(1)
        classification_report(labels, predicted, target_names=classes, output_dict=True)
        classification_report(labels, predicted, target_names=classes, digits=4)

    found: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
    for function in (ours, bare):
        function()
    for _ in range(setting.repeats):
        for name, function in (("ours", ours), ("scikit-learn", bare)):
            found[name].append(1e3 * seconds_of(function, torch.device("cpu"))[0])
    return found
