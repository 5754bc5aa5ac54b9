"""The official files of a data set: found under a root, verified against published checksums, or fetched from their hosts."""

import errno
import gzip
import hashlib
import json
import os
import shutil
import socket
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from skiplab.errors import UsageError
from skiplab.locations import cache_folder, check_kind, default_root as default_root

# bytes of a file or an archive of a data set; CIFAR's archives have 170 million
LARGEST_FILE = 2**28
# seconds, more than a file system's clock steps by: a write within a step of another leaves the
# same time
TICK = 0.02
# seconds without a byte before a host counts as unreachable
TIMEOUT = 30
# times that a folder is made again which another process takes away
PATIENCE = 9


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
        return [
            f"{host.rstrip('/')}/{self.name}"
            for host in ((mirror, *self.hosts) if mirror else self.hosts)
        ]


def md5_of(path: Path) -> str:
    """The MD5 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_unpacked(path: Path, *, size: int) -> str | None:
    """The MD5 of what a gzip file holds; None if it is no whole gzip file, or unpacks to more than `size` bytes."""
    digest, left = hashlib.md5(usedforsecurity=False), size
    try:
        with gzip.open(path) as file:
            while part := file.read(min(left + 1, 1 << 20)):
                if (left := left - len(part)) < 0:
                    return None
                digest.update(part)
    except (OSError, EOFError, zlib.error):
        return None
    return digest.hexdigest()


def verify(
    path: Path,
    md5: str,
    *,
    size: int | None = None,
    unpacked: tuple[str, int] | None = None,
    afresh: bool = False,
) -> None:
    """Raise UsageError unless the file has the published MD5; a file that is larger than `size` is not read.

    `unpacked`: the published MD5 and the size of what the file holds, if it is a gzip file; one
    that was packed anew is as good.

    A good verdict is remembered by path, size and times of the last write and change; `afresh`: the
    file is read all the same.
    """
    try:
        check_kind(path)
        stat = path.stat()
        check_size(path, stat.st_size, size)
        key, fact = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, md5, stat.st_ctime_ns]
        if not afresh and remembered().get(key) == fact:
            return
        # so that whatever is written later has another time
        time.sleep(min(TICK, max(0, TICK - (time.time() - stat.st_ctime))))
        actual = md5_of(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if actual != md5 and (unpacked is None or md5_unpacked(path, size=unpacked[1]) != unpacked[0]):
        raise UsageError(
            f"{path}: damaged: its MD5 is {actual}, the published one is {md5}; delete the file and it is fetched again"
        )
    remember(key, fact)


def check_size(path: Path, found: int, published: int | None, *, exact: bool = False) -> None:
    """Raise UsageError, before a file is read, if it is larger than the published one (`exact`: or smaller), or than any of a data set."""
    most = LARGEST_FILE if published is None else published
    if found > most or (exact and published is not None and found < published):
        rule = (
            "which no file of a data set has"
            if published is None
            else f"the published file has {published:,}"
        )
        raise UsageError(
            f"{path}: damaged: {found:,} bytes, {rule}; delete the file and it is fetched again"
        )


def remembered() -> dict[str, Any]:
    """The good verdicts: path -> size, mtime, MD5, ctime."""
    path = cache_folder() / "verified.json"
    try:
        verdicts = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return verdicts if isinstance(verdicts, dict) else {}


def remember(key: str, fact: Any) -> None:
    """Add a good verdict, if the cache can be written."""
    path = cache_folder() / "verified.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".verified-") as private:
            fresh = Path(private) / path.name
            fresh.write_text(json.dumps(remembered() | {key: fact}, indent=1))
            os.replace(fresh, path)
    except OSError:
        # a cache that cannot be written costs half a second a run, no more
        pass


def known_members(archive_md5: str) -> dict[str, str]:
    """The MD5 of the files in a published archive, by name, if one with this MD5 was ever unpacked here."""
    found = remembered().get(f"archive {archive_md5}")
    return (
        found
        if isinstance(found, dict) and all(isinstance(md5, str) for md5 in found.values())
        else {}
    )


def remember_members(archive_md5: str, members: dict[str, str]) -> None:
    """Keep the MD5 of the files in a published archive, for which none are published."""
    remember(f"archive {archive_md5}", members)


def ensure_writable(folder: Path, name: str, wanted: str) -> None:
    """Make `folder`, or raise UsageError saying that `wanted` has no place."""
    try:
        with private_folder(folder, ".probe-"):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder}: {name} is not there and cannot be put there ({error.strerror}); {wanted}"
        ) from None


def private_folder(folder: Path, prefix: str) -> "tempfile.TemporaryDirectory[str]":
    """A folder of this process's own in `folder`, which is made; another process that fetched nothing may take the empty one away."""
    for _ in range(PATIENCE):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return tempfile.TemporaryDirectory(dir=folder, prefix=prefix)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def download(file: Published, root: Path, *, dataset: str, missing: str = "") -> Path:
    """Fetch `file` into its folder under `root`: checked before it gets its name, so that two runs do not disturb each other.

    Raises UsageError with everything that was tried; `missing` says which files of a data set would
    come with this one.
    """
    folder = root / file.folder
    by_hand = (
        "put it there by hand, set dataset.root to a folder in torchvision's layout, "
        f"or $SKIPLAB_MIRROR to a host that serves {file.name}; "
        "dataset=digits needs no download"
    )
    wanted = f"{missing}; {file.name}" if missing else file.name
    download_url = torchvisions_download(wanted, by_hand)
    fresh = [each for each in (folder, *folder.parents) if not each.exists()]
    ensure_writable(folder, wanted, by_hand)

    tried = []
    timeout = socket.getdefaulttimeout()
    with private_folder(folder, ".download-") as private:
        for url in file.urls():
            print(f"fetching {url}")
            try:
                # torchvision's utility sets none and would wait for ever
                socket.setdefaulttimeout(TIMEOUT)
                download_url(url, private, filename=file.name, md5=file.md5)
                os.replace(Path(private) / file.name, folder / file.name)
                return folder / file.name
            except RuntimeError:
                tried.append(f"{host_of(url)} (not the published file: cut off or changed)")
            # URLError, timeouts, resets; no HTTP; a mirror that is no URL
            except (OSError, HTTPException, ValueError) as error:
                reason = getattr(error, "reason", None) or error
                said = getattr(reason, "strerror", None) or str(reason)
                # some end in a line break
                tried.append(f"{host_of(url)} ({' '.join(said.split())})")
            finally:
                socket.setdefaulttimeout(timeout)
            (Path(private) / file.name).unlink(missing_ok=True)
    # leave no empty folders where there were none
    for each in fresh:
        with suppress(OSError):
            each.rmdir()
    lacking = f"{missing}; " if missing else ""
    raise UsageError(
        f"{dataset}: {lacking}{file.name} is not in {folder} and could not be fetched from {', '.join(tried)}; {by_hand}"
    )


def torchvisions_download(name: str, by_hand: str) -> Callable[..., None]:
    """torchvision's `download_url`; takes 2 s to import, so call this only when there is something to fetch.

    Raises UsageError where torchvision is missing or belongs to another torch: its operators are
    then not found, nor its symbols.
    """
    try:
        from torchvision.datasets.utils import download_url
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(
            f"{name}: torchvision, which fetches it, cannot be imported ({said}); "
            f"install the one that belongs to your torch (docs/install.md), or {by_hand}"
        ) from None
    return download_url


def host_of(url: str) -> str:
    """The host in a URL, or all of it where there is none."""
    return url.split("/")[2] if "://" in url else url


def extract(archive: Path, folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Write the archive's members whose last part is in `names` into `folder`, and give their MD5; all else in it is left alone.

    Names, links and modes in the archive decide nothing: bytes of regular files go to names of
    ours, atomically.
    """
    wanted, found = set(names), dict[str, str]()
    try:
        with (
            tarfile.open(archive, "r:gz") as tar,
            tempfile.TemporaryDirectory(dir=folder, prefix=".extract-") as private,
        ):
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                source = tar.extractfile(member) if member.isfile() and name in wanted else None
                if source is None:
                    continue
                if member.size > LARGEST_FILE:
                    raise UsageError(
                        f"{archive}: {name} is {member.size:,} bytes, which no file of a data set is"
                    )
                wanted.discard(name)
                fresh = Path(private) / name
                with fresh.open("wb") as target:
                    shutil.copyfileobj(source, target)
                found[name] = md5_of(fresh)
                os.replace(fresh, folder / name)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{archive}: cannot be unpacked ({error})") from None
    if wanted:
        raise UsageError(f"{archive}: lacks {', '.join(sorted(wanted))}")
    return found
