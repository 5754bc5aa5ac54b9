"""What a checkpoint says of itself, beside its tensors. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skiplab.runs import checkpoint

Tree = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run that a checkpoint is of. Earlier releases stored none of it."""

    # Of the run's training: evaluator.split is left aside.
    identity: str | None
    # The run's keys that are not neutral. `best` of format 1 has none.
    config: Tree | None = None

    def as_tree(self) -> dict[str, object]:
        """Return what a checkpoint holds of the run."""
        config = {} if self.config is None else {"config": dict(self.config)}
        return {"identity": self.identity, **config}

    @classmethod
    def of_tree(cls, tree: object) -> "Origin":
        """Read what a checkpoint holds of the run; None for what is of another type."""
        found = _mapping(tree)
        config = found.get("config")
        return cls(
            identity=_text(found.get("identity")),
            config=config if isinstance(config, Mapping) else None,
        )


@dataclass(frozen=True, kw_only=True)
class History:
    """How a run came to its state. Only this may differ between a straight and a resumed run."""

    # Of training, and the images trained on, over all sessions.
    seconds: float
    images: int
    # `devices.comparable` of the session that saved.
    machine: Mapping[str, str]
    # Changes of machine: step and what of each.
    moved: list[dict[str, Any]]

    def as_tree(self) -> dict[str, object]:
        """Return what a checkpoint holds of the history."""
        return {
            "seconds": self.seconds,
            "images": self.images,
            "machine": dict(self.machine),
            "moved": self.moved,
        }

    @classmethod
    def of_tree(cls, tree: Tree) -> "History":
        """Read what `last` holds. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            seconds=tree["seconds"],
            images=tree["images"],
            machine=dict(tree["machine"]),
            moved=list(tree.get("moved", [])),
        )


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of `last`: with its tensors a run's whole state."""

    # `build.describe`: the network and its data set, in words.
    network: str
    num_steps: int
    # `Progress.facts`.
    progress: Tree
    accumulate: int | None
    run: Origin | None
    # State of the gradient scaler; empty without fp16.
    scaler: Tree
    history: History
    # The steps that rollbacks went back to.
    rolled_back: list[int]

    def as_tree(self) -> dict[str, object]:
        """Return what the checkpoint holds."""
        tree: dict[str, object] = {
            "network": self.network,
            "num_steps": self.num_steps,
            "progress": dict(self.progress),
            "accumulate": self.accumulate,
            "scaler": dict(self.scaler),
            "history": self.history.as_tree(),
        }
        if self.run is not None:
            tree["run"] = self.run.as_tree()
        # Format 1 has no such key, and a run that never went back needs none.
        if self.rolled_back:
            tree["rolled_back"] = self.rolled_back
        return tree

    @classmethod
    def of_tree(cls, tree: Tree) -> "Facts":
        """Read what `last` holds. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            network=str(tree["network"]),
            num_steps=int(tree["num_steps"]),
            progress=dict(tree["progress"]),
            accumulate=_count(tree.get("accumulate")),
            run=Origin.of_tree(tree["run"]) if "run" in tree else None,
            scaler=dict(tree["scaler"]),
            history=History.of_tree(tree["history"]),
            rolled_back=[int(step) for step in tree.get("rolled_back", [])],
        )


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the network was trained on. It sees (x / 255 - mean) / std of uint8 pixels x."""

    # In the order of the network's outputs.
    classes: Sequence[str]
    # Colour planes, and height and width in pixels.
    channels: int
    size: tuple[int, int]
    # Per channel, of pixels in [0, 1].
    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class BestFacts:
    """The facts of `best`: which step its weights are of, and what they score on validation.

    With the run's keys and the images, they are enough to use the network.
    """

    step: int
    # A share of 1, and nats per image.
    accuracy: float
    loss: float
    network: str
    run: Origin
    images: ImageFacts

    def as_tree(self) -> dict[str, object]:
        """Return what the checkpoint holds."""
        return {
            "step": self.step,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "network": self.network,
            "run": self.run.as_tree(),
            **asdict(self.images),
        }


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What commands read of any checkpoint, `last` or `best`, of any release.

    None stands for what it does not say, or says as another type.
    """

    network: object
    # None if the release that wrote it stored no identity.
    run: Origin | None
    # Optimizer steps done, and those at which the run ends.
    step: int | None
    num_steps: int | None
    best_step: int | None
    # On validation, a share of 1; below 0 before the first evaluation.
    best_accuracy: float | None
    accumulate: int | None
    # Of training, over all sessions.
    seconds: float | None
    # Of the session that saved, as `devices.comparable` names it.
    device: str | None

    @classmethod
    def of_tree(cls, tree: Tree) -> "Outline":
        """Read what a checkpoint holds, fact by fact."""
        progress, history = _mapping(tree.get("progress")), _mapping(tree.get("history"))
        run = tree.get("run")
        return cls(
            network=tree.get("network"),
            run=None if run is None else Origin.of_tree(run),
            step=_count(tree.get("step", progress.get("step"))),
            num_steps=_count(tree.get("num_steps")),
            best_step=_count(progress.get("best_step")),
            best_accuracy=_number(progress.get("best_accuracy")),
            accumulate=_count(tree.get("accumulate")),
            seconds=_number(history.get("seconds")),
            device=_text(_mapping(history.get("machine")).get("device")),
        )


def outline(path: Path) -> Outline:
    """Return the outline of a checkpoint. Raises CheckpointError if it is not whole."""
    return Outline.of_tree(checkpoint.peek(path))


def newest_outline(path: Path) -> Outline:
    """Return the outline of the newest whole generation; CheckpointError if there is none."""
    return Outline.of_tree(checkpoint.peek_newest(path))


def _mapping(value: object) -> Tree:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
