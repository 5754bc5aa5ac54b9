"""The command line of scripts/bench. Prints tables, and writes every value to a JSON file."""

import argparse
import difflib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import bench_setup
import bench_table
from bench_setup import MODELS, MeasurementError, Setting

# Each part's name and what it measures; it is `tables(setting, models)` in bench_NAME.py.
PARTS = {
    "overhead": "what metrics, log, progress bar and checkpoints cost, "
    "against a bare hand-written loop",
    "documents": "against plain renderings of the lab's and the notebook's loops",
    "dataloader": "against a torchvision-style loop: PIL images, transforms, "
    "a DataLoader with two workers",
    "batches": "what gathering, cropping and mirroring a batch takes, on one core",
    "evaluation": "the evaluation against the training, and the report's milliseconds",
    "start": "commands and the way to the first step, against `import torch`",
    "contention": "a run next to busy processes, and what threads that wait asleep cost "
    "where nothing is busy",
    "roofline": "FLOP/s and bytes/s of a step against a matrix product and a copy on this machine",
    "speedrun": "CUDA only: `train experiment=speedrun94` (and 96) next to a published script",
}
EXAMPLES = """
examples:
  scripts/bench                                     everything, about an hour on two cores
  scripts/bench overhead --models resnet20          one part, one model
  scripts/bench speedrun --airbench PATH/airbench94_muon.py
"""


class Parser(argparse.ArgumentParser):
    """argparse's parser, with errors like all others: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(
            f"error: {message.removeprefix('argument ')}; see scripts/bench --help", file=sys.stderr
        )
        raise SystemExit(2)


def one_of(noun: str, choices: Iterable[str]) -> Callable[[str], str]:
    """Return a type for argparse: one of the choices, or an error that offers the nearest."""

    def convert(word: str) -> str:
        if word in choices:
            return word
        near = ["cuda"] if word == "gpu" else difflib.get_close_matches(word, choices, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise argparse.ArgumentTypeError(
            f"{word}: no such {noun}; {meant}choices: {', '.join(choices)}"
        )

    return convert


def count(text: str) -> int:
    """Convert an argument to a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number above 0 is expected")
    return int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options. If they are wrong, print one line and exit."""
    rows = "\n".join(f"  {name:<11} {what}" for name, what in PARTS.items())
    parser = Parser(
        prog="scripts/bench",
        description="Skiplab's speed and memory, as ratios of interleaved runs: "
        f"median (min to max) of the repeats.\n\nparts:\n{rows}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        type=one_of("part", PARTS),
        help="what to measure (all but speedrun)",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        type=one_of("model", MODELS),
        help=f"of {', '.join(MODELS)} (all)",
    )
    parser.add_argument(
        "--repeats", metavar="N", type=count, default=5, help="turns of every contender (5)"
    )
    parser.add_argument("--threads", metavar="N", type=count, help="CPU threads (one per core)")
    parser.add_argument(
        "--device",
        metavar="NAME",
        type=one_of("device", ("auto", "cpu", "cuda")),
        default="auto",
        help="auto, cpu or cuda",
    )
    parser.add_argument(
        "--root", type=Path, help="data root (as train's: $SKIPLAB_DATA, else ~/.cache/skiplab)"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="where every single value goes (outputs/bench/DATE-TIME.json)",
    )
    parser.add_argument(
        "--airbench",
        nargs="+",
        metavar="PATH",
        type=Path,
        default=[],
        help="published scripts for speedrun: ...94....py",
    )
    parser.add_argument("--measure", metavar="JOB", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for path in options.airbench:
        if not path.is_file():
            parser.error(f"--airbench {path}: no such file")
    if options.root is not None and not options.root.is_dir():
        parser.error(f"--root {options.root}: no such folder")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = parse(arguments)
    # Commands are run in other folders, and must find the same Skiplab.
    if "PYTHONPATH" in os.environ:
        paths = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))
    # This Python lacks Skiplab: run again with that of the .venv next to this folder.
    if any(importlib.util.find_spec(name) is None for name in ("skiplab", "torch")):
        from environment import set_up, tool

        set_up(dev=False)
        return subprocess.run(
            [tool("python"), str(bench_setup.COMMAND), *arguments], check=False
        ).returncode
    from skiplab.errors import SkiplabError

    try:
        if options.measure:
            bench_setup.measure(options.measure)
        else:
            bench(options, list(arguments))
    except SkiplabError as error:
        print("\n".join(f"error: {line}" for line in str(error).split("\n")), file=sys.stderr)
        return error.exit_code
    except MeasurementError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # The process that started a measurement prints this line.
        if not options.measure:
            print("interrupted", file=sys.stderr)
        return 130
    return 0


def bench(options: argparse.Namespace, arguments: list[str]) -> None:
    """Measure, and print the tables as they come.

    The JSON file is written after each, so that an interrupted call keeps what it has.
    """
    from skiplab.errors import UsageError
    from skiplab.locations import OUTPUTS, default_root, outputs
    from skiplab.machine import devices
    from skiplab.machine.cpu import num_cores
    from skiplab.words import counted

    # This imports torch before anything is measured, since no child may wait for it.
    device = devices.pick_device(options.device)
    if device.type not in ("cpu", "cuda"):
        device = devices.pick_device("cpu")
    parts = options.parts or [name for name in PARTS if name != "speedrun"]
    if "speedrun" in parts and device.type != "cuda":
        raise UsageError(
            "speedrun: needs a CUDA device, and this call runs on the CPU; leave it out"
        )
    setting = Setting(
        threads=options.threads or num_cores(),
        device=str(device),
        root=str((options.root or default_root()).expanduser().resolve()),
        repeats=options.repeats,
        airbench=tuple(str(path.resolve()) for path in options.airbench),
    )
    models = options.models or list(MODELS)
    path: Path = options.json or outputs() / "bench" / time.strftime("%Y-%m-%d-%H-%M-%S.json")
    # The runs that are measured write into temporary folders of their own.
    os.environ.pop(OUTPUTS, None)
    record: dict[str, Any] = facts(setting, arguments) | {"tables": []}
    write(path, record)
    gpu = f"; {record['gpu']}" if record["gpu"] else ""
    versions = record["versions"]
    print(
        f"{record['cpu']}, {counted(record['cores'], 'core')}, "
        f"{counted(setting.threads, 'thread')}{gpu}; torch {versions['torch']}, "
        f"Python {versions['python']}; {time.strftime('%Y-%m-%d')}\n"
        f"{counted(setting.repeats, 'interleaved repeat')}, median (min to max); "
        f"load average {record['load']:.2f} before",
        flush=True,
    )
    for part in parts:
        for table in importlib.import_module(f"bench_{part}").tables(setting, models):
            record["tables"].append(bench_table.as_json(table))
            write(path, record)
            print(f"\n{bench_table.text(table)}", flush=True)
    print(f"\nevery value: {path}")


def facts(setting: Setting, arguments: list[str]) -> dict[str, Any]:
    """Return what the figures depend on: command, machine, versions, load."""
    import torch

    from skiplab.machine import devices
    from skiplab.machine.cpu import num_cores

    gpu = torch.cuda.get_device_name(setting.device) if setting.is_cuda else None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "command": ["scripts/bench", *arguments],
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cpu": devices.cpu_name(),
        "cores": num_cores(),
        "threads": setting.threads,
        "gpu": gpu,
        "package": str(Path(devices.__file__).parent),
        "versions": devices.versions() | {"cudnn": str(torch.backends.cudnn.version())},
        "load": load,
        "repeats": setting.repeats,
        "root": setting.root,
    }


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record as JSON. Raises UsageError where it cannot be written."""
    from skiplab.errors import UsageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {path}: cannot be written ({error.strerror})") from None
