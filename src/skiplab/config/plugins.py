"""Hydra's own keys and plugins: which are taken here, and what to write for the others.

A plugin that nobody asks for is not imported. Imports no torch.
"""

import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import conf_folder, own_files

# conf/hydra/launcher has ready values for plugins that bring a schema of the same name. Hydra
# checks the values against it, and warns that it does.
warnings.filterwarnings(
    "ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
)
# The extra of skiplab that brings a launcher.
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
PLUGGED = re.compile(
    r"^[^#\n]*(?:hydra_plugins|\bhydra/\w+: *(?!disabled|default|basic|skiplab|none|null)\w)",
    re.MULTILINE,
)
# What to write for each of Hydra's keys. Of several that fit the longest counts.
TWINS = {
    "hydra.mode": "a sweep is asked for by -m, or by sweep=NAME",
    "hydra.run": "write out=FOLDER",
    "hydra.sweep": "a study's folder is outputs/studies/NAME, write study=NAME",
    "hydra.sweep.subdir": "the runs of a study get folders of their own; "
    "to name them, write out=runs/${block.name}-${seed}",
    "hydra.sweeper": "write the grid as train -m KEY=VALUES; jobs=N says how many run at once",
    "hydra/sweeper": "train -m runs a grid; "
    "skiplab search KEY=VALUES --trials N searches, with Optuna",
    "hydra.job": "nothing here reads it; leave it out",
    "hydra.job.chdir": "a run stays in the folder that it is started in; cd there first",
    "hydra.job.name": "write name=LABEL",
    "hydra.job.env_set": "set the variable before the command, VARIABLE=VALUE train ...",
    "hydra.job.env_copy": "set the variable before the command, VARIABLE=VALUE train ...",
    "hydra.verbose": "write trainer.log_every=1, which tells of every step",
    "hydra.output_subdir": "Hydra's record of the command is .hydra in the run folder; "
    "to choose that folder, write out=FOLDER",
    "hydra.searchpath": "options of your own lie in conf/ in the working folder, "
    "or write --config-dir DIR",
    "hydra.help": "train --help is made of conf/; leave it out",
    "hydra.callbacks": "no callbacks are called here; "
    "result.json and skiplab list tell what became of a run",
    "hydra.launcher": "write hydra/launcher=NAME, and its options as hydra.launcher.OPTION=VALUE",
}
LOGGING = "run.log in the run folder holds all that is said; trainer.log_every=N says how often"
TWINS |= dict.fromkeys(
    ("hydra.job_logging", "hydra/job_logging", "hydra.hydra_logging", "hydra/hydra_logging"),
    LOGGING,
)
TWINS |= {"hydra/callbacks": TWINS["hydra.callbacks"], "hydra/output": TWINS["hydra.output_subdir"]}
TWINS |= dict.fromkeys(("hydra/help", "hydra/hydra_help", "hydra.hydra_help"), TWINS["hydra.help"])
# Overrides that ask for what is so anyway.
AS_IT_IS = {
    ("hydra.run.dir", "."),
    ("hydra.sweep.subdir", "."),
    ("hydra.output_subdir", "null"),
    ("hydra.job.chdir", "false"),
    ("hydra.verbose", "false"),
    ("hydra/job_logging", "disabled"),
    ("hydra/hydra_logging", "disabled"),
    ("hydra/sweeper", "basic"),
    *((f"hydra/{group}", "default") for group in ("output", "help", "hydra_help", "env")),
}


def twin(name: str, value: str) -> str | None:
    """Return what to write for an override of Hydra's own that is not taken here.

    None: it is taken, since it is of a launcher or asks for what is so anyway.
    """
    is_launcher = name == "hydra/launcher" or name.startswith("hydra.launcher.")
    if is_launcher or (name, value.lower()) in AS_IT_IS:
        return None
    fits = [word for word in TWINS if name == word or name.startswith((f"{word}.", f"{word}/"))]
    return TWINS[max(fits, key=len)] if fits else "nothing here reads it; leave it out"


def needed(texts: Iterable[str]) -> bool:
    """Return whether these overrides or a file in conf/ may ask for a plugin of Hydra's."""
    if any(text.lstrip("+~").startswith("hydra") for text in texts):
        return True
    # The files of conf/hydra/ only offer launchers.
    own = conf_folder() / "hydra"
    return any(
        PLUGGED.search(path.read_text(encoding="utf-8", errors="replace"))
        for path in (*conf_folder().rglob("*.yaml"), *own_files())
        if own not in path.parents
    )


def choose(texts: Iterable[str]) -> None:
    """Keep Hydra from importing its installed plugins, unless one is asked for.

    It would import all of them, and stop at one that fails. None in sys.modules means to Python
    that there is no such package, and so to Hydra that no plugin is installed.

    Raises UsageError if one is asked for and any of them fails.
    """
    if not needed(texts):
        sys.modules.setdefault("hydra_plugins", None)  # pyright: ignore[reportArgumentType]
        return
    try:
        Plugins.instance()
    # A module of somebody else may raise anything.
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        names = [each.filename for each in frames if "hydra_plugins" in each.filename]
        culprit = names[-1] if names else "hydra_plugins"
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(
            f"{culprit}: a plugin that cannot be imported ({said}); uninstall it"
        ) from None


def check_launcher(texts: Sequence[str]) -> None:
    """Raise UsageError if a launcher is asked for that is not installed, or not known."""
    wanted = [text.partition("=")[2] for text in texts if text.startswith("hydra/launcher=")]
    known = Plugins.instance().class_name_to_class if wanted else {}
    for name in wanted:
        path = conf_folder() / "hydra/launcher" / f"{name}.yaml"
        ours = [path.stem for path in path.parent.glob("*.yaml")]
        theirs = [
            node.removesuffix(".yaml") for node in ConfigStore.instance().list("hydra/launcher")
        ]
        if name not in (*ours, *theirs):
            raise UsageError(
                f"hydra/launcher={name}: no such launcher; {nearest(name, {*ours, *theirs})}"
            )
        if (
            name in EXTRAS
            and path.is_file()
            and yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"] not in known
        ):
            raise UsageError(
                f"hydra/launcher={name}: is not installed; pip install 'skiplab[{EXTRAS[name]}]'"
            )
