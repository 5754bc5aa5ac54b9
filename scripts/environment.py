"""Make the .venv that scripts/demo and scripts/test share, with Skiplab and all that it needs.

Needs Python 3.11 or newer and nothing else. The set-up is skipped if it was done for the present
pyproject.toml. With CI=true in the environment it installs the versions in requirements/ci.txt.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "skiplab-setup.json"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
TORCH_INDEX = "SKIPLAB_TORCH_INDEX"
LOCK = ROOT / "requirements/ci.txt"


def tool(name: str) -> str:
    """Return the path of a command inside .venv."""
    return str(BIN / (f"{name}.exe" if os.name == "nt" else name))


def set_up(*, dev: bool) -> None:
    """Make .venv and install Skiplab into it, editable, with the tools for development if `dev`.

    A second call returns at once.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - the one place that an older Python reaches
        version = sys.version.split()[0]
        sys.exit(f"Skiplab needs Python 3.11 or newer; this is {version} ({sys.executable})")
    wanted = {"pyproject": digest(ROOT / "pyproject.toml"), "root": str(ROOT)}
    if is_ci():
        wanted["lock"] = digest(LOCK)
    done = read_stamp()
    if all(done.get(key) == value for key, value in wanted.items()) and (
        done.get("dev") or not dev
    ):
        return
    announce(dev=dev, again=bool(done))
    if not Path(tool("python")).exists():
        run(
            [sys.executable, "-m", "venv", str(VENV)],
            "python -m venv failed; on Debian and Ubuntu: apt install python3-venv",
        )
    pip = [tool("python"), "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["--progress-bar", "off", *constraint()]
    failed = (
        "pip could not install; the line above says why "
        "(no network? a full disk? then the same command goes on)"
    )
    if index := os.environ.get(TORCH_INDEX):
        run([*pip, *torch_requirements(), "--index-url", index], failed)
    run([*pip, "--editable", f"{ROOT}[dev]" if dev else str(ROOT)], failed)
    STAMP.write_text(json.dumps(wanted | {"dev": dev or bool(done.get("dev"))}))


def torch_requirements() -> list[str]:
    """Return what pyproject.toml asks of torch and torchvision, which come from TORCH_INDEX."""
    # An older Python has no tomllib; set_up refuses it, so the import must not stand at the top.
    import tomllib

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = tomllib.loads(text)["project"]["dependencies"]
    return [text for text in dependencies if text.startswith("torch")]


def is_ci() -> bool:
    """Return whether a CI service runs this; such services set CI=true."""
    return os.environ.get("CI") == "true"


def constraint() -> list[str]:
    """Return pip's options for the pinned versions: on CI the lock file, for users none."""
    return ["--constraint", str(LOCK)] if is_ci() else []


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_stamp() -> dict[str, object]:
    """Return what the last set-up was made for; nothing if there was none."""
    try:
        content = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def announce(*, dev: bool, again: bool) -> None:
    """Say what is about to happen, with size and time."""
    tools = ", and ruff, pyright, pytest" if dev else ""
    reason = " again, since pyproject.toml or the set-up's options changed" if again else ""
    print(f"setting up {VENV}{reason}")
    print(f"  PyTorch, torchvision, Hydra, scikit-learn, matplotlib{tools}")
    if is_ci():
        print(f"  CI=true: the versions in {LOCK.relative_to(ROOT)}")
    if sys.platform == "linux":
        print(
            "  with the CUDA libraries about 2.6 GB to download and 6 GB on disk; "
            "two minutes on a fast network, once"
        )
        if shutil.which("nvidia-smi") is None and not os.environ.get(TORCH_INDEX):
            print(
                f"  no NVIDIA GPU here: {TORCH_INDEX}=https://download.pytorch.org/whl/cpu "
                "in the environment installs a build without them"
            )
    else:
        print("  PyTorch is the large one, some hundred MB; minutes, once")
    sys.stdout.flush()


def run(command: list[str], failed: str) -> None:
    """Run a set-up step, showing what it fetches; leave with one line if it fails."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    for line in process.stdout:
        if line.lstrip().startswith(
            ("Downloading", "Using cached", "Installing collected", "Successfully")
        ):
            print("  " + " ".join(line.split())[:140], flush=True)
    if process.wait() != 0:
        sys.exit(f"set-up failed: {failed}")
