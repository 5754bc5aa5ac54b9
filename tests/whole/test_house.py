"""The rules of the source, read with `ast`: imports, bans, docstrings and lengths."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import skiplab
from helpers import ROOT

SOURCE = Path(skiplab.__file__).parent
NAMES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if path.stem != "__init__"
)
PACKAGES = {
    "skiplab",
    *(
        f"skiplab.{'.'.join(path.parent.relative_to(SOURCE).parts)}"
        for path in SOURCE.glob("*/**/__init__.py")
    ),
}

# Third-party packages that only some modules may touch, anywhere in them.
ONLY_IN = {
    "hydra": {
        "cli.train",
        *(
            f"config.{name}"
            for name in ("compose", "cells", "overrides", "plugins", "grid", "grammar", "functions")
        ),
    }
    | {"study.plan", "study.sweep", "study.other_launchers", "study.search", "study.search_space"},
    "omegaconf": {"config.compose", "config.cells", "launch"},
    # scikit-learn brings the digits and is the oracle of the report. A run spares its import.
    "sklearn": set(),
    "tqdm": {"runs.log"},
    "matplotlib": {
        "runs.canvas",
        "runs.plots",
        "network_picture",
        "runs.curves",
        "runs.layers",
        "study.compare.drawing",
        "study.compare.pictures",
        "study.compare.search_picture",
    },
    "optuna": {"study.search", "study.search_report", "study.search_space"},
    "rich": {"study.progress_view"},
    "onnx": {"export.onnx_file"},
    "onnxruntime": {"export.onnx_file"},
    # torch's exporter imports it.
    "onnxscript": set(),
}
STARTS_WITHOUT_TORCH = (
    *(
        "cli.main",
        "cli.skiplab",
        "cli.help",
        "cli.topics",
        "cli.list",
        "cli.answer",
        "cli.schema",
        "cli.keys",
        "cli.completion",
        "cli.show",
        "cli.train",
        "cli.resume",
        "exits",
        "launch",
        "provenance",
        "paths",
        "locations",
        "own_code",
        "trust",
        "regular",
        "errors",
    ),
    *(name for name in NAMES if name.startswith("config.")),
    *(
        "data.download",
        "runs.folders",
        "runs.lock",
        "runs.status",
        "runs.result",
        "runs.facts",
        "runs.atomic",
        "runs.checkpoint",
        "runs.contents",
        "machine.signals",
        "machine.torchrun",
        "machine.cpu",
    ),
    *(
        f"study.{name}"
        for name in (
            "sweep",
            "plan",
            "launcher",
            "supervisor",
            "progress_view",
            "slots",
            "workers",
            "other_launchers",
            "record",
        )
    ),
)
MAX_LINES, MAX_FUNCTION_LINES = 400, 60


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(source(name))


def source(name: str) -> str:
    return (SOURCE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"


@cache
def imports(name: str, *, everywhere: bool) -> set[str]:
    """Return full names of the modules that `name` imports at its top level.

    With `everywhere` also inside functions. Imports for types only are left out.
    """
    found: set[str] = set()
    queue: list[ast.AST] = [tree(name)]
    while queue:
        for node in ast.iter_child_nodes(queue.pop()):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}:{node.lineno}: imports are absolute here"
                assert node.module is not None
                found |= (
                    {f"{node.module}.{alias.name}" for alias in node.names}
                    if node.module in PACKAGES
                    else {node.module}
                )
            elif not _is_type_checking(node) and (
                everywhere
                or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            ):
                queue.append(node)
    return found


def packages(name: str, *, everywhere: bool) -> set[str]:
    return {module.split(".")[0] for module in imports(name, everywhere=everywhere)}


def ours(name: str, *, everywhere: bool) -> set[str]:
    """Return the modules of skiplab among the imports. `__version__` is none."""
    found = {
        module.partition(".")[2]
        for module in imports(name, everywhere=everywhere)
        if module.startswith("skiplab.")
    }
    return found & set(NAMES)


def reach(name: str, *, everywhere: bool) -> set[str]:
    """Return every module of skiplab that importing `name` brings in."""
    reached: set[str] = set()
    queue = [name]
    while queue:
        fresh = ours(queue.pop(), everywhere=everywhere) - reached
        reached |= fresh
        queue += fresh
    return reached


def calls(name: str) -> list[tuple[str, int]]:
    """Return what is called, as it is written, and on which line."""
    return [
        (ast.unparse(node.func), node.lineno)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call)
    ]


# --------------------------------------------------------------------------------------------------
# Imports


def test_the_reader_of_imports_sees_what_it_must() -> None:
    """The tests below are worth something only if this holds."""
    assert {"hydra", "skiplab.config.validate", "skiplab.errors", "skiplab.paths"} <= imports(
        "config.compose", everywhere=False
    )
    assert "skiplab.run" in imports("launch", everywhere=True)
    assert "skiplab.run" not in imports("launch", everywhere=False)
    assert {"config.schema", "config.rules"} <= ours("config.validate", everywhere=False)
    assert {"training.trainer", "networks.blocks", "data.batches"} <= reach(
        "cli.main", everywhere=True
    )


def test_the_contracts_of_imports_are_kept() -> None:
    """pyproject.toml has them: one way down, a layer for every module, and no config below."""
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [str(command), "--config", str(ROOT / "pyproject.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_heavy_package_stays_in_its_place(package: str) -> None:
    assert {name for name in NAMES if package in packages(name, everywhere=True)} <= ONLY_IN[
        package
    ]


def test_a_slow_package_is_imported_where_it_is_used() -> None:
    assert [name for name in NAMES if "torchvision" in packages(name, everywhere=False)] == []
    assert [name for name in NAMES if "torchvision" in packages(name, everywhere=True)] != []


@pytest.mark.parametrize("name", STARTS_WITHOUT_TORCH)
def test_what_a_command_line_needs_imports_no_torch(name: str) -> None:
    slow = {"torch", "torchvision", "safetensors", "sklearn", "matplotlib", "numpy", "tqdm"}
    for module in {name} | reach(name, everywhere=False):
        assert not packages(module, everywhere=False) & slow, module


def test_help_and_version_need_no_hydra() -> None:
    for name in ("cli.main", "cli.help", "config.validate", "runs.folders", "cli.list"):
        for module in {name} | reach(name, everywhere=False):
            assert not packages(module, everywhere=False) & {"hydra", "omegaconf"}, module


# --------------------------------------------------------------------------------------------------
# Bans

BANNED_CALLS = {
    "eval": "runs code",
    "exec": "runs code",
    "__import__": "hides an import",
    "os.system": "a shell",
    "os.popen": "a shell",
    "yaml.load": "takes yaml.safe_load",
    "yaml.full_load": "takes yaml.safe_load",
    "yaml.unsafe_load": "runs code",
    "torch.load": "checkpoints are read by skiplab.runs.checkpoint",
    "torch.save": "checkpoints are written by skiplab.runs.checkpoint",
}
BANNED_METHODS = {
    "extractall": "writes where the archive says",
    "extract": "writes where the archive says",
}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_loads_or_runs_what_it_should_not(name: str) -> None:
    for written, line in calls(name):
        assert written not in BANNED_CALLS, f"{name}:{line}: {written}: {BANNED_CALLS[written]}"
        method = written.rpartition(".")[2]
        assert "." not in written or method not in BANNED_METHODS, (
            f"{name}:{line}: {written}: {BANNED_METHODS[method]}"
        )
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
            assert isinstance(node.value, ast.Constant), f"{name}:{node.value.lineno}"
            assert node.value.value is False, f"{name}:{node.value.lineno}: {node.arg}"


def test_pickle_is_an_unpickler_of_our_own_in_cifar_alone() -> None:
    users = {
        name
        for name in NAMES
        if packages(name, everywhere=True) & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
    }
    assert users <= {"data.cifar"}
    for node in ast.walk(tree("data.cifar")):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "pickle", "import pickle whole, so that its uses can be seen"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr in ("Unpickler", "UnpicklingError"), (
                f"cifar:{node.lineno}: pickle.{node.attr}"
            )
    assert all(written != "pickle.Unpickler" for written, _ in calls("data.cifar")), (
        "a subclass that refuses classes, not the bare one"
    )
    unpicklers = [
        node
        for node in ast.walk(tree("data.cifar"))
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases)
    ]
    for unpickler in unpicklers:
        assert "find_class" in {
            node.name for node in unpickler.body if isinstance(node, ast.FunctionDef)
        }


# --------------------------------------------------------------------------------------------------
# Words and lengths


@pytest.mark.parametrize("name", ["__init__", *NAMES])
def test_modules_public_classes_and_public_functions_say_what_they_do(name: str) -> None:
    module = tree(name)
    assert ast.get_docstring(module), name
    silent = [
        f"{name}.{node.name}"
        for node in module.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


@pytest.mark.parametrize("name", ["__init__", *NAMES])
def test_a_file_and_a_function_can_be_read_in_one_go(name: str) -> None:
    text = source(name)
    assert text.isascii(), name
    assert len(text.splitlines()) <= MAX_LINES, name
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, (
                f"{name}:{node.lineno}: {node.name}"
            )


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not {"utils", "util", "helpers", "misc", "common"} & {
        part for name in NAMES for part in name.split(".")
    }


def test_the_schema_states_no_value() -> None:
    """YAML is the only place that does."""
    modules = (tree("config.schema"), tree("config.options"))
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, ast.AnnAssign):
            written = ast.unparse(node.value) if node.value is not None else ""
            assert not written or written.startswith("key("), ast.unparse(node)
