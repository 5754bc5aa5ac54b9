"""`skiplab export RUN --to KIND`: a run's network as a file for other programs."""

import argparse

from skiplab.cli.options import device, one_of, path

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
    parser.add_argument(
        "--checkpoint",
        type=one_of("--checkpoint", ("best", "last")),
        default="best",
        metavar="best|last",
    )
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


def command(options: argparse.Namespace) -> None:
    """Write and compare the file, and print what it takes, what it gives and how it compared."""
    from skiplab.export.write import export

    done = export(
        options.run,
        kind=options.to,
        out=options.out,
        names=options.names,
        checkpoint_name=options.checkpoint,
        device_name=options.device,
    )
    tree = done.tree
    print(f"{tree['network']}; {tree['checkpoint']}, step {tree['step']:,}")
    print(f"input   {tree['input']}")
    print(f"output  {tree['output']}")
    for note in done.notes:
        print(f"note: {note}")
    print(f"compared by {done.runtime}")
    for each in done.comparisons:
        print(f"  {each.in_words()}")
    if "load" in tree:
        print("load it into")
        for line in str(tree["load"]).splitlines():
            print(f"  {line}")
    verb = "replaced" if done.replaced else "written"
    print(f"{verb}: {done.path}, {done.beside}")
