"""The code behind the names of options: one table per group of conf/ whose options are code."""

from collections.abc import Collection, Mapping

from skiplab.config.schema import Config
from skiplab.config.values import nearest
from skiplab.data.catalog import DATASETS
from skiplab.errors import UsageError
from skiplab.networks.models import BLOCKS, MODELS
from skiplab.training.optimizers import OPTIMIZERS
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
    for group, names in NAMES.items():
        name = getattr(config, group).name
        if name not in names:
            raise UsageError(f"{group}.name={name}: {nearest(name, names)}")
