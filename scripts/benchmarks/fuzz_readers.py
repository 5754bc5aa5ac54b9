"""Feed the readers bytes that atheris grows by coverage.

There must be no exception but ours, no hang, and no memory taken because a header claims it.
"""

import gzip
import hashlib
import importlib
import io
import os
import pickle
import resource
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

try:
    atheris: Any = importlib.import_module("atheris")
except ImportError:
    sys.exit(
        "atheris is not installed: .venv/bin/pip install -e '.[fuzz]' "
        "(Linux and macOS, Python 3.11 to 3.13)"
    )

with atheris.instrument_imports(include=["skiplab"]):
    from skiplab.data import cifar, download, idx
    from skiplab.errors import SkiplabError
    from skiplab.runs import checkpoint, container

TARGETS = {
    "idx": lambda path: idx.read_idx(path, num_dimensions=3),
    "idx.gz": lambda path: idx.read_idx(path, num_dimensions=3),
    "bin": lambda path: cifar.read_cifar_binary(path, num_label_bytes=1, num_classes=10),
    "pickle": lambda path: cifar.read_cifar_pickle(path, label_key=b"labels", num_classes=10),
    "tar.gz": lambda path: download.extract(path, path.parent, ["data_batch_1.bin"]),
    "ckpt": checkpoint.peek,
}


def seeds() -> dict[str, bytes]:
    """Return a whole file of each kind to begin with.

    Random bytes would never have the right magic number or checksum.
    """
    idx = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3)) + bytes(range(18))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = 10
        tar.addfile(member, io.BytesIO(bytes(10)))
    content = (2).to_bytes(8, "little") + b"{}" + (2).to_bytes(8, "little") + b"{}"
    return {
        "idx": idx,
        "idx.gz": gzip.compress(idx),
        "bin": bytes(3073),
        "pickle": pickle.dumps({b"labels": [3], b"data": None}, protocol=2),
        "tar.gz": packed.getvalue(),
        "ckpt": container.MAGIC_1 + hashlib.sha256(content).digest() + content,
    }


folder = Path(tempfile.mkdtemp(prefix="skiplab-fuzz-"))
counts = dict.fromkeys(TARGETS, 0)
slowest = dict.fromkeys(TARGETS, 0.0)
deadline = time.monotonic() + 60 * float(sys.argv[1])


def one(data: bytes) -> None:
    """Read a file: the first byte picks the reader, the rest is the content."""
    if time.monotonic() > deadline:
        report()
    kind = list(TARGETS)[data[0] % len(TARGETS)] if data else "idx"
    path = folder / f"file.{kind}"
    path.write_bytes(data[1:])
    began = time.monotonic()
    try:
        TARGETS[kind](path)
    except SkiplabError as error:
        if str(path) not in str(error) or "\n" in str(error):
            raise AssertionError(f"{kind}: {error}") from error
    counts[kind] += 1
    slowest[kind] = max(slowest[kind], time.monotonic() - began)


def report() -> None:
    """Print the figures, and exit."""
    for kind, count in counts.items():
        print(f"{kind:<8} {count:>9,} files, slowest {1000 * slowest[kind]:.0f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MiB; no exception but ours")
    sys.stdout.flush()
    # Any exception, SystemExit too, would count as one of the readers'.
    os._exit(0)


corpus = folder / "corpus"
corpus.mkdir()
for number, (name, seed) in enumerate(seeds().items()):
    (corpus / name).write_bytes(bytes([number]) + seed)
atheris.Setup([sys.argv[0], "-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", str(corpus)], one)
atheris.Fuzz()
