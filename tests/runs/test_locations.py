"""Paths that a user or the environment names: what is expanded, what is refused in one line.

Also where a cache goes without a home folder.
"""

import os
import pwd
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from helpers import SMALL, Cli
from skiplab import locations
from skiplab.data import download
from skiplab.errors import UsageError


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take away $HOME and the entry in passwd, as under a user id that nobody has.

    Returns where temporary folders go.
    """

    def unknown(_id: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SKIPLAB_DATA", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def refusal(text: str, key: str = "dataset.root") -> str:
    with pytest.raises(UsageError) as caught:
        locations.data_root(text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{key}=")
    return message


def test_a_path_becomes_absolute_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = {
        "../run": "run",
        "run": "here/run",
        ".": "here",
        "~/data": "data",
        "~": "",
        "./~x": "here/~x",
        "a//b/./c": "here/a/b/c",
    }
    for text, path in expected.items():
        assert locations.absolute(text, key="dataset.root") == str(tmp_path / path), text
    assert locations.absolute("/data", key="dataset.root") == "/data"


def test_dots_after_a_link_lead_where_the_system_goes(tmp_path: Path) -> None:
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "far/data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    assert os.path.samefile(
        locations.absolute("link/../data", key="dataset.root"), tmp_path / "far/data"
    )


@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "a\tb", "a\x1bb", "a\u2028b", "a\udcffb"])
def test_what_no_path_can_hold_is_refused(text: str) -> None:
    assert "line breaks and control characters" in refusal(text)


@pytest.mark.parametrize("text", ["~nosuchuser/x", "~nosuchuser"])
def test_an_unknown_user_is_refused(text: str) -> None:
    assert "no home folder is known for ~nosuchuser" in refusal(text)


@pytest.mark.parametrize("text", ["a" * 300, "/data/" + "b" * 300, "/".join(["c" * 200] * 40)])
def test_a_path_that_is_too_long_is_refused(text: str) -> None:
    message = refusal(text)
    assert "File name too long" in message
    assert len(message) < 300


def test_a_root_is_a_folder_or_is_still_to_be_made(tmp_path: Path) -> None:
    assert locations.data_root("there/not/yet") == tmp_path / "there/not/yet"
    (tmp_path / "file").touch()
    assert "is a file" in refusal("file")
    assert "Not a directory" in refusal("file/below")
    os.mkfifo(tmp_path / "fifo")
    assert "is a FIFO" in refusal("fifo")
    (tmp_path / "gone").symlink_to("nowhere")
    assert "is a link to nowhere, which is not there" in refusal("gone")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be used" in refusal("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert "is a socket" in refusal("socket")
    assert "is a device" in refusal("/dev/null")


def test_the_environments_root_is_named_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for given in ("file", "~nosuchuser", "a" * 300):
        monkeypatch.setenv("SKIPLAB_DATA", given)
        with pytest.raises(UsageError, match=r"^\$SKIPLAB_DATA="):
            locations.default_root()
        assert locations.root_in_words().startswith("none: $SKIPLAB_DATA=")
        assert locations.data_root("other") == tmp_path / "other"
    monkeypatch.delenv("SKIPLAB_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"^\$XDG_CACHE_HOME="):
        locations.default_root()


def test_a_relative_cache_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, expected in (
        ("relative", ".cache/skiplab"),
        ("~nosuchuser", ".cache/skiplab"),
        ("~/mine", "mine/skiplab"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert locations.cache_folder() == tmp_path / expected


def test_without_a_home_the_cache_is_a_private_temporary_folder(homeless: Path) -> None:
    folder = locations.cache_folder()
    assert folder == homeless / f"skiplab-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert locations.cache_folder() == folder
    assert locations.default_root() == folder
    download.remember("key", "fact")
    assert download.read_memory() == {"key": "fact"}


@pytest.mark.parametrize("trap", ["link", "file", "open to all"])
def test_a_temporary_folder_that_another_user_may_fill_is_not_trusted(
    homeless: Path, trap: str
) -> None:
    place = homeless / f"skiplab-{os.geteuid()}"
    if trap == "link":
        (homeless / "foreign").mkdir()
        place.symlink_to(homeless / "foreign")
    elif trap == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777)
    assert locations.cache_folder() == locations.NOWHERE
    download.remember("key", "fact")
    assert download.read_memory() == {}
    assert locations.root_in_words().startswith("none: ")


def test_digits_and_info_run_without_a_home_and_whatever_the_environment_names(
    homeless: Path, call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(*SMALL, "epochs=1", "trainer.limit_steps=2", "out=homeless")
    assert (code, err) == (0, "")
    code, out, _ = call("info", command="skiplab")
    assert code == 0
    assert f"data root  {homeless / f'skiplab-{os.geteuid()}'}" in out
    (homeless / "file").touch()
    monkeypatch.setenv("SKIPLAB_DATA", "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(homeless / "file"))
    code, _, err = call(*SMALL, "epochs=1", "trainer.limit_steps=2", "out=unusable")
    assert (code, err) == (0, "")
    code, out, _ = call("info", command="skiplab")
    assert code == 0
    assert "data root  none: $SKIPLAB_DATA=file: is a file" in out


def test_what_cannot_be_a_root_is_one_line_before_anything_is_made(
    call: Cli, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for arguments, command in (
        (("dataset=mnist",), "train"),
        (("-m", "dataset=mnist", "seed=0,1"), "train"),
        (("verify", "dataset=mnist"), "skiplab"),
        (("search", "dataset=mnist", "depth=1,2"), "skiplab"),
    ):
        code, _, err = call(*arguments, "dataset.root=file", command=command)
        assert (code, err) == (
            2,
            f"error: dataset.root={tmp_path / 'file'}: is a file; a folder is expected\n",
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
