"""Verify files against published checksums, fetch them from their hosts, unpack archives."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from skiplab.errors import UsageError
from skiplab.locations import cache_folder, check_kind

# Bytes of a file or an archive of a data set, at most. CIFAR's archives have 170 million.
LARGEST_FILE = 2**28
# Seconds, more than a file system's clock steps by. Two writes within a step leave the same time.
TICK = 0.02
# Seconds without a byte before a host counts as unreachable.
TIMEOUT = 30
# Times that a folder is made again after another process has removed it.
FOLDER_ATTEMPTS = 9
# Whether a missing file is fetched.
_is_allowed = ContextVar("is_allowed", default=True)


@dataclass(frozen=True)
class Published:
    """One file that can be fetched: its folder under the root, name, published MD5 and hosts.

    A host is a URL; the file's name comes behind it.
    """

    folder: str
    name: str
    md5: str
    hosts: tuple[str, ...]

    def urls(self) -> list[str]:
        """Return the URLs to try, in order.

        $SKIPLAB_MIRROR, a URL that serves the files by name, comes first.
        """
        mirror = os.environ.get("SKIPLAB_MIRROR")
        hosts = (mirror, *self.hosts) if mirror else self.hosts
        return [f"{host.rstrip('/')}/{self.name}" for host in hosts]


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_unpacked(path: Path, *, size: int) -> str | None:
    """Return the MD5 of what a gzip file holds.

    Returns None if it is no whole gzip file or unpacks to more than `size` bytes.
    """
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
    reread: bool = False,
) -> None:
    """Raise UsageError unless the file has the published MD5.

    A file that is larger than `size` bytes is not read. `unpacked` is the published MD5 and the
    size of what a gzip file holds; one that was packed again is as good. A good verdict is
    remembered by path, size, and the times of the last write and change; `reread` reads the file
    even so.
    """
    try:
        check_kind(path)
        stat = path.stat()
        check_size(path, stat.st_size, size)
        key = str(path.resolve())
        fact = [stat.st_size, stat.st_mtime_ns, md5, stat.st_ctime_ns]
        if not reread and read_memory().get(key) == fact:
            return
        # Wait, so that whatever is written later has another time.
        time.sleep(min(TICK, max(0, TICK - (time.time() - stat.st_ctime))))
        actual = md5_of(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if actual != md5 and (unpacked is None or md5_unpacked(path, size=unpacked[1]) != unpacked[0]):
        raise UsageError(
            f"{path}: damaged: its MD5 is {actual}, the published one is {md5}; "
            "delete the file and it is fetched again"
        )
    remember(key, fact)


def check_size(path: Path, found: int, published: int | None, *, exact: bool = False) -> None:
    """Raise UsageError, before a file is read, if it has more bytes than the published one.

    Without a published size, the limit is LARGEST_FILE. `exact` refuses fewer bytes too.
    """
    most = LARGEST_FILE if published is None else published
    is_too_small = exact and published is not None and found < published
    if found <= most and not is_too_small:
        return
    if published is None:
        rule = "which no file of a data set has"
    else:
        rule = f"the published file has {published:,}"
    raise UsageError(
        f"{path}: damaged: {found:,} bytes, {rule}; delete the file and it is fetched again"
    )


def read_memory() -> dict[str, Any]:
    """Read what is remembered in the cache folder; empty if nothing is.

    Verdicts of verify() are path -> [size, mtime, MD5, ctime]. cache.py and remember_members() add
    entries of their own.
    """
    path = cache_folder() / "verified.json"
    try:
        verdicts = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return verdicts if isinstance(verdicts, dict) else {}


def remember(key: str, fact: object) -> None:
    """Add an entry to the memory, if the cache folder can be written."""
    path = cache_folder() / "verified.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".verified-") as private:
            fresh = Path(private) / path.name
            fresh.write_text(json.dumps(read_memory() | {key: fact}, indent=1))
            os.replace(fresh, path)
    except OSError:
        # Without the memory a run takes half a second longer, no more.
        pass


def read_members(archive_md5: str) -> dict[str, str]:
    """Return the remembered MD5 of the files in a published archive, by name.

    Returns nothing if no archive with this MD5 was ever unpacked here.
    """
    found = read_memory().get(f"archive {archive_md5}")
    if isinstance(found, dict) and all(isinstance(md5, str) for md5 in found.values()):
        return found
    return {}


def remember_members(archive_md5: str, members: dict[str, str]) -> None:
    """Remember the MD5 of the files in a published archive, for which none is published."""
    remember(f"archive {archive_md5}", members)


def ensure_writable(folder: Path, name: str, wanted: str) -> None:
    """Make `folder`, or raise UsageError: `name` cannot be put there, and what is `wanted` now."""
    try:
        with make_private_folder(folder, ".probe-"):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder}: {name} is not there and cannot be put there ({error.strerror}); {wanted}"
        ) from None


def make_private_folder(folder: Path, prefix: str) -> "tempfile.TemporaryDirectory[str]":
    """Make `folder`, and in it a temporary folder for this process only.

    Another process that has fetched nothing may remove `folder` while it is empty, so try again.
    """
    for _ in range(FOLDER_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return tempfile.TemporaryDirectory(dir=folder, prefix=prefix)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


@contextmanager
def forbidden() -> Iterator[None]:
    """Fetch nothing inside the `with`: a file that is missing is an error at once."""
    token = _is_allowed.set(False)
    try:
        yield
    finally:
        _is_allowed.reset(token)


def download(file: Published, root: Path, *, dataset: str, missing: str = "") -> Path:
    """Fetch `file` into its folder under `root`.

    It is checked before it gets its name, so two runs do not disturb each other. `missing` says
    which files of a data set would come with this one. Raises UsageError with everything that was
    tried.
    """
    folder = root / file.folder
    if not _is_allowed.get():
        raise UsageError(f"{dataset}: {file.name} is not in {folder}")
    by_hand = (
        "put it there by hand, set dataset.root to a folder in torchvision's layout, "
        f"or $SKIPLAB_MIRROR to a host that serves {file.name}; "
        "dataset=digits needs no download"
    )
    wanted = f"{missing}; {file.name}" if missing else file.name
    download_url = import_download_url(wanted, by_hand)
    fresh = [each for each in (folder, *folder.parents) if not each.exists()]
    ensure_writable(folder, wanted, by_hand)

    tried = []
    with make_private_folder(folder, ".download-") as private:
        for url in file.urls():
            print(f"fetching {url}")
            fetched = Path(private) / file.name
            reason = fetch(download_url, url, fetched, folder / file.name, md5=file.md5)
            if reason is None:
                return folder / file.name
            tried.append(f"{host_of(url)} ({reason})")
            fetched.unlink(missing_ok=True)
    # Leave no empty folders where there were none.
    for each in fresh:
        with suppress(OSError):
            each.rmdir()
    said = f"{missing}; " if missing else ""
    raise UsageError(
        f"{dataset}: {said}{file.name} is not in {folder} "
        f"and could not be fetched from {', '.join(tried)}; {by_hand}"
    )


def fetch(
    download_url: Callable[..., None], url: str, fetched: Path, path: Path, *, md5: str
) -> str | None:
    """Fetch a URL to `fetched`, check it, and move it to `path`. Returns None, or why it failed."""
    timeout = socket.getdefaulttimeout()
    try:
        # Torchvision's utility sets no timeout and would wait for ever.
        socket.setdefaulttimeout(TIMEOUT)
        download_url(url, str(fetched.parent), filename=fetched.name, md5=md5)
        os.replace(fetched, path)
    except RuntimeError:
        return "not the published file: cut off or changed"
    # URLError, timeouts and resets; an answer that is not HTTP; a mirror that is not a URL.
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        said = getattr(reason, "strerror", None) or str(reason)
        # Some messages end in a line break.
        return " ".join(said.split())
    finally:
        socket.setdefaulttimeout(timeout)
    return None


def import_download_url(name: str, by_hand: str) -> Callable[..., None]:
    """Import torchvision's `download_url`. This takes 2 s, so call it only to fetch something.

    Raises UsageError where torchvision is missing, or belongs to another torch: its operators or
    symbols are then not found.
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
    """Return the host in a URL, or all of it where there is none."""
    return url.split("/")[2] if "://" in url else url


def extract(archive: Path, folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Unpack the members whose last part is in `names` into `folder`. Returns their MD5, by name.

    Names, links and modes in the archive decide nothing: bytes of regular files go to names of
    ours, atomically. Raises UsageError if the archive is damaged or lacks a member.
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
                        f"{archive}: {name} is {member.size:,} bytes, "
                        "which no file of a data set is"
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
