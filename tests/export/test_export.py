"""`skiplab export`: what other programs compute with its files, and what it refuses."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import ROOT, Cli, compose
from skiplab import __version__, build
from skiplab.config.schema import Config
from skiplab.data import splits
from skiplab.errors import FolderError, SkiplabError, UsageError
from skiplab.export import (
    comparison,
    onnx_file,
    tensors_file,
    torch_file,
    torchvision_names,
    write,
)
from skiplab.export.graph import PixelsToLogits, trace
from skiplab.trained import Trained, open_trained

RUN = ROOT / "tests/fixtures/format2"
DOCUMENT = (ROOT / "docs/export.md").read_text(encoding="utf-8")
CPU = torch.device("cpu")
needs_new_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < write.OLDEST_TORCH,
    reason="exports graphs from torch 2.6 on",
)


def example(first_line: str) -> str:
    """The Python block of docs/export.md that holds a line."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (found,) = [block for block in blocks if first_line in block]
    return found


def without(folder: Path, *modules: str) -> dict[str, str]:
    """An environment in which modules cannot be imported."""
    for name in modules:
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.fixture(scope="module")
def onnx_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with model.onnx, made once: torch's exporter takes seconds."""
    folder = Path(shutil.copytree(RUN, tmp_path_factory.mktemp("onnx") / "run"))
    write.export(folder, kind="onnx")
    return folder


@pytest.fixture(scope="module")
def resnet18() -> Config:
    return compose("model=resnet18")


def shaken(config: Config) -> Trained:
    """An untrained network of a config whose norms are not neutral."""
    model = build.network(config, CPU)
    draws = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draws))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=draws) / 2)
    return Trained(model.eval(), config, CPU, 0, None)


def by_hand(trained: Trained, images: Tensor) -> Tensor:
    """Logits without the code of evaluation: resize, scale, and the network."""
    x = images.permute(0, 3, 1, 2).float()
    if x.shape[2:] != trained.size:
        x = F.interpolate(x, trained.size, mode="bilinear", antialias=True).round()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1)
        for values in (trained.config.dataset.mean, trained.config.dataset.std)
    )
    with torch.no_grad():
        return trained.model((x / 255 - mean) / std)


def random_images(*shape: int) -> Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


# --------------------------------------------------------------------------------------------------
# ONNX


@pytest.mark.slow
@needs_new_torch
def test_onnxruntime_computes_what_the_network_does(onnx_run: Path) -> None:
    trained = open_trained(onnx_run, device_name="cpu")
    sizes = ((8, 8), (9, 30), (3, 5), (1, 1))
    for count, (height, width) in enumerate(sizes, start=1):
        images = random_images(count, height, width, 1)
        (found,) = onnx_file.run(onnx_run / "model.onnx", [images])
        torch.testing.assert_close(found, by_hand(trained, images), rtol=0, atol=1e-4)


@pytest.mark.slow
@needs_new_torch
def test_an_onnx_file_says_what_it_is(onnx_run: Path) -> None:
    import onnx

    model = onnx.load(onnx_run / "model.onnx")
    facts = {each.key: each.value for each in model.metadata_props}
    dataset = open_trained(onnx_run, device_name="cpu").config.dataset
    assert json.loads(facts["classes"]) == list(dataset.classes)
    assert (json.loads(facts["mean"]), json.loads(facts["std"])) == (
        [*dataset.mean],
        [*dataset.std],
    )
    assert (facts["size"], facts["channels"]) == ("[8, 8]", "1")
    assert facts["skiplab"] == __version__
    beside = json.loads((onnx_run / "model.onnx.json").read_text())
    assert json.loads(facts["comparisons"]) == beside["comparisons"]
    first, second = beside["comparisons"]
    assert first["images"] == "144 validation images"
    assert first["equal"] == first["decisions"] == 144
    assert 0 <= first["largest_difference"] <= first["tolerance"]
    assert second["images"] == "16 of them at 19x25"
    (given,), (result,) = model.graph.input, model.graph.output
    axes = [axis.dim_param or axis.dim_value for axis in given.type.tensor_type.shape.dim]
    assert (given.name, axes) == ("images", ["N", "H", "W", 1])
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [axis.dim_param or axis.dim_value for axis in result.type.tensor_type.shape.dim] == [
        "N",
        10,
    ]
    # Where the exporting machine keeps its code is nobody's business.
    assert b".py" not in (onnx_run / "model.onnx").read_bytes()
    # Nothing was read of the test set.
    assert (onnx_run / "test_reads.jsonl").read_bytes() == (RUN / "test_reads.jsonl").read_bytes()


@pytest.mark.slow
@needs_new_torch
def test_the_web_service_of_the_document_answers_without_torch(
    onnx_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "serve.py").write_text(example("HTTPServer"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "serve.py", str(onnx_run / "model.onnx"), str(port)],
        cwd=tmp_path,
        env=without(tmp_path / "without", "torch", "skiplab"),
        stderr=subprocess.PIPE,
    )
    try:
        image = random_images(21, 17)
        content = io.BytesIO()
        Image.fromarray(image.numpy()).save(content, "PNG")
        answer = json.loads(post(port, content.getvalue()))
        expected = by_hand(open_trained(onnx_run, device_name="cpu"), image.view(1, 21, 17, 1))
        assert list(answer) == [str(digit) for digit in range(10)]
        np.testing.assert_allclose([*answer.values()], expected.softmax(1)[0], atol=1e-3)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            post(port, b"no image")
    finally:
        server.kill()
        server.communicate()


def post(port: int, content: bytes) -> bytes:
    """POST to the service once it listens."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", content) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the service does not answer")


# --------------------------------------------------------------------------------------------------
# safetensors


def test_safetensors_has_the_tensors_and_says_what_they_are(call: Cli, run: Path) -> None:
    code, out, err = call("export", "run", "--to", "safetensors", command="skiplab")
    assert (code, err) == (0, "")
    assert "144 validation images: 144 of 144 decisions are equal" in out
    assert out.endswith("written: run/model.safetensors, run/model.safetensors.json\n")
    trained = open_trained(run, device_name="cpu")
    tensors = safetensors.torch.load_file(run / "model.safetensors")
    wanted = trained.model.state_dict()
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    with safe_open(run / "model.safetensors", "pt") as file:
        facts = file.metadata()
    assert facts["format"] == "pt"
    assert json.loads(facts["classes"]) == list(trained.classes)


@pytest.mark.slow
def test_the_documents_reader_of_safetensors_works(call: Cli, run: Path) -> None:
    assert call("export", "run", "--to", "safetensors", command="skiplab")[0] == 0
    (run / "example.py").write_text(example("safe_open"))
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=run,
        env=without(run / "without", "skiplab"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("deepcnn of residual blocks")


def test_the_last_weights_and_a_file_alone(call: Cli, run: Path, tmp_path: Path) -> None:
    arguments = ("--to", "safetensors", "--out", "last.safetensors")
    code, out, _ = call("export", "run", *arguments, "--checkpoint", "last", command="skiplab")
    assert code == 0
    assert "; last, step 12" in out
    shutil.move(run / "best.safetensors", tmp_path / "alone.safetensors")
    shutil.rmtree(run)
    code, out, _ = call("export", "alone.safetensors", "--to", "safetensors", command="skiplab")
    assert code == 0
    assert "written: model.safetensors, model.safetensors.json" in out


@pytest.mark.parametrize(
    "model",
    [
        "resnet18",
        pytest.param("resnet34", marks=pytest.mark.slow),
        pytest.param("resnet50", marks=pytest.mark.slow),
    ],
)
def test_torchvisions_module_takes_the_tensors(model: str, tmp_path: Path) -> None:
    import torchvision

    trained = shaken(compose(f"model={model}"))
    written = tensors_file.TensorsFile(PixelsToLogits(trained), names="torchvision")
    path = tmp_path / "model.safetensors"
    path.write_bytes(written.pack({}))
    # The lines that the command prints, and the document's with the numbers of CIFAR-10.
    names = {"torch": torch, "torchvision": torchvision}
    exec("\n".join(torchvision_names.recipe(trained.config, 1)), names)
    network = names["network"]
    assert isinstance(network, nn.Module)
    network.load_state_dict(safetensors.torch.load_file(path))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), trained.model(x), rtol=1e-4, atol=1e-4)
    images = random_images(3, 8, 8, 1)
    (found,) = tensors_file.run(
        path, [images], trained=trained, written=written, names="torchvision"
    )
    torch.testing.assert_close(found, by_hand(trained, images), rtol=1e-4, atol=1e-4)


def test_the_documents_lines_for_torchvision_are_those_that_are_printed(resnet18: Config) -> None:
    lines = torchvision_names.recipe(resnet18, 3)
    assert "\n".join(lines) in example("torchvision.models.resnet18(")


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"model.name": "cifar_resnet"}, "model.name=cifar_resnet; only imagenet_resnet"),
        ({"width": 32}, "width=32; torchvision's width is 64"),
        ({"norm": "none"}, "norm=none"),
        ({"shortcut": False}, "shortcut=false"),
        ({"block.name": "preact"}, "block=preact depth=18; basic blocks have depth 18"),
        ({"depth": 50}, "block=basic depth=50"),
        ({"block.bias": True}, "block.bias=true; torchvision's are conv_bn"),
        ({"block.projection": "pad"}, "block.projection=pad"),
    ],
)
def test_what_torchvision_cannot_take_is_refused(
    values: dict[str, object], fragment: str, resnet18: Config
) -> None:
    config = resnet18
    for key, value in values.items():
        group, _, leaf = key.rpartition(".")
        changed = replace(getattr(config, group), **{leaf: value}) if group else value
        config = replace(config, **{group or leaf: changed})
    with pytest.raises(UsageError, match=re.escape(fragment)) as caught:
        torchvision_names.function_of(config)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------
# refusals


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (("run",), 2, "required: --to"),
        (("run", "--to", "onx"), 2, "--to onx: did you mean onnx?"),
        pytest.param(
            ("nowhere", "--to", "onnx"), 2, "nowhere: no such run folder", marks=needs_new_torch
        ),
        (("run", "--to", "onnx", "--names", "torchvision"), 2, "goes with --to safetensors"),
        (("run", "--to", "safetensors", "--names", "torchvision"), 2, "the run has model.name"),
        pytest.param(
            ("run/best.safetensors", "--to", "torch", "--checkpoint", "last"),
            2,
            "name the folder",
            marks=needs_new_torch,
        ),
        pytest.param(
            ("run", "--to", "torch", "--out", "a.onnx"),
            2,
            "--to torch writes a.pt2",
            marks=needs_new_torch,
        ),
        pytest.param(
            ("run", "--to", "onnx", "--out", "no/a.onnx"),
            4,
            "there is no folder no",
            marks=needs_new_torch,
        ),
        (("run", "--to", "safetensors", "--out", "run"), 4, "run: is there already"),
        (
            ("run", "--to", "safetensors", "--out", "run/best.safetensors"),
            4,
            "run/best.safetensors: is there already, and is no file that skiplab export",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    arguments: tuple[str, ...], code: int, fragment: str, call: Cli, run: Path
) -> None:
    before = sorted(path.name for path in run.iterdir())
    found, out, err = call("export", *arguments, command="skiplab")
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert fragment in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_missing_package_and_an_old_torch_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.__version__", "2.5.1")
    for kind in ("onnx", "torch"):
        with pytest.raises(UsageError, match=f"--to {kind}: needs torch 2.6 or newer"):
            write.check_possible(kind, "skiplab")
    write.check_possible("safetensors", "skiplab")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name.startswith("onnx") else name
    )
    with pytest.raises(UsageError) as caught:
        write.check_possible("onnx", "skiplab")
    assert str(caught.value) == (
        "--to onnx: needs onnx, onnxscript, onnxruntime; pip install 'skiplab[export]'"
    )


def test_only_its_own_file_is_replaced(call: Cli, run: Path) -> None:
    def again() -> tuple[int, str, str]:
        return call("export", "run", "--to", "safetensors", command="skiplab")

    assert again()[0] == 0
    code, out, _ = again()
    assert code == 0
    assert "replaced: run/model.safetensors" in out
    path = run / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    code, _, err = again()
    assert code == 4
    assert err.startswith("error: run/model.safetensors: is there already")
    path.unlink()
    (run / "model.safetensors.json").write_text("{}")
    code, _, err = again()
    assert code == 4
    assert err.startswith("error: run/model.safetensors.json: is there already")


@pytest.mark.parametrize("fault", ["shifted", "nan", "swapped", "shape"])
def test_a_file_that_computes_something_else_is_not_kept(
    fault: str, call: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = tensors_file.run

    def wrong(path: Path, batches: Sequence[Tensor], **options: object) -> list[Tensor]:
        found = right(path, batches, **options)  # pyright: ignore[reportArgumentType]
        if fault == "shape":
            return [each[:, 1:] for each in found]
        last = found[-1]
        if fault == "shifted":
            last += 0.1
        elif fault == "nan":
            last[-1, 3] = torch.nan
        else:
            last[-1] = last[-1].flip(0)
        return found

    monkeypatch.setattr(tensors_file, "run", wrong)
    code, out, err = call("export", "run", "--to", "safetensors", command="skiplab")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(run.glob("model*"))


def test_a_tensor_that_changed_on_the_way_is_named(run: Path, tmp_path: Path) -> None:
    trained = open_trained(run, device_name="cpu")
    written = tensors_file.TensorsFile(PixelsToLogits(trained), names="skiplab")
    path = tmp_path / "model.safetensors"
    content = bytearray(written.pack({}))
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SkiplabError, match="is not the tensor that was written"):
        tensors_file.run(path, [], trained=trained, written=written, names="skiplab")


def test_a_full_folder_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        raise FolderError(f"{path.parent}: cannot write {path.name}")

    monkeypatch.setattr("skiplab.runs.atomic.write", full)
    with pytest.raises(FolderError, match=r"cannot write model\.safetensors"):
        write.export(run, kind="safetensors")
    assert not list(run.glob("model*"))


# --------------------------------------------------------------------------------------------------
# what is compared


def test_images_are_of_validation_then_of_training_then_random(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = open_trained(run, device_name="cpu")
    images, words = comparison.images_of(trained)
    assert (words, images.shape) == ("144 validation images", (144, 8, 8, 1))
    bare = replace(trained, config=replace(trained.config, val_fraction=0.0))
    images, words = comparison.images_of(bare)
    assert (words, images.shape) == ("1,000 training images", (1000, 8, 8, 1))
    monkeypatch.setattr(
        "skiplab.data.download.fetch", lambda *_, **__: pytest.fail("something is fetched")
    )
    far = compose("dataset=cifar10", f"dataset.root={tmp_path / 'empty'}")
    images, words = comparison.images_of(replace(trained, config=far))
    assert words == "64 random images, since the run's data are not here"
    assert images.shape == (64, 32, 32, 3)
    assert not (tmp_path / "empty").exists()


def test_images_are_resized_as_for_training() -> None:
    images = random_images(3, 9, 5, 3)
    assert torch.equal(comparison.resized(images, (13, 13)), splits.resize_images(images, 13))
    assert comparison.of_another_size(images).shape == (3, 21, 16, 3)


def test_a_decision_counts_only_where_it_must() -> None:
    wanted = [torch.tensor([[1.0, 0.99999], [0.0, 2.0]])]
    found = [torch.tensor([[0.99999, 1.0], [0.0, 2.0]])]
    strict, loose = (
        comparison.compare(found, wanted, images="2 images", share=1e-4, is_strict=is_strict)
        for is_strict in (True, False)
    )
    assert (strict.equal, strict.count) == (1, 2)
    assert (strict.is_good, loose.is_good) == (False, True)


# --------------------------------------------------------------------------------------------------
# every network

CONFIGS = [
    *(
        ("model=deepcnn", f"block={block}", "depth=2", "width=8")
        for block in ("conv", "residual", "residual_down", "skip", "basic", "preact", "bottleneck")
    ),
    ("model=resnet", "block=basic", "depth=1", "width=8"),
    ("model=resnet", "block=preact", "depth=1", "width=8", "shortcut=false"),
    ("model=cifar_resnet", "depth=8", "width=8"),
    ("model=cifar_resnet", "block=bottleneck", "depth=11", "width=8"),
    ("model=imagenet_resnet", "depth=18", "width=8"),
    ("model=imagenet_resnet", "block=bottleneck", "depth=50", "width=4", "norm=none"),
    ("model=airbench", "depth=2", "width=8", "dataset.resize=32"),
    ("model=airbench96", "depth=2", "width=8", "dataset.resize=32"),
    ("depth=1", "width=8", "dataset=cifar10", "evaluator.tta=flip"),
    ("depth=1", "width=8", "dataset=cifar10", "evaluator.tta=multicrop"),
    (
        "depth=1",
        "width=8",
        "trainer.amp=bf16",
        "trainer.channels_last=true",
        "trainer.compile=true",
    ),
]


@pytest.mark.slow
@needs_new_torch
@pytest.mark.parametrize("texts", CONFIGS, ids=" ".join)
def test_every_network_exports(texts: tuple[str, ...], tmp_path: Path) -> None:
    trained = shaken(compose(*texts))
    module = PixelsToLogits(trained)
    size, channels = trained.size[0], trained.channels
    exact = [random_images(count, size, size, channels) for count in (1, 5)]
    # Ratios at which no resized pixel lies between two values.
    other = random_images(3, 3 * size + 1, 2 * size + 3, channels)
    wanted = comparison.logits_of(trained, exact, tta=trained.config.evaluator.tta)
    with torch.no_grad():
        resized = module(other)
    traced = trace(module)
    for name, content, run in (
        ("model.onnx", onnx_file.OnnxFile(traced), onnx_file.run),
        ("model.pt2", torch_file.TorchFile(traced), torch_file.run_here),
    ):
        path = tmp_path / name
        path.write_bytes(content.pack({"classes": "[]"}))
        *found, found_resized = run(path, [*exact, other])
        scale = torch.cat(wanted).abs().max().item()
        for one, another in zip(found, wanted, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, another, rtol=0, atol=1e-4 * scale)
        torch.testing.assert_close(found_resized, resized, rtol=0, atol=2e-2 * scale)


@needs_new_torch
def test_test_time_augmentation_layout_and_precision_are_those_stated() -> None:
    """The graph before any exporter, against formulas."""
    plain = shaken(compose("depth=1", "width=8", "dataset=cifar10", "trainer.channels_last=true"))
    images = random_images(4, 32, 32, 3)
    assert all(
        tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.int64)
        for tensor in PixelsToLogits(plain).state_dict().values()
    )
    config = compose("depth=1", "width=8", "dataset=cifar10", "evaluator.tta=flip")
    mirrored = replace(plain, config=replace(config, trainer=replace(config.trainer, amp="bf16")))
    with torch.no_grad():
        found = PixelsToLogits(mirrored)(images)
    expected = (by_hand(plain, images) + by_hand(plain, images.flip(2))) / 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@needs_new_torch
def test_torch_loads_its_file_without_skiplab(call: Cli, run: Path) -> None:
    code, out, err = call("export", "run", "--to", "torch", command="skiplab")
    assert (code, err) == (0, "")
    assert "144 validation images: 144 of 144 decisions are equal" in out
    (run / "example.py").write_text(example('torch.export.load("model.pt2"'))
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=run,
        env=without(run / "without", "skiplab"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"\d torch\.Size\(\[4, 10\]\)\n", done.stdout)


@pytest.mark.slow
@needs_new_torch
def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"no archive")
    with pytest.raises(SkiplabError, match="fails in a process without Skiplab"):
        torch_file.run(path, [random_images(1, 8, 8, 1)])
