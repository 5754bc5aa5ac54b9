"""Where the config files lie."""

from pathlib import Path


def conf_folder() -> Path:
    """The checkout's own conf/ in an editable install (a copy would go stale), else the one inside the installed package."""
    here = Path(__file__).resolve().parent
    checkout = here.parents[1] / "conf"
    return checkout if here.parent.name == "src" and (checkout / "config.yaml").is_file() else here / "conf"
