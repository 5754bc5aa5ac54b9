"""Where the config files lie."""

from pathlib import Path


def conf_folder() -> Path:
    """The checkout's own conf/ in an editable install (a copy would go stale), else the one inside the installed package."""
    here = Path(__file__).resolve().parent
    checkout = here.parents[1] / "conf"
    return (
        checkout
        if here.parent.name == "src" and (checkout / "config.yaml").is_file()
        else here / "conf"
    )


def groups() -> dict[str, list[str]]:
    """The config groups and their options, by the files in conf/."""
    found = {
        folder.name: sorted(f.stem for f in folder.glob("*.yaml"))
        for folder in sorted(conf_folder().iterdir())
        if folder.is_dir()
    }
    # whose groups are Hydra's own
    return {name: options for name, options in found.items() if name != "hydra"}
