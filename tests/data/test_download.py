"""Files are verified and remembered, unpacked and fetched. Every host here is this machine."""

import gzip
import hashlib
import io
import json
import os
import socket
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from datafiles import EDITS, FUZZ, edited, little_memory, md5, survive, tar_of
from skiplab.data import download
from skiplab.data.download import Published, extract, host_of, verify
from skiplab.errors import UsageError
from skiplab.locations import cache_folder, default_root

# 102,400 bytes, more than any buffer on the way holds.
CONTENT = bytes(range(256)) * 400


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def _by_ourselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has a cache of its own, no mirror, data folder or proxy from outside.

    The sockets' default timeout is put back.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("SKIPLAB_MIRROR", raising=False)
    monkeypatch.delenv("SKIPLAB_DATA", raising=False)
    timeout = socket.getdefaulttimeout()
    yield
    socket.setdefaulttimeout(timeout)


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Be another user for a moment: nothing is read-only for root, as whom containers often run."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root here, and nobody else to be")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user reaches, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


# --------------------------------------------------------------------------------------------------
# The folders


def test_the_data_root_is_ours_unless_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder() == default_root() == tmp_path / "cache/skiplab"
    monkeypatch.setenv("SKIPLAB_DATA", "/data")
    assert default_root() == Path("/data")
    assert cache_folder() == tmp_path / "cache/skiplab"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/skiplab"


# --------------------------------------------------------------------------------------------------
# Verification


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    return path


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed from now on."""
    seen: list[Path] = []

    def counted(path: Path, of_old: Callable[[Path], str] = download.md5_of) -> str:
        seen.append(path)
        return of_old(path)

    monkeypatch.setattr(download, "md5_of", counted)
    return seen


def changed_under_its_times(path: Path) -> None:
    """Other bytes, same size and mtime."""
    stat = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def assert_damaged(path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        verify(path, md5(CONTENT))
    assert str(caught.value) == (
        f"{path}: damaged: its MD5 is {md5(path.read_bytes())}, "
        f"the published one is {md5(CONTENT)}; "
        "delete the file and it is fetched again"
    )


def test_md5_of_a_file(data_file: Path) -> None:
    assert download.md5_of(data_file) == md5(CONTENT)


def test_a_good_verdict_is_remembered_and_the_file_not_read_again(
    data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reads(monkeypatch)
    for _ in range(3):
        verify(data_file, md5(CONTENT))
    assert read == [data_file]
    verify(data_file, md5(CONTENT), reread=True)
    assert len(read) == 2


def test_a_file_that_is_overwritten_under_the_same_size_and_mtime_is_found_out(
    data_file: Path,
) -> None:
    """This holds even within one step of the file system's clock after the verdict."""
    for _ in range(20):
        verify(data_file, md5(CONTENT))
        changed_under_its_times(data_file)
        assert_damaged(data_file)
        changed_under_its_times(data_file)


@pytest.mark.parametrize(
    ("published", "said"),
    [(100, "the published file has 100"), (None, "which no file of a data set has")],
)
def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: int | None, said: str
) -> None:
    read, path = reads(monkeypatch), tmp_path / "sparse.bin"
    path.touch()
    os.truncate(path, 12 * 10**9)
    with pytest.raises(UsageError, match=f"sparse.bin: damaged: 12,000,000,000 bytes, {said}"):
        verify(path, md5(CONTENT), size=published)
    assert read == []


def test_what_a_gzip_file_holds_may_be_verified_instead(tmp_path: Path) -> None:
    path = tmp_path / "data.gz"
    for content, is_good in (
        (CONTENT, True),
        (CONTENT[1:], False),
        (CONTENT + b"x", False),
        (CONTENT * 50, False),
    ):
        path.write_bytes(gzip.compress(content, 1))
        if is_good:
            verify(path, md5(b"the published archive"), unpacked=(md5(CONTENT), len(CONTENT)))
        else:
            with pytest.raises(UsageError, match="damaged"):
                verify(path, md5(b"the published archive"), unpacked=(md5(CONTENT), len(CONTENT)))
    path.write_bytes(gzip.compress(CONTENT)[:-20])
    assert download.md5_unpacked(path, size=len(CONTENT)) is None


def test_a_changed_mtime_or_size_is_checked_again(data_file: Path) -> None:
    verify(data_file, md5(CONTENT))
    stat = data_file.stat()
    changed_under_its_times(data_file)
    os.utime(data_file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert_damaged(data_file)
    data_file.write_bytes(CONTENT + b"x")
    os.utime(data_file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_damaged(data_file)
    data_file.write_bytes(CONTENT)
    verify(data_file, md5(CONTENT))


def test_a_verdict_counts_for_its_md5_only(data_file: Path) -> None:
    verify(data_file, md5(CONTENT))
    with pytest.raises(UsageError, match="damaged"):
        verify(data_file, md5(b"another file"))
    verify(data_file, md5(CONTENT))


def test_a_bad_verdict_is_not_remembered(data_file: Path) -> None:
    changed_under_its_times(data_file)
    assert_damaged(data_file)
    # The second change undoes the first.
    changed_under_its_times(data_file)
    verify(data_file, md5(CONTENT))


def test_verdicts_of_several_files_live_side_by_side_under_resolved_paths(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(CONTENT)
    link = tmp_path / "link.bin"
    link.symlink_to(data_file)
    for path in (link, other):
        verify(path, md5(CONTENT))
    read = reads(monkeypatch)
    # The file was verified by its other name.
    verify(data_file, md5(CONTENT))
    assert read == []
    assert set(json.loads((cache_folder() / "verified.json").read_text())) == {
        str(data_file),
        str(other),
    }
    assert names_in(cache_folder()) == ["verified.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b'{"x": 3}'])
def test_a_damaged_memory_is_replaced(data_file: Path, content: bytes) -> None:
    cache_folder().mkdir(parents=True)
    memory = cache_folder() / "verified.json"
    memory.write_bytes(content)
    verify(data_file, md5(CONTENT))
    assert json.loads(memory.read_text())[str(data_file)][2] == md5(CONTENT)


def test_a_cache_that_cannot_be_written_is_harmless(
    data_file: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(data_file / "below-a-file"))
    verify(data_file, md5(CONTENT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_folder))
    shared = open_folder / "data.bin"
    shared.write_bytes(CONTENT)
    open_folder.chmod(0o555)
    with as_plain_user():
        verify(shared, md5(CONTENT))
    assert names_in(open_folder) == ["data.bin"]


def test_a_memory_that_cannot_be_replaced_leaves_nothing_behind(data_file: Path) -> None:
    (cache_folder() / "verified.json").mkdir(parents=True)
    verify(data_file, md5(CONTENT))
    assert names_in(cache_folder()) == ["verified.json"]


def test_verify_names_a_file_that_cannot_be_read(tmp_path: Path, open_folder: Path) -> None:
    with pytest.raises(UsageError, match="absent: cannot be read"):
        verify(tmp_path / "absent", md5(CONTENT))
    secret = open_folder / "secret"
    secret.write_bytes(CONTENT)
    secret.chmod(0)
    with (
        as_plain_user(),
        pytest.raises(UsageError, match=r"secret: cannot be read \(Permission denied\)"),
    ):
        verify(secret, md5(CONTENT))


# --------------------------------------------------------------------------------------------------
# Unpacking


def member(
    name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, target, len(content), 0o4777
    return info, content


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The folder to unpack into, two levels down, so that `..` has somewhere to go."""
    folder = tmp_path / "above/target"
    folder.mkdir(parents=True)
    return folder


def assert_refused(archive: Path, folder: Path, wanted: list[str], said: str) -> None:
    """The archive is refused in one line that names it, and no temporary file is left."""
    with pytest.raises(UsageError) as caught:
        extract(archive, folder, wanted)
    message = str(caught.value)
    assert message.startswith(f"{archive}: ")
    assert said in message
    assert "\n" not in message
    assert set(names_in(folder)) <= set(wanted)


def test_extract_writes_the_wanted_members_only(tmp_path: Path, target: Path) -> None:
    archive = archive_of(
        tmp_path / "a.tar.gz",
        member("folder", kind=tarfile.DIRTYPE),
        member("folder/one.bin", CONTENT),
        member("folder/readme.html", b"hello"),
        member("two.bin", b"two"),
        member("folder/one.bin", b"the first one counts"),
    )
    extract(archive, target, ["one.bin", "two.bin"])
    assert names_in(target) == ["one.bin", "two.bin"]
    assert (target / "one.bin").read_bytes() == CONTENT
    assert (target / "two.bin").read_bytes() == b"two"
    # The archive's set-user-id and execute bits are not taken over.
    assert (target / "one.bin").stat().st_mode & 0o7111 == 0


def test_extract_refuses_a_member_that_no_data_set_has(tmp_path: Path, target: Path) -> None:
    header = tarfile.TarInfo("one.bin")
    header.size = 2**40
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(header.tobuf() + bytes(1024)))
    assert_refused(
        archive,
        target,
        ["one.bin"],
        "one.bin is 1,099,511,627,776 bytes, which no file of a data set is",
    )


def test_extract_replaces_what_is_there_links_included(tmp_path: Path, target: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (target / "one.bin").symlink_to(outside)
    (target / "two.bin").write_bytes(b"old")
    extract(
        archive_of(tmp_path / "a.tar.gz", member("one.bin", b"1"), member("two.bin", b"2")),
        target,
        ["one.bin", "two.bin"],
    )
    assert outside.read_bytes() == b"mine"
    assert not (target / "one.bin").is_symlink()
    assert [(target / name).read_bytes() for name in names_in(target)] == [b"1", b"2"]


@pytest.mark.parametrize(
    "name",
    [
        "../one.bin",
        "../../one.bin",
        "a/../../one.bin",
        "/one.bin",
        "/etc/one.bin",
        "{target}/../one.bin",
    ],
)
def test_extract_takes_no_path_from_the_archive(tmp_path: Path, target: Path, name: str) -> None:
    """A member lands under its last part in the folder, wherever its name points."""
    archive = archive_of(
        tmp_path / "a.tar.gz",
        member(name.format(target=target), b"x"),
        member("../evil.bin", b"evil"),
    )
    extract(archive, target, ["one.bin"])
    assert (target / "one.bin").read_bytes() == b"x"
    found = sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    )
    assert found == ["a.tar.gz", "above/target/one.bin"]


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
    ],
    ids=str,
)
def test_extract_takes_regular_files_only(tmp_path: Path, target: Path, kind: bytes) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    archive = archive_of(
        tmp_path / "a.tar.gz",
        member("two.bin", b"2"),
        member("one.bin", kind=kind, target=str(tmp_path / "secret")),
    )
    assert_refused(archive, target, ["one.bin", "two.bin"], "lacks one.bin")
    assert names_in(target) == ["two.bin"]


def test_extract_does_not_follow_a_link_member_to_a_later_file(
    tmp_path: Path, target: Path
) -> None:
    """A link called `folder` leads elsewhere, and a file below it would be written there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = archive_of(
        tmp_path / "a.tar.gz",
        member("folder", kind=tarfile.SYMTYPE, target=str(outside)),
        member("folder/one.bin", b"x"),
    )
    extract(archive, target, ["one.bin"])
    assert names_in(outside) == []
    assert names_in(target) == ["one.bin"]


def test_extract_names_all_that_is_missing(tmp_path: Path, target: Path) -> None:
    archive = archive_of(
        tmp_path / "a.tar.gz", member("two.bin", b"2"), member("one.bin.bak", b"1")
    )
    assert_refused(archive, target, ["three.bin", "two.bin", "one.bin"], "lacks one.bin, three.bin")


GOOD = io.BytesIO()
with tarfile.open(fileobj=GOOD, mode="w:gz") as _tar:
    # 64 KiB that compress badly at first.
    _noise = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(256)) * 8
    for _info, _content in (member("one.bin", _noise), member("two.bin", _noise)):
        _tar.addfile(_info, io.BytesIO(_content))
PACKED = GOOD.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        gzip.compress(b"gzip, but no tar"),
        gzip.decompress(PACKED),
        PACKED[:5],
        PACKED[: len(PACKED) // 4],
        PACKED[: len(PACKED) // 2] + bytes(100) + PACKED[len(PACKED) // 2 + 100 :],
        gzip.compress(gzip.decompress(PACKED)[:40_000]),
    ],
    ids=[
        "empty",
        "text",
        "gzip of text",
        "not packed",
        "only a header",
        "cut off",
        "damaged",
        "tar cut off",
    ],
)
def test_extract_refuses_what_cannot_be_unpacked(
    tmp_path: Path, target: Path, content: bytes
) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(content)
    assert_refused(archive, target, ["one.bin", "two.bin"], "cannot be unpacked")


def test_extract_names_an_archive_that_is_not_there(tmp_path: Path, target: Path) -> None:
    assert_refused(tmp_path / "absent.tar.gz", target, ["one.bin"], "cannot be unpacked")


MEMBERS = {f"part_{i}.bin": (bytes([i]) + bytes([i]) * 3072) * 2 for i in range(3)}
SMALL = tar_of({**MEMBERS, "readme.html": b"hello"})


def test_fuzz_tar(tmp_path: Path) -> None:
    @FUZZ
    @given(edits=EDITS, inside=st.booleans())
    def fuzz(edits: list[tuple[int, bytes, int]], inside: bool) -> None:
        content = gzip.compress(edited(plain, edits), 1) if inside else edited(SMALL, edits)
        survive(lambda path: extract(path, target, [*MEMBERS]), tmp_path / "small.tar.gz", content)
        assert {path.name for path in target.iterdir()} <= MEMBERS.keys()

    target = tmp_path / "target"
    target.mkdir()
    plain = gzip.decompress(SMALL)
    with little_memory(1 << 29):
        fuzz()


# --------------------------------------------------------------------------------------------------
# Fetching

Answer = Callable[[BaseHTTPRequestHandler], None]


class LocalServer(ThreadingHTTPServer):
    """A server that answers every GET by `answer`, and counts them."""

    def __init__(self, answer: Answer):
        requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = requests
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        # Some of these tests want a client that has hung up.
        pass


Serve = Callable[[Answer], LocalServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server with the given answer; all of them are stopped after the test."""
    running: list[tuple[LocalServer, threading.Thread]] = []

    def start(answer: Answer) -> LocalServer:
        server = LocalServer(answer)
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def sends(content: bytes, *, length: int | None = None) -> Answer:
    """An answer of `content`, under a Content-Length that may be a lie."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def not_found(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 smtp.example ESMTP ready\r\n")


def closed_port() -> str:
    """The URL of a port of this machine where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def published(*hosts: str) -> Published:
    return Published("set/raw", "data.gz", md5(CONTENT), hosts or ("http://127.0.0.1:9",))


def failure(root: Path, file: Published) -> str:
    """Return the message of a download that must fail and leave nothing behind.

    It says what was tried and what to do.
    """
    with pytest.raises(UsageError) as caught:
        download.download(file, root, dataset="mnist")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        f"mnist: data.gz is not in {root / 'set/raw'} and could not be fetched from "
    )
    for url in file.urls():
        assert f"{host_of(url)} (" in message
    assert message.endswith(
        "$SKIPLAB_MIRROR to a host that serves data.gz; dataset=digits needs no download"
    )
    assert not (root / "set").exists()
    assert socket.getdefaulttimeout() is None
    return message


def test_the_mirror_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    file = published("http://127.0.0.1:1/a/", "http://127.0.0.1:2")
    assert file.urls() == ["http://127.0.0.1:1/a/data.gz", "http://127.0.0.1:2/data.gz"]
    monkeypatch.setenv("SKIPLAB_MIRROR", "http://127.0.0.1:3/mirror/")
    assert file.urls() == [
        "http://127.0.0.1:3/mirror/data.gz",
        "http://127.0.0.1:1/a/data.gz",
        "http://127.0.0.1:2/data.gz",
    ]


def test_download_from_the_mirror(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(sends(CONTENT))
    monkeypatch.setenv("SKIPLAB_MIRROR", f"{server.url}/mirror/")
    path = download.download(published(), tmp_path / "root", dataset="mnist")
    assert path == tmp_path / "root/set/raw/data.gz"
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == ["data.gz"]
    assert set(server.requests) == {"/mirror/data.gz"}
    assert socket.getdefaulttimeout() is None


def test_download_follows_a_redirect(tmp_path: Path, serve: Serve) -> None:
    server = serve(sends(CONTENT))

    def moved(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{server.url}/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    assert (
        download.download(published(serve(moved).url), tmp_path, dataset="mnist").read_bytes()
        == CONTENT
    )


def test_download_refused_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPLAB_MIRROR", closed_port())
    assert (
        failure(tmp_path, published(closed_port(), closed_port())).count("Connection refused") == 3
    )


def test_download_not_found(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPLAB_MIRROR", serve(not_found).url)
    assert "(Not Found)" in failure(tmp_path, published(closed_port()))


def test_download_cut_off_in_the_middle(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPLAB_MIRROR", serve(sends(CONTENT[:50_000], length=len(CONTENT))).url)
    assert "(not the published file: cut off or changed)" in failure(
        tmp_path, published(closed_port())
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>please log in</html>", CONTENT[:-1] + b"x"],
    ids=["nothing", "a page", "one byte"],
)
def test_download_of_wrong_bytes(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("SKIPLAB_MIRROR", serve(sends(content)).url)
    assert "(not the published file: cut off or changed)" in failure(
        tmp_path, published(closed_port())
    )


def test_download_from_what_speaks_no_http(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPLAB_MIRROR", serve(no_http).url)
    assert "220 smtp.example" in failure(tmp_path, published(closed_port()))


BAD_MIRRORS = {
    "mirror.example": "unknown url type",
    "/mnt/mirror": "unknown url type",
    "nonsense://127.0.0.1": "unknown url type",
    "http://": "no host given",
    "http://[::1": "Invalid IPv6 URL",
    "http://a b": "URL can't contain control characters",
}


@pytest.mark.parametrize("mirror", BAD_MIRRORS)
def test_download_from_a_mirror_that_is_no_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("SKIPLAB_MIRROR", mirror)
    assert BAD_MIRRORS[mirror] in failure(tmp_path, published(closed_port()))


@pytest.mark.parametrize(
    "sent", [None, 0, 50_000], ids=["before the headers", "after the headers", "in the middle"]
)
def test_download_from_a_host_that_stalls(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, sent: int | None
) -> None:
    given_up = threading.Event()

    def stall(handler: BaseHTTPRequestHandler) -> None:
        if sent is not None:
            sends(CONTENT[:sent], length=len(CONTENT))(handler)
            handler.wfile.flush()
        given_up.wait(20)

    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    monkeypatch.setenv("SKIPLAB_MIRROR", serve(stall).url)
    try:
        assert "timed out" in failure(tmp_path, published(closed_port()))
    finally:
        given_up.set()


@pytest.mark.parametrize(
    "bad",
    [not_found, no_http, sends(b"wrong"), sends(CONTENT[:9], length=99)],
    ids=["404", "smtp", "wrong", "cut"],
)
def test_download_falls_back_to_the_next_host(tmp_path: Path, serve: Serve, bad: Answer) -> None:
    first, second, third = serve(bad), serve(sends(CONTENT)), serve(sends(CONTENT))
    path = download.download(
        published(closed_port(), first.url, second.url, third.url), tmp_path, dataset="mnist"
    )
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == ["data.gz"]
    assert first.requests
    assert second.requests
    assert not third.requests


def test_two_downloads_at_once(tmp_path: Path, serve: Serve) -> None:
    """No answer is completed before all four requests are in.

    Each download asks twice, because torchvision looks for redirects first.
    """
    all_here = threading.Barrier(4)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        sends(CONTENT[:50_000], length=len(CONTENT))(handler)
        handler.wfile.flush()
        all_here.wait(20)
        handler.wfile.write(CONTENT[50_000:])

    file = published(serve(answer).url)
    with ThreadPoolExecutor(2) as pool:
        paths = list(
            pool.map(lambda _: download.download(file, tmp_path, dataset="mnist"), range(2))
        )
    assert paths == [tmp_path / "set/raw/data.gz"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert names_in(tmp_path / "set/raw") == ["data.gz"]


def test_download_into_a_read_only_root(open_folder: Path, serve: Serve) -> None:
    server = serve(sends(CONTENT))
    open_folder.chmod(0o555)
    with as_plain_user(), pytest.raises(UsageError) as caught:
        download.download(published(server.url), open_folder, dataset="mnist")
    assert str(caught.value).startswith(
        f"{open_folder / 'set/raw'}: data.gz is not there "
        "and cannot be put there (Permission denied); "
    )
    assert str(caught.value).endswith("; dataset=digits needs no download")
    assert server.requests == []
    assert names_in(open_folder) == []


def test_download_into_a_root_that_is_a_file(tmp_path: Path, serve: Serve) -> None:
    server = serve(sends(CONTENT))
    (tmp_path / "root").write_bytes(b"")
    with pytest.raises(UsageError, match=r"cannot be put there .*dataset=digits needs no download"):
        download.download(published(server.url), tmp_path / "root", dataset="mnist")
    assert server.requests == []
