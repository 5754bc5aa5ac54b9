"""Where the config files lie."""

from pathlib import Path


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


def groups() -> dict[str, list[str]]:
    """Return the config groups and their options, by the files in conf/."""
    found = {
        folder.name: sorted(f.stem for f in folder.glob("*.yaml"))
        for folder in sorted(conf_folder().iterdir())
        if folder.is_dir()
    }
    # The groups in conf/hydra are Hydra's own.
    return {name: options for name, options in found.items() if name != "hydra"}
