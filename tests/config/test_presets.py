"""The files in conf/: every combination composes, and every preset says how to run it."""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose, initialize_config_dir

from helpers import compose
from skiplab import registry
from skiplab.cli import topics
from skiplab.config import overrides, presets
from skiplab.config.compose import plain
from skiplab.config.options import Dataset
from skiplab.config.validate import check
from skiplab.errors import UsageError
from skiplab.paths import conf_folder, groups

GROUPS = groups()
# A quick run of the tests crosses one experiment with everything, -m slow all of them.
QUICK = "deepcnn_cifar10"
EXPERIMENTS = [
    pytest.param(name, marks=() if name == QUICK else pytest.mark.slow)
    for name in GROUPS["experiment"]
]
NETWORKS = ("deepcnn", "resnet", "cifar_resnet", "imagenet_resnet", "airbench", "airbench96")
PRESETS = sorted(path for group in GROUPS for path in (conf_folder() / group).glob("*.yaml"))


def trees(combinations: list[tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield each combination of options, and the plain values that it composes to."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for texts in combinations:
            yield texts, plain(hydra_compose("config", list(texts)))


def options(group: str) -> list[str]:
    return [f"{group}={option}" for option in GROUPS[group]]


def outcome(tree: dict[str, Any]) -> list[str]:
    """Return the lines that the check has against a tree."""
    try:
        check(tree)
    except UsageError as error:
        return str(error).split("\n")
    return []


def own_values(group: str, option: str) -> dict[str, Any]:
    """Return what an option's file states, with the file that it builds on."""
    content = yaml.safe_load((conf_folder() / group / f"{option}.yaml").read_text())
    base: dict[str, Any] = {}
    for parent in content.pop("defaults", []):
        base |= own_values(group, parent)
    return base | content


def is_refused_in_clear_lines(lines: list[str]) -> bool:
    """Return whether each line has a key, its value and what to take."""
    return all(
        re.match(r"[a-z_.]+=\S+.*(take|larger than|below)|depth=\d+ is no ", line) for line in lines
    )


# --------------------------------------------------------------------------------------------------
# Combinations


def assert_same_values(found: dict[str, Any], stated: dict[str, Any], texts: object) -> None:
    assert found.keys() == stated.keys(), texts
    for name, value in stated.items():
        assert found[name] == (float(value) if isinstance(found[name], float) else value), (
            texts,
            name,
        )


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_goes_with_every_option_which_brings_its_own_numbers(experiment: str) -> None:
    swapped = [
        text
        for group in ("optimizer", "scheduler", "augment", "trainer")
        for text in options(group)
    ]
    for texts, tree in trees([(f"experiment={experiment}", text) for text in swapped]):
        lines = outcome(tree)
        mirrors_digits = experiment in ("resnet_mnist", "speedrun_mnist") and texts[1].startswith(
            "augment=airbench"
        )
        assert lines == [] or (mirrors_digits and "does not keep its label" in lines[0]), texts
        group, option = texts[1].split("=")
        # A swapped option keeps no number of the experiment's own option.
        assert_same_values(tree[group], own_values(group, option), texts)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_goes_with_every_block_and_data_set_or_says_why_not(experiment: str) -> None:
    refused: list[str] = []
    for texts, tree in trees(
        [(f"experiment={experiment}", text) for text in options("block") + options("dataset")]
    ):
        group, option = texts[1].split("=")
        name = tree[group]["name"]
        assert option == name or (group == "dataset" and option.startswith(f"{name}_")), texts
        if lines := outcome(tree):
            assert is_refused_in_clear_lines(lines), (texts, lines)
            refused.append(texts[1])
    # Somebody's own images need a folder.
    refused.remove("dataset=folder")
    unlike_their_mirror = "digits emnist_balanced emnist_letters kmnist mnist mnist_plain svhn"
    not_mirrored = [f"dataset={name}" for name in unlike_their_mirror.split()]
    expected = {
        # A batch has 2048 images, and digits 1,797.
        "resnet_mnist": ["dataset=digits"],
        # Digits are mirrored, or too small.
        "speedrun94": not_mirrored,
        "speedrun96": not_mirrored,
        "speedrun_mnist": ["dataset=digits"],
        # 9n+2 layers
        "he2016_resnet32": ["block=airbench_residual", "block=bottleneck"],
        "he2016_resnet44": ["block=airbench_residual", "block=bottleneck"],
    }
    assert refused == expected.get(experiment, [])


@pytest.mark.slow
def test_every_network_goes_with_every_block_or_says_why_not() -> None:
    others = [f"model={option}" for option in GROUPS["model"] if option not in NETWORKS]
    combinations = [
        (f"model={network}", block) for network in NETWORKS for block in options("block")
    ]
    refused: list[tuple[str, ...]] = []
    for texts, tree in trees(
        [
            (*both, "dataset=cifar10")
            for both in combinations + [(model, "block=bottleneck") for model in others]
        ]
    ):
        assert tree["block"]["name"] == texts[1].split("=")[1]
        if lines := outcome(tree):
            assert is_refused_in_clear_lines(lines), (texts, lines)
            refused.append(texts)
    # With bottlenecks He's networks have 9n+2 layers, not 6n+2.
    assert refused == [
        (f"model=resnet{depth}", "block=bottleneck", "dataset=cifar10") for depth in (32, 44)
    ]


def test_every_network_takes_images_of_every_size() -> None:
    sizes = ("dataset=digits", "dataset=mnist", "dataset=cifar10")
    for texts, tree in trees(
        [(f"model={network}", dataset) for network in NETWORKS for dataset in sizes]
    ):
        lines = outcome(tree)
        assert lines == [] or (
            "airbench" in texts[0] and texts[1] == "dataset=digits" and "at least 9x9" in lines[0]
        ), texts


def test_the_order_of_the_command_line_does_not_matter() -> None:
    texts = ["model=resnet20", "block=skip", "dataset=cifar10", "optimizer=adam", "depth=56"]
    assert compose(*texts) == compose(*reversed(texts))
    assert compose(*texts).depth == 56


def test_the_command_line_wins_over_a_preset_and_the_experiment() -> None:
    config = compose(
        "experiment=deepcnn_cifar10",
        "model=resnet20",
        "block=skip",
        "epochs=3",
        "augment=standard",
        "width=8",
    )
    assert (config.model.name, config.block.name, config.epochs, config.width, config.depth) == (
        "cifar_resnet",
        "skip",
        3,
        8,
        20,
    )
    assert (config.batch_size, config.optimizer.lr, config.augment.crop) == (256, 1e-4, 4)


# --------------------------------------------------------------------------------------------------
# What a preset says


def commands(path: Path) -> list[str]:
    """Return the `train` commands in a preset's opening comment.

    Each ends at three spaces or at the end of its line.
    """
    opening = list(
        itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    )
    return [
        match
        for line in opening
        for match in re.findall(r"(?:^# |   )(train(?: .*?)?)(?=   |$)", line)
    ]


@pytest.mark.parametrize(
    "path", PRESETS, ids=[f"{path.parent.name}/{path.stem}" for path in PRESETS]
)
def test_a_preset_opens_with_a_sentence_and_a_command_that_runs(path: Path) -> None:
    sentence = topics.describe(path)
    assert sentence.endswith("."), "what train --help shows is a whole sentence"
    found = commands(path)
    assert found
    for command in found:
        first, *texts = shlex.split(command)
        assert first == "train"
        is_sweep = "-m" in texts or any(text.startswith("sweep=") for text in texts)
        overrides.check([text for text in texts if text != "-m"], multirun=is_sweep)


def test_a_command_in_a_preset_uses_this_preset() -> None:
    """Hydra's record of the choices shows the preset, by name or by way of another preset."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for path in PRESETS:
            texts = shlex.split(commands(path)[0])[1:]
            if f"{path.parent.name}={path.stem}" not in texts:
                cfg = hydra_compose("config", texts, return_hydra_config=True)
                assert cfg.hydra.runtime.choices[path.parent.name] == path.stem, path


def test_only_an_experiment_and_the_data_sets_reach_over_their_group() -> None:
    """Only files of a group set keys inside it, since the user may swap its option.

    Any preset may pick options and set values at the root.
    """
    allowed = {
        "experiment": {"evaluator"},
        "dataset": {"dataset"},
        "model": {"model", "block"},
        "sweep": {"hydra", "trainer"},
    }
    groups = set(GROUPS)
    for path in PRESETS:
        if "@package _global_" not in path.read_text().splitlines()[0]:
            continue
        content = yaml.safe_load(path.read_text())
        inside = {name for name, value in content.items() if isinstance(value, dict)}
        assert inside <= allowed[path.parent.name], path
        # The evaluator and hydra have no options to swap.
        assert inside <= groups | {"evaluator", "hydra"}
        # A sweep may set what is recorded, which changes no number.
        if path.parent.name == "sweep":
            assert {*content.get("trainer", {})} <= {"probe", "probe_every"}
            assert set(content["hydra"]) == {"mode", "sweeper"}


@pytest.mark.parametrize("option", [name for name in GROUPS["dataset"] if name != "folder"])
def test_the_facts_of_a_data_set_agree(option: str) -> None:
    config = compose(f"dataset={option}")
    dataset = config.dataset
    # By name: classes, images of both splits, height and width, channels.
    published = {
        "digits": (10, 1_797, 8, 1),
        "mnist": (10, 70_000, 28, 1),
        "fashion_mnist": (10, 70_000, 28, 1),
        "kmnist": (10, 70_000, 28, 1),
        "emnist_letters": (26, 145_600, 28, 1),
        "emnist_balanced": (47, 131_600, 28, 1),
        "svhn": (10, 99_289, 32, 3),
        "stl10": (10, 13_000, 96, 3),
        "cifar10": (10, 60_000, 32, 3),
        "cifar100": (100, 60_000, 32, 3),
    }
    classes, images, size, channels = published[dataset.name]
    assert len(dataset.classes) == len(set(dataset.classes)) == classes
    assert len(dataset.mean) == len(dataset.std) == dataset.channels == channels
    assert dataset.train_images + dataset.test_images == images
    assert dataset.size == size
    assert all(0 <= m < 1 for m in dataset.mean)
    assert all(0 < s <= 1 for s in dataset.std)
    assert dataset.flip_keeps_label == (
        dataset.name in ("fashion_mnist", "stl10", "cifar10", "cifar100")
    )
    # cifar10_imagenet_stats writes the lab's Resize(32) down.
    assert isinstance(dataset, Dataset)
    assert dataset.resize in (None, dataset.size)
    assert config.epochs > 0
    assert 0 < config.batch_size <= 256
    assert list(dataset.classes) == sorted(dataset.classes) or "mnist" in dataset.name


@pytest.mark.parametrize("group", registry.NAMES)
def test_every_name_in_conf_has_code_and_all_code_has_a_name_there(group: str) -> None:
    assert set(presets.keys_by_name(group)) == set(registry.NAMES[group])


def test_train_alone_is_a_small_deepcnn_on_digits() -> None:
    config = compose()
    assert (config.dataset.name, config.model.name, config.block.name) == (
        "digits",
        "deepcnn",
        "residual",
    )
    assert (config.depth, config.width, config.norm, config.shortcut, config.init) == (
        6,
        32,
        "batch",
        True,
        "torch",
    )
    assert (config.val_fraction, config.seed, config.device, config.resume) == (
        0.1,
        0,
        "auto",
        "auto",
    )
    assert (config.augment.flip, config.augment.crop, config.augment.cutout) == ("none", 0, 0)


def test_resnet_on_cifar10_is_a_sensible_run_as_it_stands() -> None:
    config = compose("model=resnet", "dataset=cifar10")
    assert (config.model.name, config.block.name, config.depth, config.width) == (
        "resnet",
        "basic",
        1,
        32,
    )
    assert asdict(config)["optimizer"] == {
        "name": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": False,
        "norm_scale": 1.0,
    }
    assert asdict(config)["scheduler"] == {
        "name": "onecycle",
        "warmup": 0.2,
        "start": 0.1,
        "final": 1e-3,
    }
    assert asdict(config)["augment"] == {
        "flip": "auto",
        "crop": 4,
        "padding_mode": "zeros",
        "cutout": 0,
        "cutout_inside": False,
    }
    assert (config.epochs, config.batch_size, config.steps) == (30, 128, None)


def test_the_two_documents_are_reproduced_by_their_experiments() -> None:
    one = compose("experiment=deepcnn_cifar10")
    assert (one.dataset.name, one.dataset.mean, one.dataset.std) == (
        "cifar10",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    assert (one.model.name, one.block.name, one.depth, one.width, one.model.dropout) == (
        "deepcnn",
        "conv",
        6,
        32,
        0.5,
    )
    assert (one.block.bias, one.block.projection, one.init) == (True, "conv", "torch")
    assert (one.epochs, one.batch_size, one.val_fraction, one.augment.flip) == (
        30,
        256,
        0.1,
        "none",
    )
    assert (one.optimizer.name, one.optimizer.lr, one.scheduler.name) == ("adam", 1e-4, "constant")
    two = compose("experiment=resnet_mnist")
    assert (two.dataset.name, two.dataset.mean, two.dataset.std) == ("mnist", (0.0,), (1.0,))
    assert (two.model.name, two.block.name, two.depth, two.width) == ("resnet", "basic", 1, 32)
    assert (two.epochs, two.batch_size, two.val_fraction, two.trainer.shuffle) == (
        60,
        2048,
        0.0,
        False,
    )
    assert (two.optimizer.name, two.optimizer.lr, two.scheduler.name) == ("adam", 1e-3, "constant")


def test_he_networks_carry_no_bias_and_his_initialisation() -> None:
    for network in NETWORKS:
        config = compose(f"model={network}", "dataset=cifar10")
        of_a_document = network in ("deepcnn", "resnet")
        assert config.model.name == network
        assert config.block.bias == of_a_document
        assert config.init == ("he" if network.endswith("_resnet") else "torch")
        assert config.block.projection == {"cifar_resnet": "pad", "imagenet_resnet": "conv_bn"}.get(
            network, "conv"
        )
    for model in GROUPS["model"]:
        if match := re.fullmatch(r"resnet(\d+)", model):
            assert yaml.safe_load((conf_folder() / "model" / f"{model}.yaml").read_text())[
                "depth"
            ] == int(match[1])
