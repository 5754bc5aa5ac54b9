"""`dataset=folder` from the command line to the report: every verb, stops, changed files."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from helpers import Cli
from ownimages import CLASSES, make
from skiplab import build, launch
from skiplab.config import compose, rules
from skiplab.data.catalog import DATASETS

NET = ("dataset=folder", "depth=0", "width=4", "dataset.size=8", "epochs=1", "batch_size=8")
NET += ("optimizer.lr=0.01",)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("photos"), count=15)


def run_folder(out: str) -> Path:
    (line,) = (line for line in out.splitlines() if line.startswith("run folder"))
    return Path(line.removeprefix("run folder "))


def stored(folder: Path) -> dict[str, object]:
    return yaml.safe_load((folder / "config.yaml").read_text())["dataset"]


def reads(folder: Path) -> list[str]:
    lines = (folder / "test_reads.jsonl").read_text().splitlines()
    return [json.loads(line)["by"] for line in lines]


def test_a_run_its_folder_and_every_verb_that_reads_it(call: Cli, photos: Path) -> None:
    code, out, err = call(*NET, f"dataset.root={photos}")
    assert code == 0, err
    assert f"decoding {photos} once: 45 images, 3 classes" in out
    assert "folder: 32 training, 4 validation, 9 test images" in out
    folder = run_folder(out.partition("\n\n")[0])
    values = stored(folder)
    assert values["classes"] == list(CLASSES)
    assert (values["channels"], values["size"]) == (3, "8")
    assert (values["train_images"], values["val_images"], values["test_images"]) == (36, 0, 9)
    result = json.loads((folder / "result.json").read_text())
    assert result["data_sha256"] == values["sha256"]
    assert result["test"]["accuracy"] >= 0
    # Decoding opens no test set; the end of the run does, once.
    assert reads(folder) == ["train"]
    code, out, err = call("evaluate", str(folder), command="skiplab")
    assert (code, "folder test set" in out) == (0, True), err
    code, out, err = call("evaluate", str(folder), "--split", "val", command="skiplab")
    assert (code, "folder validation set" in out) == (0, True), err
    code, _, err = call("draw", str(folder), command="skiplab")
    assert code == 0, err
    assert reads(folder) == ["train", "evaluate", "draw"]
    code, out, err = call(f"resume={folder}", "epochs=2")
    assert code == 0, err
    assert "epochs=2 (was 1)" in out
    assert "decoding" not in out


def test_the_same_command_finds_its_run_until_a_file_changes(
    call: Cli, photos: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    command = (*NET, "dataset.root=photos", "trainer.limit_steps=2", "trainer.max_time=1e-9")
    code, out, _ = call(*command)
    assert code == 7
    folder = run_folder(out)
    code, out, _ = call(*command)
    assert f"going on with {folder.resolve()}" in out or f"going on with {folder}" in out
    (root / "cat/000.png").unlink()
    code, _, err = call(f"resume={folder}")
    assert code == 2
    assert "the images have changed since this run was begun (" in err
    code, out, _ = call(*command)
    assert code == 7
    assert "going on with" not in out
    assert run_folder(out) != folder
    # Put back, and moved: the run means the same images there.
    shutil.copy2(photos / "cat/000.png", root / "cat/000.png")
    root.rename(tmp_path / "moved")
    code, _, err = call(f"resume={folder}", "trainer.max_time=null", "dataset.root=moved")
    assert code == 0, err
    # What was decoded is enough for the verbs.
    (tmp_path / "moved").rename(tmp_path / "gone")
    code, _, err = call("evaluate", str(folder), command="skiplab")
    assert code == 0, err
    code, _, err = call(f"resume={folder}", "epochs=2")
    assert code == 2
    assert "there is no such folder" in err


def test_a_part_for_validation_is_used_and_none_for_the_test_is_told(
    call: Cli, tmp_path: Path
) -> None:
    root = make(tmp_path / "r", parts=("train", "val"), count=6)
    code, out, err = call(*NET, "dataset.root=r")
    assert code == 0, err
    assert f"{root} has no test images, so the report is of the validation set" in out
    assert "so val_fraction=0.1 holds out nothing" in out
    assert "folder: 18 training, 18 validation, 0 test images\n3 steps of 8 images on" in out
    folder = run_folder(out.partition("\n\n")[0])
    assert "folder validation set" in (folder / "report.txt").read_text()
    assert not (folder / "test_reads.jsonl").exists()
    code, _, err = call("evaluate", str(folder), command="skiplab")
    assert code == 2
    assert "has no test images; take --split val" in err
    code, _, err = call(f"resume={folder}", "evaluator.split=test")
    assert code == 2
    assert "has no test images" in err


def test_unreadable_images_stop_the_run_or_are_left_out(call: Cli, tmp_path: Path) -> None:
    root = make(tmp_path / "r", count=6)
    (root / "cat/x.jpg").write_bytes(b"text")
    (root / "dog/y.png").write_bytes((root / "dog/000.png").read_bytes()[:200])
    code, out, err = call(*NET, "dataset.root=r")
    assert code == 2
    assert err.splitlines()[0].startswith(f"error: {root}/cat/x.jpg: is no image")
    assert err.splitlines()[1].startswith(f"error: {root}/dog/y.png: is damaged (")
    assert "2 images cannot be read; mend or remove them, or leave them out by" in err
    assert not Path("outputs").exists()
    code, out, err = call(*NET, "dataset.root=r", "dataset.skip_unreadable=true")
    assert code == 0, err
    assert "note: 2 images left out, since they cannot be read" in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "dataset.root=null: dataset=folder reads images of your own; take"),
        (("dataset.root=none",), "none: there is no such folder"),
        (("dataset.root=file.csv",), "is a file; a folder is expected; did you mean dataset.list="),
        (("dataset.list=none.csv",), "none.csv: there is no such file"),
        (("dataset.root=r", "dataset.list=file.csv"), "leave one of them out"),
        (("dataset.root=r", "dataset.channels=2"), "dataset.channels=2: take 1"),
        (("dataset.root=r", "dataset.size=8x"), "a number of pixels, or HEIGHTxWIDTH, is expected"),
        (("dataset.root=r", "dataset.size=7"), "dataset.size=7: model=deepcnn pools three times"),
        (("dataset.root=r", "dataset.size=16x7"), "dataset.size=16x7: model=deepcnn pools"),
        (("dataset.root=r", "batch_size=64"), "batch_size=64: larger than the training set, 1"),
        (("dataset.root=r", "dataset.classes=[a,b]"), "the images have cat, dog, fish"),
        (("dataset.root=r", "dataset.train_images=3"), "dataset.train_images=3: there are 15"),
        (("dataset.root=r", "dataset.mean=[0.5]"), "dataset.mean=[0.5]: 3 values are expected"),
        (("dataset.root=r", "dataset.resize=8"), "dataset=folder has no such key"),
        (("dataset.root=one",), "dataset.classes=['cat']: at least 2 classes are expected"),
        (("dataset.root=odd",), "'macro avg' is another row of the report"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(
    call: Cli, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    make(tmp_path / "r", count=6)
    Path("file.csv").touch()
    for target, names in (("one", ["cat"]), ("odd", ["cat", "macro avg"])):
        for name in names:
            shutil.copytree(tmp_path / "r/cat", tmp_path / target / name)
    code, _, err = call(*NET, *arguments)
    assert code == 2
    assert reason in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_sweep_over_the_size_is_one_study(call: Cli, photos: Path) -> None:
    command = ("-m", *NET, f"dataset.root={photos}", "dataset.size=8,8x12", "study=s")
    code, out, err = call(*command)
    assert code == 0, err
    assert out.count("decoding") == 2
    assert "2 of 2 cells done" in out
    assert "dataset.size=8x12" in out
    assert "no comparison" not in out
    assert "dataset.mean" not in out
    code, out, _ = call(*command)
    assert code == 0
    assert "2 done before" in out
    assert "decoding" not in out


@pytest.mark.slow
def test_verify_proves_a_folder(call: Cli, photos: Path) -> None:
    what = (*NET, f"dataset.root={photos}", "--steps", "8", "--kills", "2")
    code, out, err = call("verify", *what, command="skiplab")
    assert (code, "equal to the bit" in out) == (0, True), err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["deepcnn", "resnet", "cifar_resnet", "imagenet_resnet"])
def test_every_network_takes_images_of_two_sides(call: Cli, photos: Path, model: str) -> None:
    depth = {"deepcnn": 1, "resnet": 1, "cifar_resnet": 8, "imagenet_resnet": 18}[model]
    sizes = ("dataset.size=9x16", f"depth={depth}", "trainer.limit_steps=2", "block=basic")
    code, out, err = call(*NET, f"dataset.root={photos}", *sizes, f"model={model}", "width=4")
    assert code == 0, err
    augment = ("augment=cutout", "evaluator.tta=multicrop", "augment.crop=2", "augment.cutout=3")
    code, out, err = call(*NET, f"dataset.root={photos}", *sizes, f"model={model}", *augment)
    assert code == 0, err
    assert f"head {len(CLASSES)}" in out


def test_airbench_takes_images_of_two_sides(call: Cli, photos: Path) -> None:
    options = ("model=airbench", "depth=1", "width=4", "dataset.size=9x16", "trainer.limit_steps=2")
    code, _, err = call(*NET, f"dataset.root={photos}", *options)
    assert code == 0, err


def test_many_classes_fit_and_too_many_are_refused(call: Cli, tmp_path: Path) -> None:
    """More than 256 labels, which no byte holds."""
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 8, 8), dtype=np.uint8)
    labels = np.arange(1200) % 300
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
    code, out, err = call(*NET, "dataset.list=a.npz", "val_fraction=0")
    assert code == 0, err
    values = stored(run_folder(out.partition("\n\n")[0]))
    assert values["classes"] == [str(i) for i in range(300)]
    names = np.array([f"{i:0200}x" for i in range(1200)])
    np.savez(tmp_path / "b.npz", images=pixels, labels=names)
    code, _, err = call(*NET, "dataset.list=b.npz", "dataset.test_fraction=0", "val_fraction=0.5")
    assert code == 2
    assert "1,200 classes" in err


# --------------------------------------------------------------------------------------------------
# against a built-in set


def write_pngs(root: Path, name: str, folder: Path, *, parts: tuple[str, ...]) -> Path:
    """Write a built-in set as PNG files, and a list of them in its order."""
    listing = folder / "list.csv"
    with listing.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "split"))
        for part in parts:
            arrays = DATASETS[name].read(root, part)
            for i, (image, label) in enumerate(zip(arrays.images, arrays.labels, strict=True)):
                path = folder / part / str(label) / f"{i:05}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.squeeze()).save(path, compress_level=1)
                rows.writerow((path.relative_to(folder), label, part))
    return listing


def assert_same_as_built_in(
    call: Cli, root: Path, name: str, tmp_path: Path, *, net: tuple[str, ...]
) -> None:
    listing = write_pngs(root, name, tmp_path, parts=("train", "test"))
    built_in = compose.compose_config([f"dataset={name}"]).dataset
    scaled = [
        f"dataset.{key}=[{','.join(map(str, getattr(built_in, key)))}]" for key in ("mean", "std")
    ]
    flip = f"dataset.flip_keeps_label={str(built_in.flip_keeps_label).lower()}"
    batch = f"batch_size={compose.compose_config([f'dataset={name}']).batch_size}"
    own_set = ["dataset=folder", f"dataset.size={built_in.size}", flip, batch, *net]
    config = launch.with_data(compose.compose_config([*own_set, f"dataset.list={listing}"]))
    theirs_set = [f"dataset={name}", *net]
    if name not in rules.BUNDLED:
        theirs_set.append(f"dataset.root={root}")
    given = compose.compose_config(theirs_set)
    for part in ("train", "test"):
        ours, theirs = build.open_split(config, part)[0], build.open_split(given, part)[0]
        assert np.array_equal(ours.images.numpy(), theirs.images.numpy())
        assert np.array_equal(ours.labels.numpy(), theirs.labels.numpy())
    # Mean and deviation are those that the built-in set states.
    if name != "digits":
        assert config.dataset.mean == built_in.mean
        assert config.dataset.std == pytest.approx(built_in.std, abs=1e-4)
    by_name = launch.with_data(compose.compose_config([*own_set, f"dataset.root={tmp_path}"]))
    ours, theirs = build.open_split(by_name, "test")[0], build.open_split(given, "test")[0]
    order = np.argsort(theirs.labels.numpy(), kind="stable")
    assert np.array_equal(ours.images.numpy(), theirs.images.numpy()[order])
    assert call(*own_set, f"dataset.list={listing}", *scaled, "out=own")[0] == 0
    assert call(*theirs_set, "out=theirs")[0] == 0
    for file in ("metrics.jsonl", "best.safetensors"):
        assert weights(Path("own") / file) == weights(Path("theirs") / file)
    with np.load("own/predictions.npz") as one, np.load("theirs/predictions.npz") as other:
        assert all(np.array_equal(one[key], other[key]) for key in other.files)


def weights(path: Path) -> object:
    """Return the lines of a file of metrics, or the tensors of a checkpoint."""
    if path.suffix != ".safetensors":
        return path.read_text()
    from skiplab.runs import checkpoint

    tensors, _ = checkpoint.load(path)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_digits_as_png_files_give_the_run_of_digits(call: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "pngs"
    folder.mkdir()
    net = ("epochs=1", "trainer.limit_steps=4", "depth=0", "width=4", "augment=none")
    net = ("trainer=default", *net)
    assert_same_as_built_in(call, tmp_path, "digits", folder, net=net)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_built_in_set_as_png_files_gives_its_run(
    call: Cli, tmp_path: Path, real_root: Path, name: str
) -> None:
    """All 70,000 or 60,000 images, and a run of 40 steps."""
    folder = tmp_path / "pngs"
    folder.mkdir()
    net = ("epochs=1", "depth=1", "width=8", "trainer.limit_steps=40")
    assert_same_as_built_in(call, real_root, name, folder, net=(*net, "augment=standard"))


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    """Found and mapped in seconds, once they are decoded."""
    import time

    content = make(tmp_path / "one", count=1) / "cat/000.png"
    for c in range(10):
        folder = tmp_path / f"r/{c}"
        folder.mkdir(parents=True)
        # A file system may allow no more than 65,000 links to a file, so each folder has a copy.
        shutil.copy(content, folder / "0.png")
        for i in range(1, 10_000):
            os.link(folder / "0.png", folder / f"{i}.png")
    config = compose.compose_config(["dataset=folder", f"dataset.root={tmp_path / 'r'}"])
    launch.with_data(config)
    began = time.monotonic()
    resolved = launch.with_data(config)
    assert time.monotonic() - began < 10
    # Copies of an image stay together, in the training part.
    assert resolved.dataset.train_images == 100_000
