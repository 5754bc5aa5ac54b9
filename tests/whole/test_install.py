"""What is asked of an environment: pyproject.toml, docs/install.md and the set-up agree.

A torchvision that does not fit is reported.
"""

import importlib
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers import ROOT, Cli

GUIDE = (ROOT / "docs/install.md").read_text(encoding="utf-8")
ASKED: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "dependencies"
]
PAIRS = re.findall(r"^\| (\d+\.\d+\.\d+) \| (\d+\.\d+\.\d+) \|$", GUIDE, re.MULTILINE)


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def floor(name: str) -> str:
    (text,) = (text for text in ASKED if re.fullmatch(rf"{name}>=[\d.]+", text))
    return text.removeprefix(f"{name}>=")


def test_the_guides_table_begins_at_the_floors_and_rises() -> None:
    assert PAIRS[0] == (f"{floor('torch')}.0", f"{floor('torchvision')}.0")
    for column in zip(*PAIRS, strict=True):
        numbers = [as_numbers(version) for version in column]
        assert numbers == sorted(set(numbers))
    assert f"| torch {floor('torch')} or newer and its torchvision |" in GUIDE
    assert f"| torch older than {floor('torch')} |" in GUIDE
    assert f"torch from {floor('torch')} on" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_guides_table_says_what_the_installed_torchvision_says() -> None:
    stated = " ".join(importlib.metadata.requires("torchvision") or ())
    pin = re.search(r"\btorch ?\(?==(\d+\.\d+\.\d+)", stated)
    if pin is None:
        pytest.skip("the installed torchvision asks for no torch exactly")
    version = importlib.metadata.version("torchvision").split("+")[0]
    assert dict(PAIRS).get(pin[1], version) == version, (
        "docs/install.md has another torchvision for this torch"
    )


def test_the_guides_list_without_torch_is_that_of_pyproject() -> None:
    (line,) = (line for line in GUIDE.splitlines() if line.startswith('    pip install "'))
    assert re.findall(r'"([^"]+)"', line) == sorted(
        (text for text in ASKED if not text.startswith("torch")), key=line.index
    )


def test_every_dependency_has_a_floor() -> None:
    """Without one a resolver that is held elsewhere may go back to releases of many years ago."""
    assert [text for text in ASKED if ">=" not in text] == []


def test_the_set_up_takes_torch_as_pyproject_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    environment = importlib.import_module("environment")
    assert environment.torch_requirements() == [
        f"torch>={floor('torch')}",
        f"torchvision>={floor('torchvision')}",
    ]


def test_the_lock_of_ci_pins_every_dependency_within_its_bounds() -> None:
    lines = (ROOT / "requirements/ci.txt").read_text(encoding="utf-8").splitlines()
    pins: dict[str, set[str]] = {}
    for line in lines:
        if not line.startswith(("#", " ")):
            name, version = line.split(" ; ")[0].split("==")
            pins.setdefault(name, set()).add(version)
    for requirement in map(Requirement, ASKED):
        versions = pins[requirement.name]
        assert all(version in requirement.specifier for version in versions), requirement
    (torch,), (torchvision,) = pins["torch"], pins["torchvision"]
    assert dict(PAIRS)[torch] == torchvision


def test_only_ci_installs_the_pinned_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    environment = importlib.import_module("environment")
    monkeypatch.delenv("CI", raising=False)
    assert environment.constraint() == []
    monkeypatch.setenv("CI", "true")
    assert environment.constraint() == ["--constraint", str(ROOT / "requirements/ci.txt")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise ModuleNotFoundError('No module named torchvision')", "No module named torchvision"),
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "operator torchvision::nms does not exist",
        ),
        ("raise OSError('_C.so: undefined symbol:\\n_ZN3c10')", "_C.so: undefined symbol: _ZN3c10"),
        ("import torch\ntorch.library.no_such_thing", "no_such_thing"),
        ("", "datasets"),
    ],
    ids=[
        "missing",
        "of another torch",
        "of another build",
        "of a newer torch",
        "a folder of that name",
    ],
)
def test_a_torchvision_that_cannot_be_imported_is_one_line(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    package = tmp_path / "site/torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(str(package.parent))
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = call("dataset=mnist", "dataset.root=data", "out=run")
    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert "torchvision, which fetches it, cannot be imported" in err
    assert "docs/install.md" in err
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "run").exists()
    sys.modules.pop("torchvision", None)
