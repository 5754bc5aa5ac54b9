"""A row for each run of a comparison: its keys, its figures, its folder, where it stands.

Imports no torch.
"""

from pathlib import Path

from skiplab import provenance
from skiplab.errors import UsageError
from skiplab.runs import status
from skiplab.runs.result import RunResult
from skiplab.study.compare.groups import distinguishing, format_value, sortable, varying
from skiplab.study.compare.results import FIGURES, METRICS, Found, Result, values_of

# The seconds are train.seconds already.
FIGURES_OF_RUNS = (*METRICS, *(name for name in FIGURES if name != "seconds"))


def as_rows(found: Found) -> list[dict[str, object]]:
    """Return a row per run, finished or not, in plain numbers: no unit and no percentage.

    `status` is finished, running or stopped. `compared` is false for a run that the tables leave
    out: unfinished, changed on the way, or a repeat. What a run does not have is None.
    """
    begun = {folder: begun_run(folder) for folder in found.unfinished}
    known = [*found.finished, *(run for run in begun.values() if run is not None)]
    keys = distinguishing(known, varying(known)) if known else []
    counted = {id(run) for run in found.results}
    runs = [(run.folder, run, "finished") for run in found.finished]
    runs += [(folder, run, status.read(folder).state) for folder, run in begun.items()]
    rows: list[dict[str, object]] = []
    for folder, run, state in runs:
        row: dict[str, object] = {"folder": str(folder), "seed": run and run.seed}
        row |= {"status": state, "compared": id(run) in counted}
        row |= {key: run and plain(run.values.get(key)) for key in keys}
        done = run if state == "finished" else None
        row |= {name: done and figure(done, name) for name in FIGURES_OF_RUNS}
        rows.append(row)
    return sorted(rows, key=lambda row: [sortable(row[key]) for key in (*keys, "seed", "folder")])


def plain(value: object) -> object:
    """Return a config's value; several in one as a command line has them."""
    return format_value(value) if isinstance(value, (tuple, list)) else value


def begun_run(folder: Path) -> Result | None:
    """Return an unfinished run, without figures; None if its config cannot be read."""
    try:
        config = provenance.load(folder)
    except UsageError:
        return None
    return Result(folder, config, values_of(config), RunResult.of_tree({}), "")


def figure(run: Result, name: str) -> float | int | None:
    """Return a figure of a finished run; None where it has none."""
    try:
        found = run.metric(name)
    except UsageError:
        return None
    return int(found) if name in ("params", "macs") else found
