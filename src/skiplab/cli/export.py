"""`skiplab export RUN --to KIND`: a run's network as a file for other programs."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from skiplab.cli.answer import Answer
from skiplab.cli.options import checkpoint_option, device, one_of, path, trust_option

if TYPE_CHECKING:
    from skiplab.export.write import Exported

KINDS = ("onnx", "torch", "safetensors")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab export`."""
    parser.add_argument("run", type=path, help="run folder, or a best.safetensors alone")
    parser.add_argument(
        "--to",
        type=one_of("--to", KINDS),
        required=True,
        metavar="|".join(KINDS),
        help="onnx and torch take images, uint8 (N, H, W, C) of any height and width, and give "
        "logits, float32 (N, K): resizing and scaling are inside; safetensors has the tensors",
    )
    parser.add_argument(
        "--out", type=path, help="file to write; model.onnx, .pt2 or .safetensors in the run folder"
    )
    checkpoint_option(parser)
    parser.add_argument(
        "--names",
        type=one_of("--names", ("skiplab", "torchvision")),
        default="skiplab",
        metavar="skiplab|torchvision",
        help="how the tensors of --to safetensors are named",
    )
    parser.add_argument(
        "--device",
        type=device,
        default="cpu",
        help="computes what the file is compared with: auto, cpu, cuda, cuda:N or mps",
    )
    trust_option(parser)


def command(options: argparse.Namespace) -> Answer:
    """Write and compare the file; return what it takes, what it gives and how it compared."""
    from skiplab.export.write import export

    done = export(
        options.run,
        kind=options.to,
        out=options.out,
        names=options.names,
        checkpoint_name=options.checkpoint,
        device_name=options.device,
        trust_code=options.trust_code,
    )
    document = {"names": None, "load": None, **done.tree, "notes": list(done.notes)}
    document |= {"path": str(done.path), "is_replaced": done.replaced}
    return Answer(document, "\n".join(lines_of(done)))


def lines_of(done: "Exported") -> Iterator[str]:
    """Yield what was written, in words."""
    tree = done.tree
    yield f"{tree['network']}; {tree['checkpoint']}, step {tree['step']:,}"
    yield f"input   {tree['input']}"
    yield f"output  {tree['output']}"
    for note in done.notes:
        yield f"note: {note}"
    yield f"compared by {done.runtime}"
    for each in done.comparisons:
        yield f"  {each.in_words()}"
    if "load" in tree:
        yield "load it into"
        for line in str(tree["load"]).splitlines():
            yield f"  {line}"
    verb = "replaced" if done.replaced else "written"
    yield f"{verb}: {done.path}, {done.beside}"
