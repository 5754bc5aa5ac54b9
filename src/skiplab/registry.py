"""The code behind the names of options: one table per group of conf/ whose options are code.

Code of a user's own is in the place of a row: it is run here, and checked to be what it stands for.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from skiplab import own_code
from skiplab.config import rules
from skiplab.config.schema import Code, Config
from skiplab.config.values import nearest
from skiplab.data.catalog import DATASETS
from skiplab.errors import UsageError
from skiplab.networks.blocks import Block
from skiplab.networks.models import BLOCKS, MODELS
from skiplab.networks.plan import Plan, Stages
from skiplab.training import torch_optimizer
from skiplab.training.optimizers import OPTIMIZERS, Row, own_row
from skiplab.training.schedules import SCHEDULES

NAMES: Mapping[str, Collection[str]] = {
    "block": BLOCKS,
    "model": MODELS,
    "dataset": {*DATASETS, "folder"},
    "optimizer": OPTIMIZERS,
    "scheduler": SCHEDULES,
}


def check_names(config: Config) -> None:
    """Raise UsageError for a name that conf/ states and that no code stands behind.

    The config's own check takes the names from conf/, since it may not import torch.
    """
    own = {code.group for code in config.code}
    for group, names in NAMES.items():
        name = getattr(config, group).name
        if name not in names and group not in own:
            raise UsageError(f"{group}.name={name}: {nearest(name, names)}")


GIVES = "a block gives (B, out_channels, H / stride, W / stride), a network (B, classes)"


def block_of(config: Config) -> type[Block]:
    """Return the config's block. Raises UsageError if one of the user's own is none."""
    if (code := _own(config, "block")) is None:
        return BLOCKS[config.block.name]
    block = own_code.load(code.name, code.sha256)
    if not (isinstance(block, type) and issubclass(block, Block)):
        raise _misfit(code, "is no subclass of skiplab.networks.blocks.Block")
    if missing := sorted(getattr(block, "__abstractmethods__", ())):
        raise _misfit(code, f"has no method {', '.join(missing)}")
    if not hasattr(block, "preactivation"):
        raise _misfit(code, "states no preactivation, True or False")
    # Messages and summaries name it as the config does.
    block.name = code.name
    return block


def model_of(config: Config) -> Callable[[Plan], Stages]:
    """Return the function of the config's network. Raises UsageError if it cannot be called."""
    if (code := _own(config, "model")) is None:
        return MODELS[config.model.name]
    return _called(code)


def check_logits(config: Config, model: nn.Module, *, device: torch.device) -> None:
    """Raise UsageError if a network of the user's own does not give a logit for each class."""
    if (code := _own(config, "model") or _own(config, "block")) is None:
        return
    images = torch.zeros(2, rules.channels(config), *rules.image_size(config), device=device)
    was_training, wanted = model.training, (2, len(config.dataset.classes))
    model.eval()
    try:
        with torch.no_grad():
            logits = model(images)
    # The layers of a user's own may raise anything, and so may ours after them.
    except Exception as error:
        if own_code.explain(error) is not None:
            raise
        raise _misfit(
            code, f"its layers do not fit ({own_code.describe(error)}); {GIVES}"
        ) from error
    model.train(was_training)
    given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if given != wanted:
        raise _misfit(
            code, f"the network gives {given} for 2 images; {wanted} is expected, logits of classes"
        )


def augmentation_of(config: Config) -> Callable[[Any, torch.Generator], Any] | None:
    """Return the user's own augmentation, (images, generator) -> images, or None without one."""
    if (code := _own(config, "augment")) is None:
        return None
    found = _called(code)
    made = found() if inspect.isclass(found) else found
    if not callable(made):
        raise _misfit(code, f"{code.name} has no method __call__")
    return made


def optimizer_row_of(config: Config) -> Row | torch_optimizer.Maker:
    """Return the row of the config's optimizer, or what makes a torch.optim.Optimizer."""
    if (code := _own(config, "optimizer")) is None:
        return OPTIMIZERS[config.optimizer.name]
    make = _called(code)
    return torch_optimizer.Maker(make) if torch_optimizer.is_maker(make) else own_row(make)


def _own(config: Config, group: str) -> Code | None:
    return next((code for code in config.code if code.group == group), None)


def _called(code: Code) -> Callable[..., Any]:
    found = own_code.load(code.name, code.sha256)
    if not callable(found):
        raise _misfit(code, f"is {type(found).__name__}, which cannot be called")
    return found


def _misfit(code: Code, what: str) -> UsageError:
    return UsageError(f"{code.group}={code.name}: {own_code.shown(code.path)}: {what}")
