"""Write a run's network for another program, and compare what that program makes of it."""

import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from skiplab import __version__, provenance, regular
from skiplab.describe import describe_weights
from skiplab.errors import FolderError, SkiplabError, UsageError
from skiplab.export import (
    comparison,
    onnx_file,
    tensors_file,
    torch_file,
    torchvision_names,
)
from skiplab.export.comparison import EXACT, RESIZED, Comparison
from skiplab.export.graph import INPUT, OUTPUT, PixelsToLogits, trace
from skiplab.machine import devices
from skiplab.runs import atomic
from skiplab.trained import Trained, open_trained

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": (), "safetensors": ()}
# From here on torch exports graphs of any batch and image size in one way.
OLDEST_TORCH = (2, 6)
# Bytes that the description beside a file may have.
LARGEST = 2**24


class Content(Protocol):
    """A network as one kind of file."""

    def pack(self, metadata: Mapping[str, str]) -> bytes:
        """Return the file's content with this metadata."""
        ...


# What runs a written file: (path, batches of images) -> their logits.
Runner = Callable[[Path, Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Exported:
    """A written file, and what stands in the JSON file beside it."""

    path: Path
    beside: Path
    tree: Mapping[str, object]
    comparisons: Sequence[Comparison]
    runtime: str
    # What a user should know beside.
    notes: Sequence[str]
    replaced: bool


def export(
    source: Path,
    *,
    kind: str,
    out: Path | None = None,
    names: str = "skiplab",
    checkpoint_name: str = "best",
    device_name: str = "cpu",
    trust_code: bool = False,
) -> Exported:
    """Write the network of a run folder or a checkpoint file as `kind`, and compare it.

    `kind` is onnx, torch or safetensors, `names` skiplab or torchvision. The device computes what
    the file's logits are compared with. Code of a run's own is run as `open_trained` says. Raises
    UsageError or FolderError for what cannot be
    written, and SkiplabError if the file computes something else; then there is no file.
    """
    check_possible(kind, names)
    if checkpoint_name != "best" and source.is_file():
        raise UsageError(
            f"--checkpoint {checkpoint_name}: chooses in a run folder, and {source} is one file; "
            "name the folder"
        )
    torch.set_num_threads(devices.threads_for(None))
    trained = open_trained(
        source, checkpoint_name=checkpoint_name, device_name=device_name, trust_code=trust_code
    )
    if names == "torchvision":
        torchvision_names.function_of(trained.config)
    path = place_of(source, trained, kind, out)
    replaced = check_place(path, kind)
    content, run, runtime = make(kind, PixelsToLogits(trained), trained, names)
    tree = describe(trained, kind, names=names, checkpoint_name=checkpoint_name)
    with tempfile.TemporaryDirectory(prefix="skiplab-export-") as folder:
        trial = Path(folder) / path.name
        trial.write_bytes(content.pack(as_text(tree)))
        comparisons = compare_all(trained, kind, partial(run, trial))
        tree |= {"compared_by": runtime, "comparisons": [each.as_tree() for each in comparisons]}
        finished = content.pack(as_text(tree))
        trial.write_bytes(finished)
        # Only the metadata are new, so a few images show whether the file still works.
        again = torch_file.run_here if kind == "torch" else run
        compare_few(trained, kind, partial(again, trial))
    atomic.write(path, finished)
    tree |= {"file": path.name, "sha256": hashlib.sha256(finished).hexdigest()}
    beside = beside_of(path)
    atomic.write(beside, json.dumps(tree, indent=2, ensure_ascii=False).encode() + b"\n")
    notes = list(notes_on(trained, kind))
    return Exported(path, beside, tree, comparisons, runtime, notes, replaced)


def check_possible(kind: str, names: str) -> None:
    """Raise UsageError if this machine cannot write the kind, or the kind has no such names."""
    if names != "skiplab" and kind != "safetensors":
        raise UsageError(f"--names {names}: goes with --to safetensors, not with --to {kind}")
    missing = [name for name in PACKAGES[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--to {kind}: needs {', '.join(missing)}; pip install 'skiplab[export]'")
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    version = (int(found[1]), int(found[2])) if found else OLDEST_TORCH
    if kind != "safetensors" and version < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise UsageError(
            f"--to {kind}: needs torch {oldest} or newer, and this is {torch.__version__}; "
            "--to safetensors works with every torch"
        )


def make(
    kind: str, module: PixelsToLogits, trained: Trained, names: str
) -> tuple[Content, Runner, str]:
    """Return the content of a file, what runs the file, and the name of that."""
    if kind == "safetensors":
        tensors = tensors_file.TensorsFile(module, names=names)
        run = partial(tensors_file.run, trained=trained, written=tensors, names=names)
        return tensors, run, tensors_file.runtime(names)
    try:
        traced = trace(module)
        if kind == "onnx":
            return onnx_file.OnnxFile(traced), onnx_file.run, onnx_file.runtime()
        return torch_file.TorchFile(traced), torch_file.run, torch_file.runtime()
    except SkiplabError:
        raise
    # The exporters raise exceptions of many kinds for a block that they cannot trace.
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise SkiplabError(
            f"--to {kind}: torch {torch.__version__} cannot export "
            f"{describe_weights(trained.config)} ({type(error).__name__}: {said})"
        ) from error


# --------------------------------------------------------------------------------------------------
# where


def place_of(source: Path, trained: Trained, kind: str, out: Path | None) -> Path:
    """Return the path to write: `out`, or model.SUFFIX in the run's folder or beside the file.

    Raises UsageError for a suffix of another kind.
    """
    if out is None:
        return (trained.folder or source.parent) / f"model{SUFFIXES[kind]}"
    for other, suffix in SUFFIXES.items():
        if out.suffix.lower() == suffix and other != kind:
            raise UsageError(
                f"--out {out}: {suffix} is for --to {other}; "
                f"--to {kind} writes {out.with_suffix(SUFFIXES[kind]).name}"
            )
    return out


def beside_of(path: Path) -> Path:
    """Return the path of the JSON file that describes an exported file."""
    return path.with_name(f"{path.name}.json")


def check_place(path: Path, kind: str) -> bool:
    """Return whether the file replaces one that this command wrote before.

    Raises FolderError if something else is there, or if there is no such folder.
    """
    if not path.parent.is_dir():
        raise FolderError(f"{path}: there is no folder {path.parent}")
    beside = beside_of(path)
    if not (path.exists() or path.is_symlink() or beside.exists()):
        return False
    if not is_export(path, beside, kind):
        there = path if path.exists() or path.is_symlink() else beside
        raise FolderError(
            f"{there}: is there already, and is no file that skiplab export --to {kind} wrote; "
            "name another with --out"
        )
    return True


def is_export(path: Path, beside: Path, kind: str) -> bool:
    """Tell whether a file is as this command wrote it, by the description beside it."""
    try:
        tree = json.loads(regular.read_text(beside, most=LARGEST))
        size = path.stat().st_size
        digest = hashlib.sha256(regular.read(path, most=size)).hexdigest()
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(tree, dict)
        and tree.get("kind") == kind
        and "skiplab" in tree
        and tree.get("sha256") == digest
    )


# --------------------------------------------------------------------------------------------------
# what


def describe(trained: Trained, kind: str, *, names: str, checkpoint_name: str) -> dict[str, object]:
    """Return what a file says of itself: the run, its images and classes, input and output."""
    config, (height, width) = trained.config, trained.size
    colours = {1: "grey", 3: "red, green, blue"}.get(trained.channels, "channels")
    scaling = "(pixel / 255 - mean) / std"
    if kind == "safetensors":
        given = (
            f"float32 (N, {trained.channels}, {height}, {width}), {colours}: {scaling} of images "
            f"that are resized to {height}x{width}; the file has no graph, only the tensors"
        )
    else:
        given = (
            f"{INPUT}: uint8 (N, H, W, {trained.channels}), {colours}, of any height and width; "
            f"resized to {height}x{width} (bilinear, antialiased) and scaled, {scaling}, inside"
        )
    tree: dict[str, object] = {
        "kind": kind,
        "skiplab": __version__,
        "network": describe_weights(config),
        "run": provenance.training_identity(config),
        "checkpoint": checkpoint_name if trained.folder is not None else "the file that was given",
        "step": trained.step,
        "input": given,
        "output": f"{OUTPUT}: float32 (N, {len(trained.classes)}), in the order of classes; "
        "their softmax are probabilities",
        "classes": list(trained.classes),
        "channels": trained.channels,
        "size": [height, width],
        "mean": list(config.dataset.mean),
        "std": list(config.dataset.std),
        "tta": tta_of(trained, kind),
    }
    if kind == "safetensors":
        tree["names"] = names
    if names == "torchvision":
        tree["load"] = "\n".join(torchvision_names.recipe(config, trained.channels))
    return tree


def as_text(tree: Mapping[str, object]) -> dict[str, str]:
    """Return metadata as texts: what is no text becomes JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in tree.items()
    }


def tta_of(trained: Trained, kind: str) -> str:
    """Return the test-time augmentation in a file: the run's, and none without a graph."""
    return "none" if kind == "safetensors" else trained.config.evaluator.tta


def notes_on(trained: Trained, kind: str) -> Iterator[str]:
    """Yield in what the file's predictions are not those of the run's own report."""
    amp, tta = trained.config.trainer.amp, trained.config.evaluator.tta
    if amp != "off":
        yield f"trainer.amp={amp}: the run's own report is in {amp}, the file computes in float32"
    if tta != "none" and kind == "safetensors":
        yield f"evaluator.tta={tta}: is no part of the tensors; the comparison is without it"


# --------------------------------------------------------------------------------------------------
# whether it is right


def compare_all(
    trained: Trained, kind: str, run: Callable[[Sequence[Tensor]], list[Tensor]]
) -> list[Comparison]:
    """Compare a file with the network, on images of the run and on some of another size.

    Raises SkiplabError if a comparison fails.
    """
    images, words = comparison.images_of(trained)
    batches = comparison.batches_of(images)
    # A file without a graph resizes nothing.
    others = [] if kind == "safetensors" else [comparison.of_another_size(images)]
    found = run([*batches, *others])
    wanted = comparison.logits_of(trained, [*batches, *others], tta=tta_of(trained, kind))
    count = len(batches)
    results = [
        comparison.compare(found[:count], wanted[:count], images=words, share=EXACT, is_strict=True)
    ]
    if others:
        number, height, width = others[0].shape[:3]
        results.append(
            comparison.compare(
                found[count:],
                wanted[count:],
                images=f"{number} of them at {height}x{width}",
                share=RESIZED,
                is_strict=False,
            )
        )
    return [checked(each) for each in results]


def compare_few(
    trained: Trained, kind: str, run: Callable[[Sequence[Tensor]], list[Tensor]]
) -> None:
    """Compare a file with the network on a few random images. Raises SkiplabError if it fails."""
    draws = torch.Generator().manual_seed(0)
    shape = (2, *trained.size, trained.channels)
    batches = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)]
    wanted = comparison.logits_of(trained, batches, tta=tta_of(trained, kind))
    checked(
        comparison.compare(
            run(batches), wanted, images="2 random images", share=EXACT, is_strict=False
        )
    )


def checked(result: Comparison) -> Comparison:
    """Return a comparison that is good. Raises SkiplabError for another."""
    if not result.is_good:
        raise SkiplabError(
            f"the file does not compute what the network does, so it is not kept; "
            f"{result.in_words()}"
        )
    return result
