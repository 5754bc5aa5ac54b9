"""What the files in conf/ state, against what Hydra composes of them."""

import pytest

from helpers import compose
from skiplab.config import standard, stored
from skiplab.paths import groups

# Options that need images of more pixels than digits have, or whose mirror image keeps its label.
NEEDS = {
    "augment": {"dataset": "cifar10"},
    "model": {"dataset": "cifar10"},
}
OPTIONS = [
    (group, option)
    for group in standard.GROUPS
    for option in groups()[group]
    # It needs a folder of images.
    if option != "folder"
]


def expected(*texts: str) -> dict[str, object]:
    values = stored.flat(compose(*texts))
    return {key: standard.as_value(value) for key, value in values.items()}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_the_values_of_an_option_are_those_that_hydra_composes(group: str, option: str) -> None:
    options = NEEDS.get(group, {}) | {group: option}
    found = standard.composed(options)
    assert {**found, **expected(*(f"{name}={value}" for name, value in options.items()))} == found


def test_several_options_compose_as_hydra_composes_them() -> None:
    options = {"model": "resnet20", "block": "skip", "dataset": "cifar10", "optimizer": "muon"}
    found = standard.composed(options)
    assert {**found, **expected(*(f"{name}={value}" for name, value in options.items()))} == found


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ((), {}),
        (("seed=2", "name=x", "jobs=3", "device=cpu"), {"seed": 2}),
        (("norm=none", "shortcut=false"), {"norm": "none", "shortcut": False}),
        (("optimizer=adam", "optimizer.lr=0.1"), {"optimizer": "adam", "optimizer.lr": 0.1}),
        (("optimizer=sgd_he2016", "dataset=mnist"), {"optimizer": "sgd_he2016"}),
        (("model=resnet", "dataset=cifar10"), {}),
        (("model=resnet110", "dataset=cifar10", "augment=none"), {"augment": "none"}),
        (("model=resnet20", "dataset=cifar10", "depth=8"), {"depth": 8}),
        (("trainer.ema=0.8", "epochs=3"), {"epochs": 3, "trainer.ema": 0.8}),
        (("trainer=debug",), {"trainer": "debug"}),
        (("experiment=resnet_mnist",), {
            "optimizer": "adam", "scheduler": "constant", "trainer": "unshuffled", "epochs": 60,
            "batch_size": 2048, "val_fraction": 0.0,
        }),
    ],
)  # fmt: skip
def test_what_differs_is_what_the_command_line_said(
    texts: tuple[str, ...], said: dict[str, object]
) -> None:
    assert standard.differences(compose(*texts)) == said


@pytest.mark.parametrize("option", groups()["experiment"])
def test_what_differs_gives_the_config_again(option: str) -> None:
    """The command line that `differences` stands for composes to the same values."""
    config = compose(f"experiment={option}")
    chosen = standard.nearest_options(config)
    said = {group: chosen[group] for group in ("model", "block", "dataset")}
    texts = [f"{key}={value}" for key, value in (said | standard.differences(config)).items()]
    texts = [text.replace("(", "[").replace(")", "]").replace("True", "true") for text in texts]
    texts = [text.replace("False", "false").replace("=None", "=null") for text in texts]
    assert expected(*texts) == expected(f"experiment={option}")
