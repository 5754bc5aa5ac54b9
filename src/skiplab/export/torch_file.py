"""Files of torch.export: run by a process that has PyTorch and no Skiplab."""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skiplab.errors import SkiplabError
from skiplab.export.graph import quiet

# The name of the metadata within the file, for `extra_files`.
METADATA = "skiplab.json"
# Importing Skiplab fails in this process, as it does where it is not installed.
PROGRAM = f"""
import sys
sys.modules["skiplab"] = None
import numpy, torch
path, folder, count, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
extra = {{"{METADATA}": ""}}
network = torch.export.load(path, extra_files=extra).module()
assert extra["{METADATA}"]
for i in range(count):
    images = torch.from_numpy(numpy.load(f"{{folder}}/images{{i}}.npy", allow_pickle=False))
    with torch.no_grad():
        logits = network(images)
    numpy.save(f"{{folder}}/logits{{i}}.npy", logits.numpy(), allow_pickle=False)
"""


class TorchFile:
    """A network as an exported program of torch."""

    def __init__(self, traced: torch.export.ExportedProgram):
        self.program = traced

    def pack(self, metadata: Mapping[str, str]) -> bytes:
        """Return the file's content with this metadata."""
        content = io.BytesIO()
        with quiet():
            torch.export.save(
                self.program, content, extra_files={METADATA: json.dumps(dict(metadata))}
            )
        return content.getvalue()


def run(path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits that a process without Skiplab computes with a file, for each batch.

    Raises SkiplabError with that process's last line if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="skiplab-export-") as folder:
        for i, batch in enumerate(batches):
            np.save(f"{folder}/images{i}.npy", batch.numpy(), allow_pickle=False)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                PROGRAM,
                str(path.absolute()),
                folder,
                str(len(batches)),
                str(torch.get_num_threads()),
            ],
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise SkiplabError(
                f"{path}: torch.export.load fails in a process without Skiplab ({said[-1][:200]})"
            )
        return [
            torch.from_numpy(np.load(f"{folder}/logits{i}.npy", allow_pickle=False))
            for i in range(len(batches))
        ]


def run_here(path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
    """Return what `run` does, but from this process, which spares a start of seconds."""
    with quiet(), torch.no_grad():
        network = torch.export.load(path).module()
        return [network(batch) for batch in batches]


def runtime() -> str:
    """Name the program that `run` uses, with its version."""
    return f"torch.export.load of torch {torch.__version__}, without Skiplab"
