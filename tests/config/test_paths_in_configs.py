"""dataset.root and init_from: absolute in a config, and refused where nobody reads them."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from helpers import SMALL, Cli, compose
from skiplab import evaluate
from skiplab.config import compose as composition, overrides, validate
from skiplab.config.schema import Config
from skiplab.config.stored import dump, identity, load
from skiplab.data import cache, splits
from skiplab.data.arrays import Arrays
from skiplab.data.catalog import DATASETS, Dataset
from skiplab.data.digits import read_digits
from skiplab.errors import UsageError
from skiplab.locations import cache_folder
from skiplab.runs import folders

SHORT = (*SMALL, "epochs=1", "trainer.limit_steps=2")


def stored(folder: Path) -> Config:
    return load(folder / folders.CONFIG)


def made(call: Cli, *arguments: str) -> Path:
    """Make the folder of a run that ended well."""
    code, out, err = call(*SHORT, *arguments)
    assert (code, err) == (0, "")
    return Path(out.splitlines()[0].removeprefix("run folder "))


# --------------------------------------------------------------------------------------------------
# Paths


def test_every_way_to_a_config_makes_its_paths_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    texts = ("dataset=mnist", "dataset.root=../data", "init_from='~/run'")
    overrides.check(texts, multirun=False)
    for config in (
        compose(*texts),
        composition.compose_config(texts),
        *composition.compose_all([[*texts, "seed=1"]]),
    ):
        assert config.dataset.root == str(tmp_path.parent / "data")
        assert config.init_from == str(tmp_path / "home/run")
    python = json.loads(json.dumps(asdict(compose("dataset=mnist"))))
    python["dataset"]["root"] = "here"
    assert validate.check(python).dataset.root == str(tmp_path / "here")


def test_one_place_makes_one_identity_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    first = identity(compose("init_from=run"))
    assert identity(compose(f"init_from={tmp_path}/run")) == first
    monkeypatch.chdir(tmp_path / "sub")
    assert identity(compose("init_from=../run")) == first
    assert identity(compose("init_from=run")) != first
    roots = [
        identity(compose("dataset=mnist", text))
        for text in ("dataset.root=a", "dataset.root=b", "dataset.root=null")
    ]
    assert len(set(roots)) == 1


def test_a_stored_config_keeps_its_relative_paths_and_its_identity(tmp_path: Path) -> None:
    """A run by an earlier release keeps its relative paths."""
    config = replace(compose("dataset=mnist"), init_from="../old")
    config = replace(config, dataset=replace(config.dataset, root="data"))
    (tmp_path / folders.CONFIG).write_text(dump(config))
    assert stored(tmp_path) == config
    assert folders.identity_of(tmp_path) == identity(stored(tmp_path))
    assert overrides.apply_to_stored(config, ["init_from=../old", "dataset.root=data"]) == config
    moved = overrides.apply_to_stored(config, ["dataset.root=other"])
    assert moved == replace(config, dataset=replace(config.dataset, root=str(tmp_path / "other")))
    with pytest.raises(
        UsageError, match=r"init_from=else: cannot change .* \(it has init_from=\.\./old\)"
    ):
        overrides.apply_to_stored(config, ["init_from=else"])
    with pytest.raises(UsageError, match="no home folder is known"):
        overrides.apply_to_stored(config, ["dataset.root='~nosuchuser'"])


def test_a_run_from_weights_goes_on_by_the_same_command_and_elsewhere(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(call, "out=first")
    broken = made(call, "init_from=first", "seed=1")
    assert stored(broken).init_from == str(tmp_path / "first")
    (broken / folders.RESULT).unlink()
    code, out, err = call(*SHORT, "init_from=first", "seed=1")
    assert (code, err) == (0, "")
    assert out.startswith(f"going on with {broken} ")
    (broken / folders.RESULT).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = call(f"resume={tmp_path / broken}", "init_from=../first")
    assert (code, err) == (0, "")


# --------------------------------------------------------------------------------------------------
# A root nobody reads


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("dataset.root=/my/pngs",), "train"),
        (("-m", "dataset.root=/my/pngs", "seed=0,1"), "train"),
        (("--cfg", "job", "dataset.root=/my/pngs"), "train"),
        (("verify", "dataset.root=/my/pngs"), "skiplab"),
        (("search", "depth=1,2", "dataset.root=/my/pngs"), "skiplab"),
    ],
)
def test_a_root_that_no_data_set_reads_is_refused(
    call: Cli, arguments: tuple[str, ...], command: str
) -> None:
    code, _, err = call(*arguments, command=command)
    assert code == 2
    assert err.startswith(
        "error: dataset.root=/my/pngs: dataset=digits comes with a package and reads no folder; "
    )
    assert err.count("\n") == 1


def test_a_run_on_digits_gets_no_root_on_its_way(call: Cli) -> None:
    folder = made(call, "out=run")
    before = (folder / folders.CONFIG).read_bytes()
    code, _, err = call("resume=run", "dataset.root=/my/pngs", "trainer.limit_steps=3")
    assert code == 2
    assert err.startswith("error: dataset.root=/my/pngs: dataset=digits ")
    assert (folder / folders.CONFIG).read_bytes() == before


def test_a_root_for_some_cells_of_a_sweep_is_taken() -> None:
    overrides.check(["dataset=digits,mnist", "dataset.root=/data"], multirun=True)
    overrides.check(["dataset.root=null"], multirun=False)
    with pytest.raises(UsageError, match="reads no folder"):
        overrides.check(["dataset=digits", "dataset.root=/data", "seed=0,1"], multirun=True)


def test_a_root_that_conf_or_the_environment_gives_does_digits_no_harm(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = asdict(compose())
    for root in ("/data", "~nosuchuser", "a" * 300):
        tree["dataset"]["root"] = root
        assert validate.check(tree).dataset.root == root
        monkeypatch.setenv("SKIPLAB_DATA", root)
        assert validate.check(asdict(compose())).dataset.root is None
    made(call)


# --------------------------------------------------------------------------------------------------
# What was read is written


def test_a_test_set_that_cannot_be_read_leaves_no_line(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(call, "out=run")
    ledger = folder / "test_reads.jsonl"
    assert len(ledger.read_text().splitlines()) == 1
    split = splits.load

    def broken(*arguments: Any, **options: Any) -> Any:
        raise UsageError("the files are gone")

    monkeypatch.setattr(splits, "load", broken)
    code, _, err = call("evaluate", "run", command="skiplab")
    assert (code, err) == (2, "error: the files are gone\n")
    assert len(ledger.read_text().splitlines()) == 1
    monkeypatch.setattr(splits, "load", split)
    assert call("evaluate", "run", command="skiplab")[0] == 0
    assert len(ledger.read_text().splitlines()) == 2


def test_the_line_is_there_before_anything_is_made_of_the_test_set(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(call, "out=run")

    def broken(*_arguments: Any) -> Any:
        raise UsageError("no predictions")

    monkeypatch.setattr(evaluate, "predictions_on", broken)
    assert call("evaluate", "run", command="skiplab")[0] == 2
    assert len((folder / "test_reads.jsonl").read_text().splitlines()) == 2


# --------------------------------------------------------------------------------------------------
# What was trained on is true


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a root with digits under the file names of MNIST: decoded once, then mapped."""
    root = tmp_path / "data"
    root.mkdir()
    for split in ("train", "test"):
        arrays = read_digits(Path(), split)
        (root / split).write_bytes(arrays.images.tobytes() + arrays.labels.tobytes())

    def read(root: Path, split: str) -> Arrays:
        arrays = read_digits(Path(), split)
        return Arrays(arrays.images, arrays.labels, root / split)

    made_up = Dataset(
        lambda _root, split: read(root, split),
        find_files=lambda _root, split: [root / split],
    )
    monkeypatch.setitem(DATASETS, "digits", made_up)
    return root


def test_a_run_never_trains_on_an_overwritten_cache(call: Cli, small_mnist: Path) -> None:
    first = json.loads((made(call, "out=first") / folders.RESULT).read_text())
    for split in ("train", "test"):
        path = cache_folder() / f"digits-{split}.decoded"
        stat = path.stat()
        with path.open("r+b") as file:
            file.write(bytes(10_000))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = json.loads((made(call, "out=second") / folders.RESULT).read_text())
    assert (
        second["data_sha256"]
        == first["data_sha256"]
        == cache.digest_of(read_digits(Path(), "train"))
    )
    assert second["test"] == first["test"]
    assert second["best_val_loss"] == first["best_val_loss"]


def test_files_that_are_read_unverified_are_told(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = Dataset(
        read_digits, find_unverified=lambda _root, split: [Path(f"/data/{split}.bin")]
    )
    monkeypatch.setitem(DATASETS, "digits", trusted)
    folder = made(call, "out=run")
    told = "note: /data/train.bin, /data/test.bin read unverified; only "
    assert (folder / folders.LOG).read_text().count(told) == 1
