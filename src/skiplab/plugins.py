"""Hydra's plugins: whether one is asked for, whether it is installed; those that nobody asks for are left alone. Imports no torch."""

import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence

import yaml
from hydra.core.plugins import Plugins

from skiplab.errors import UsageError
from skiplab.paths import conf_folder

# conf/hydra/launcher has ready values for plugins that bring a schema of the same name, which is how they are checked
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}  # launcher -> what brings it
PLUGGED = re.compile(r"^[^#\n]*(?:hydra_plugins|\bhydra/\w+: *(?!disabled|default|basic|skiplab|none|null)\w)", re.MULTILINE)


def needed(texts: Iterable[str]) -> bool:
    """Whether these overrides or a file in conf/ may ask for a plugin of Hydra's, such as a launcher."""
    own = conf_folder() / "hydra"  # launchers to be asked for
    presets = (path.read_text(encoding="utf-8", errors="replace") for path in conf_folder().rglob("*.yaml") if own not in path.parents)
    return any(text.lstrip("+~").startswith("hydra") for text in texts) or any(map(PLUGGED.search, presets))


def choose(texts: Iterable[str]) -> None:
    """Have Hydra leave its installed plugins alone where nobody asks for one: it would import them all, and stop at one that fails.

    To Python None in sys.modules means that there is no such package, and to Hydra that means that no plugin is installed.
    """
    if not needed(texts):
        sys.modules.setdefault("hydra_plugins", None)  # pyright: ignore[reportArgumentType]
        return
    try:
        Plugins.instance()
    except Exception as error:  # whatever somebody else's module raises
        names = [frame.filename for frame in traceback.extract_tb(error.__traceback__) if "hydra_plugins" in frame.filename]
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"{names[-1] if names else 'hydra_plugins'}: a plugin that cannot be imported ({said}); uninstall it") from None


def check_launcher(texts: Sequence[str]) -> None:
    """Raise UsageError if a launcher is asked for that is not installed, or not known."""
    wanted = [text.partition("=")[2] for text in texts if text.startswith("hydra/launcher=")]
    known = Plugins.instance().class_name_to_class if wanted else {}
    for name in wanted:
        path = conf_folder() / "hydra/launcher" / f"{name}.yaml"
        if name in EXTRAS and path.is_file() and yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"] not in known:
            raise UsageError(f"hydra/launcher={name}: is not installed; pip install 'skiplab[{EXTRAS[name]}]'")
