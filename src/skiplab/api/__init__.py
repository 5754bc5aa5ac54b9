"""The Python interface: `skiplab.load`, `train`, `study`, `compare`, `runs`.

The same identities, folders and bits as the command line. Errors are raised: `SkiplabError` and its
kinds, whose texts are the lines that the command line prints.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from skiplab import locations
from skiplab.api.comparison import Comparison
from skiplab.api.interrupts import Interrupts
from skiplab.api.rows import Rows
from skiplab.api.run import Predictions, Run
from skiplab.errors import SkiplabError, UsageError

__all__ = ["Comparison", "Predictions", "Rows", "Run", "compare", "load", "runs", "study", "train"]

Value = str | int | float | bool | None | Sequence[str | int | float]
TRAIN = "from skiplab.cli.main import train; train()"


def load(
    path: str | Path,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    trust_code: bool = False,
) -> Run:
    """Open a run folder, or a checkpoint file wherever it lies.

    `checkpoint` is `best` or `last`, of a folder. The network is loaded, to `device`, when it is
    first used. Code of the run's own is run only if you have run it before, or with `trust_code`.
    Raises UsageError if there is no run at `path`, CheckpointError if a file is damaged.
    """
    if checkpoint not in ("best", "last"):
        raise UsageError(f"checkpoint={checkpoint}: best or last is expected")
    return Run(
        locations.given(str(path)), checkpoint=checkpoint, device=device, trust_code=trust_code
    )


def train(*overrides: str, **values: Value) -> Run:
    """Train a run as `train KEY=VALUE ...` does, and return it.

    `overrides` are texts such as "model=resnet"; `values` are keys with Python values, nested ones
    as `**{"optimizer.lr": 0.1}`. The same call continues an unfinished run, and `resume=FOLDER`
    any run. An interrupt saves first, then raises Stopped; the same call continues then.

    Raises UsageError for a wrong key or value, and the other errors that end a run.
    """
    from skiplab.cli import resume
    from skiplab.cli.train import run_once
    from skiplab.config import grammar, overrides as command_line

    texts = texts_of(overrides, values)
    source = resume.find_source(texts)
    chosen: list[Path] = []
    with Interrupts() as interrupts:
        if source is not None:
            rest = [text for text in texts if not text.startswith("resume=")]
            path = locations.given(source, key="resume")
            chosen.append(resume.find_folder(path))
            code = resume.resume_command(path, rest, stop_signal=interrupts)
        else:
            command_line.check(texts, multirun=False)
            evaluated = [grammar.evaluated(text) for text in texts]
            code = run_once(evaluated, interrupts, chosen=chosen.append)
    if code != 0:
        raise SkiplabError(f"{chosen[-1]}: the run failed; its run.log has the traceback")
    return Run(chosen[-1])


def study(*overrides: str, **values: Value) -> Comparison:
    """Train every combination of the given values, as `train -m ...` does, and compare the groups.

    A list is what a key is varied over: `skiplab.study(block=["conv", "residual"], seed=[0, 1])`.
    The study runs in a process of its own, whose output is shown here. An interrupt saves its runs;
    the same call continues then.

    Raises UsageError for a wrong key or value, SkiplabError if runs failed.
    """
    from skiplab.config import overrides as command_line
    from skiplab.study import sweep

    swept = {
        key: ",".join(map(text_of, value)) if isinstance(value, (list, tuple, range)) else value
        for key, value in values.items()
    }
    texts = texts_of(overrides, swept)
    command_line.check(texts, multirun=True)
    folder = sweep.plan_study(texts).folder
    code = show([sys.executable, "-c", TRAIN, "-m", *texts])
    if code != 0:
        raise SkiplabError(f"{folder}: the study ended with exit code {code}; see above")
    return compare(folder)


def show(command: Sequence[str]) -> int:
    """Run a command, print its output here as it comes, and return its exit code.

    An interrupt is passed on once, and raised again when the command has ended.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        # A terminal's Ctrl-C would reach it a second time.
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="")
        except BaseException:
            process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
            for line in process.stdout:
                print(line, end="")
            raise
    return process.returncode


def compare(*paths: str | Path, by: str | None = None, metric: str = "test.accuracy") -> Comparison:
    """Compare finished runs in groups, averaged over seeds. Writes no file.

    `paths` are studies or folders with runs, `by` the keys to group by ("block,depth"), `metric`
    one of those of `skiplab compare --help`. Over keys that `by` leaves out, runs are pooled in
    pairs with all else equal. Raises UsageError for what cannot be compared.
    """
    from skiplab.config.values import nearest
    from skiplab.study.compare import comparison, results

    if metric not in results.METRICS:
        raise UsageError(f"metric={metric}: {nearest(metric, results.METRICS)}")
    if not paths:
        raise UsageError("compare: the folder of a study is expected")
    keys = None if by is None else results.keys_of(by)
    found = results.read([locations.given(str(path)) for path in paths])
    return Comparison(comparison.compare(found, by=keys, metric=metric))


def runs(root: str | Path | None = None) -> Rows:
    """Return a row for each run under a folder, oldest first; by default under outputs/.

    Its keys: folder, state (finished, running, stopped or broken), step, num_steps, val_accuracy
    and test_accuracy (shares of 1), seconds, and the keys of its config as far as they can be read.
    """
    from skiplab.config import stored
    from skiplab.runs import folders, status

    rows: list[dict[str, object]] = []
    where = locations.outputs() if root is None else locations.given(str(root))
    for folder in folders.runs_under(where):
        if folders.problem_of(folder) is not None:
            rows.append({"folder": str(folder), "state": "broken"})
            continue
        try:
            values = stored.flat(stored.load(folder / folders.CONFIG))
        except UsageError:
            rows.append({"folder": str(folder), "state": "broken"})
            continue
        stands = status.read(folder)
        rows.append({"folder": str(folder), **vars(stands), **values})
    return Rows(rows)


def texts_of(overrides: Sequence[str], values: "dict[str, Value]") -> list[str]:
    """Return a command line's arguments. Raises UsageError for what is no KEY=VALUE."""
    from skiplab.config import typed

    for text in overrides:
        if not isinstance(text, str) or "=" not in text or text.startswith("-"):
            raise UsageError(f"{text}: KEY=VALUE is expected, as train takes it")
    given = [*overrides, *(f"{key}={text_of(value)}" for key, value in values.items())]
    return list(typed.checked(given))


def text_of(value: object) -> str:
    """Return a Python value as the command line has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(text_of, value))}]"
    return str(value)
