"""The official files of a data set: found under a root, verified against published checksums, or fetched from their hosts."""

import errno
import hashlib
import json
import os
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from skiplab.errors import UsageError

LARGEST_MEMBER = 2**28  # bytes of a file in an archive; CIFAR-100's training file has 154 million
TIMEOUT = 30  # seconds without a byte before a host counts as unreachable
PATIENCE = 9  # times that a folder is made again which another process takes away


@dataclass(frozen=True)
class Published:
    """One downloadable file: its folder under the root, its name, its published MD5, and where it is served."""

    folder: str
    name: str
    md5: str
    hosts: tuple[str, ...]

    def urls(self) -> list[str]:
        """Where to try, in order; $SKIPLAB_MIRROR, a URL that serves the files by name, comes first."""
        mirror = os.environ.get("SKIPLAB_MIRROR")
        return [f"{host.rstrip('/')}/{self.name}" for host in ((mirror, *self.hosts) if mirror else self.hosts)]


def cache_folder() -> Path:
    """Where Skiplab keeps what it downloads and what it remembers: $XDG_CACHE_HOME/skiplab, else ~/.cache/skiplab."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skiplab"
    except RuntimeError:  # a user without a home, as in a container
        raise UsageError("$HOME is not set and this user has no home folder; set $XDG_CACHE_HOME, or $HOME, to a folder") from None


def default_root() -> Path:
    """The data root if `dataset.root` is not set: $SKIPLAB_DATA, else the cache folder."""
    return Path(os.environ.get("SKIPLAB_DATA") or cache_folder())


def md5_of(path: Path) -> str:
    """The MD5 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def verify(path: Path, md5: str) -> None:
    """Raise UsageError unless the file has the published MD5; a good verdict is remembered by path, size and mtime."""
    try:
        stat = path.stat()
        key, fact = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, md5]
        if remembered().get(key) == fact:
            return
        actual = md5_of(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if actual != md5:
        raise UsageError(f"{path}: damaged: its MD5 is {actual}, the published one is {md5}; delete the file and it is fetched again")
    remember(key, fact)


def remembered() -> dict[str, list[Any]]:
    """The good verdicts: path -> size, mtime, MD5."""
    try:
        verdicts = json.loads((cache_folder() / "verified.json").read_text())
    except (OSError, ValueError):
        return {}
    return verdicts if isinstance(verdicts, dict) else {}


def remember(key: str, fact: list[Any]) -> None:
    """Add a good verdict, if the cache can be written."""
    path = cache_folder() / "verified.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".verified-") as private:
            fresh = Path(private) / path.name
            fresh.write_text(json.dumps(remembered() | {key: fact}, indent=1))
            os.replace(fresh, path)
    except OSError:
        pass  # a cache that cannot be written costs half a second a run, no more


def ensure_writable(folder: Path, name: str, wanted: str) -> None:
    """Make `folder`, or raise UsageError saying that `wanted` has no place."""
    try:
        with private_folder(folder, ".probe-"):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: {name} is not there and cannot be put there ({error.strerror}); {wanted}") from None


def private_folder(folder: Path, prefix: str) -> "tempfile.TemporaryDirectory[str]":
    """A folder of this process's own in `folder`, which is made; another process that fetched nothing may take the empty one away."""
    for _ in range(PATIENCE):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return tempfile.TemporaryDirectory(dir=folder, prefix=prefix)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def download(file: Published, root: Path, *, dataset: str) -> Path:
    """Fetch `file` into its folder under `root`: checked before it gets its name, so that two runs do not disturb each other.

    Raises UsageError with everything that was tried.
    """
    folder = root / file.folder
    by_hand = (
        "put it there by hand, set dataset.root to a folder in torchvision's layout, "
        f"or $SKIPLAB_MIRROR to a host that serves {file.name}; "
        "dataset=digits needs no download"
    )
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    ensure_writable(folder, file.name, by_hand)
    from torchvision.datasets.utils import download_url  # 2 s to import: only when there is something to fetch

    tried = []
    timeout = socket.getdefaulttimeout()
    with private_folder(folder, ".download-") as private:
        for url in file.urls():
            print(f"fetching {url}")
            try:
                socket.setdefaulttimeout(TIMEOUT)  # torchvision's utility sets none and would wait for ever
                download_url(url, private, filename=file.name, md5=file.md5)
                os.replace(Path(private) / file.name, folder / file.name)
                return folder / file.name
            except RuntimeError:
                tried.append(f"{host_of(url)} (not the published file: cut off or changed)")
            except (OSError, HTTPException, ValueError) as error:  # URLError, timeouts, resets; no HTTP; a mirror that is no URL
                reason = getattr(error, "reason", None) or error
                said = getattr(reason, "strerror", None) or str(reason)
                tried.append(f"{host_of(url)} ({' '.join(said.split())})")  # some end in a line break
            finally:
                socket.setdefaulttimeout(timeout)
            (Path(private) / file.name).unlink(missing_ok=True)
    for each in missing:  # leave no empty folders where there were none
        with suppress(OSError):
            each.rmdir()
    raise UsageError(f"{dataset}: {file.name} is not in {folder} and could not be fetched from {', '.join(tried)}; {by_hand}")


def host_of(url: str) -> str:
    """The host in a URL, or all of it where there is none."""
    return url.split("/")[2] if "://" in url else url


def extract(archive: Path, folder: Path, names: Sequence[str]) -> None:
    """Write the archive's members whose last part is in `names` into `folder`; all else in the archive is left alone.

    Names, links and modes in the archive decide nothing: bytes of regular files go to names of ours, atomically.
    """
    wanted = set(names)
    try:
        with tarfile.open(archive, "r:gz") as tar, tempfile.TemporaryDirectory(dir=folder, prefix=".extract-") as private:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                source = tar.extractfile(member) if member.isfile() and name in wanted else None
                if source is None:
                    continue
                if member.size > LARGEST_MEMBER:
                    raise UsageError(f"{archive}: {name} is {member.size:,} bytes, which no file of a data set is")
                wanted.discard(name)
                fresh = Path(private) / name
                with fresh.open("wb") as target:
                    shutil.copyfileobj(source, target)
                os.replace(fresh, folder / name)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{archive}: cannot be unpacked ({error})") from None
    if wanted:
        raise UsageError(f"{archive}: lacks {', '.join(sorted(wanted))}")
