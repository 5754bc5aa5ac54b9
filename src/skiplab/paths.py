"""Where the config files lie: Skiplab's own, and the user's beside them."""

import os
from pathlib import Path

from skiplab.errors import UsageError

# The folder of a user's own options, where --config-dir names no other.
OWN = "conf"
# What --config-dir has named in this process.
_named: list[Path] = []


def conf_folder() -> Path:
    """Return the folder of the config files.

    In an editable install it is the checkout's own conf/, since a copy would go stale; else the one
    inside the installed package.
    """
    here = Path(__file__).resolve().parent
    checkout = here.parents[1] / "conf"
    if here.parent.name == "src" and (checkout / "config.yaml").is_file():
        return checkout
    return here / "conf"


def choose_own(folder: Path | None) -> None:
    """Take the user's own options from `folder`, as --config-dir asks; None: from conf/.

    Raises UsageError if it is no folder.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--config-dir {folder}: no such folder")
    _named[:] = [] if folder is None else [folder.absolute()]


def own_folder() -> Path | None:
    """Return the folder of the user's own options, absolute; None if there is none.

    Skiplab's own conf/ is none, in whatever folder a command is given.
    """
    folder = _named[0] if _named else Path(OWN).absolute()
    if not folder.is_dir() or os.path.samefile(folder, conf_folder()):
        return None
    return folder


def flag_for_own() -> str:
    """Return what a command needs to find the same options again, after a space; or nothing."""
    return f" --config-dir {os.path.relpath(_named[0])}" if _named else ""


def groups() -> dict[str, list[str]]:
    """Return the config groups and their options, by the files in conf/ and the user's own."""
    own = own_options()
    return {
        name: sorted({*options, *own.get(name, ())}) for name, options in built_in_groups().items()
    }


def built_in_groups() -> dict[str, list[str]]:
    """Return the config groups and Skiplab's own options."""
    found = {
        folder.name: sorted(f.stem for f in folder.glob("*.yaml"))
        for folder in sorted(conf_folder().iterdir())
        if folder.is_dir()
    }
    # The groups in conf/hydra are Hydra's own.
    return {name: options for name, options in found.items() if name != "hydra"}


def own_files() -> list[Path]:
    """Return the files of the user's own options, of Skiplab's groups; others are none."""
    if (folder := own_folder()) is None:
        return []
    names = built_in_groups()
    found = [path for name in names for path in sorted((folder / name).glob("*.yaml"))]
    return [path for path in found if not path.name.startswith(".") and path.is_file()]


def own_options() -> dict[str, list[str]]:
    """Return the user's own options by group. One with a name of Skiplab's is none: see `clash`."""
    known, found = built_in_groups(), dict[str, list[str]]()
    for path in own_files():
        if path.stem not in known[path.parent.name]:
            found.setdefault(path.parent.name, []).append(path.stem)
    return found


def clash(group: str, option: str) -> Path | None:
    """Return the user's file that has the name of an option of Skiplab's, but says something else.

    Hydra would leave it unread. A copy of Skiplab's own file is no clash.
    """
    folder = own_folder()
    ours = conf_folder() / group / f"{option}.yaml"
    if folder is None or not (path := folder / group / ours.name).is_file() or not ours.is_file():
        return None
    return None if path.read_bytes() == ours.read_bytes() else path


def option_file(group: str, option: str) -> Path:
    """Return the file of an option, Skiplab's or the user's own."""
    ours, folder = conf_folder() / group / f"{option}.yaml", own_folder()
    return ours if folder is None or ours.is_file() else folder / group / ours.name
