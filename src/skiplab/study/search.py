"""`skiplab search`: hyperparameters by Optuna, every trial a run of its own under the studies' supervisor. Imports no torch.

Asked and told trial by trial; what was asked lies in a journal file, so that a search that was
killed goes on, its broken trials too.
"""

import hashlib
import json
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from skiplab.config import compose, grid, overrides, stored
from skiplab.config.schema import Config
from skiplab.errors import FolderError, UsageError, in_words
from skiplab.machine import streams
from skiplab.machine.signals import StopSignal
from skiplab.runs import checkpoint, folders
from skiplab.study import plan, progress_view, record, search_space as spaces, slots, supervisor
from skiplab.study.supervisor import Job
from skiplab.words import percent

JOURNAL = "search.journal"
PICTURE = "search.png"
# complete trials, below which importances are a rough guess
MANY = 20
# of a run, in which no trial is pruned
WARMUP_EPOCHS_SHARE = 0.2
# before the first is pruned
STARTUP_TRIALS = 5
# bytes of metrics.jsonl that are looked through for its last evaluation
TAIL = 4_000


def load_optuna() -> Any:
    """Optuna, quiet. Raises UsageError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UsageError("skiplab search: needs Optuna; pip install 'skiplab[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def make_sampler(optuna: Any, seed: int) -> Any:
    """Optuna's TPE, which takes trials that still run for bad ones, so that trials side by side are not alike."""
    with warnings.catch_warnings():
        # Optuna 4 says so of constant_liar
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def name_of(parsed: Sequence[Override]) -> str:
    """A search's name, from its keys and a hash of all that it is told: another space is another search."""
    texts = sorted(str(o.input_line) for o in parsed if plan.changes_numbers(o.key_or_group))
    keys = [o.key_or_group.rpartition(".")[2] for o in parsed if o.is_sweep_override()]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:4]
    return folders.slug("-".join(["search", *keys, digest]))[: plan.LONGEST_NAME]


@dataclass(frozen=True)
class Options:
    """What a search is told."""

    texts: Sequence[str]
    trials: int
    sampler_seed: int = 0


def command(options: Options) -> int:
    """Search until so many trials are there; the best command line, importances and a picture. The exit code."""
    optuna = load_optuna()
    if presets := [text for text in options.texts if text.startswith("sweep=")]:
        raise UsageError(
            f"{presets[0]}: a preset is a grid for train; a search is told its keys: block=conv,skip depth=2,6"
        )
    if any(text.replace(" ", "").startswith("evaluator.split=test") for text in options.texts):
        raise UsageError("evaluator.split=test: a search leaves the test set sealed; leave it out")
    overrides.check(options.texts, multirun=True, is_search=True)
    parsed = grid.parsed(options.texts)
    space = spaces.space_of(parsed)
    if "seed" in space:
        raise UsageError(
            "seed: to search over seeds is to pick luck; give one, and compare the best by train -m seed=0,1,2"
        )
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    spaces.check_ends(parsed, fixed)
    base = compose.compose_config(fixed)
    if base.val_fraction == 0:
        raise UsageError("val_fraction=0: a search goes by validation accuracy; set it above 0")
    folder = plan.STUDIES / (base.study or name_of(parsed))
    plan.check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder}: cannot be made ({error.strerror})") from None
    streams.spare()
    with folders.locked(folder):
        search = Search(optuna, folder, fixed, space, options)
        record.write(
            folder,
            command=f"skiplab search {grid.for_people(options.texts)} --trials {options.trials}",
        )
        code = search.run(base)
        search.close()
    states = [trial.state for trial in search.study.get_trials(deepcopy=False)]
    if code == 0 and optuna.trial.TrialState.COMPLETE not in states:
        return 1
    return code or (7 if optuna.trial.TrialState.RUNNING in states else 0)


def cut_torn(path: Path) -> None:
    """Take away the last line of a journal if a kill or a full disk has left it half written. Raises UsageError if more is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    whole = content[: content.rfind(b"\n") + 1]
    try:
        for line in whole.splitlines():
            json.loads(line)
    except ValueError:
        raise UsageError(
            f"{path}: damaged; its runs are kept, but the search cannot go on: take another study=NAME"
        ) from None
    if whole != content:
        checkpoint.write_atomically(path, whole)


def sealed(config: Config) -> Config:
    """The config of a trial, which reports on validation and leaves the test set alone."""
    return replace(config, evaluator=replace(config.evaluator, split="val"))


class Search:
    """A search in its folder."""

    def __init__(
        self,
        optuna: Any,
        folder: Path,
        fixed: Sequence[str],
        space: "Mapping[str, Any]",
        options: Options,
    ):
        self.optuna, self.folder, self.fixed, self.space, self.options = (
            optuna,
            folder,
            list(fixed),
            dict(space),
            options,
        )
        cut_torn(folder / JOURNAL)
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
        )
        self.study = optuna.create_study(
            study_name=folder.name,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            sampler=make_sampler(optuna, options.sampler_seed + count_lines(folder / JOURNAL)),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=0),
        )
        told = {key: str(distribution) for key, distribution in self.space.items()}
        before = self.study.user_attrs.get("space", told)
        if before != told:
            raise UsageError(
                f"study={folder.name}: was searched over {', '.join(before)} in other ranges; take another study=NAME"
            )
        kept = sorted(text for text in fixed if plan.changes_numbers(text.partition("=")[0]))
        if (other := self.study.user_attrs.get("fixed", kept)) != kept:
            apart = sorted({*other} ^ {*kept})
            raise UsageError(
                f"study={folder.name}: was searched with other values ({', '.join(apart)}); take another study=NAME"
            )
        self.study.set_user_attr("space", told)
        self.study.set_user_attr("fixed", kept)
        # by run folder
        self.trials: dict[str, Any] = {}
        self.reported: dict[str, int] = {}

    def run(self, base: Config) -> int:
        """Trials that a kill broke off, then fresh ones, until there are so many; the exit code that a signal asked for."""
        unfinished = [
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.state == self.optuna.trial.TrialState.RUNNING
        ]
        jobs = [
            job
            for trial in unfinished
            if (job := self.job_of(self.optuna.trial.Trial(self.study, trial._trial_id)))
        ]
        places = slots.slots_for([base], jobs=base.jobs)
        done = len(self.ended())
        print(
            f"search {self.folder}: {', '.join(self.space)}; {done} of {self.options.trials} trials done before"
            + (f", {len(jobs)} to go on with" if jobs else "")
            + f"; {len(places)} at a time",
            flush=True,
        )
        shown = Watched(
            progress_view.of_terminal(slots=len(places), total=self.options.trials - done), self
        )
        try:
            with StopSignal() as stop_signal, stop_signal.heeded():
                return supervisor.run(
                    jobs,
                    places,
                    shown,
                    stop_signal,
                    retries=base.retries,
                    go_on=True,
                    more=self.more,
                    is_hopeless=self.is_hopeless,
                )
        finally:
            shown.inner.close()

    def ended(self) -> list[Any]:
        """The trials that count: complete, pruned or failed."""
        return [
            trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()
        ]

    def more(self) -> Job | None:
        """A fresh trial as a job; None when there are enough. A combination that cannot be is told as failed."""
        while (
            len(self.ended()) + sum(1 for trial in self.trials.values() if trial is not None)
            < self.options.trials
        ):
            if job := self.job_of(self.study.ask(self.space)):
                return job
        return None

    def job_of(self, trial: Any) -> Job | None:
        """A trial's job; None if its combination cannot be, or was run before: the study is told at once."""
        texts = [*self.fixed, *(f"{key}={value}" for key, value in trial.params.items())]
        try:
            config = plan.within_budget(sealed(compose.compose_config(texts)))
        except UsageError as error:
            trial.set_user_attr("reason", str(error).split("\n")[0])
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            return None
        # its run would be equal to the bit
        if (same := self.done_with(trial.params)) is not None:
            trial.set_user_attr("folder", same.user_attrs["folder"])
            self.study.tell(trial, same.value)
            return None
        words = " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in trial.params.items()
        )
        run = self.folder / f"trial-{trial.number:04d}_{stored.identity(config)[:8]}"
        trial.set_user_attr("folder", str(run))
        self.trials[str(run)] = trial
        cell = plan.Cell(
            f"#{trial.number} {words}",
            replace(config, out=str(run), pictures="never"),
            run,
            self.folder / "logs" / f"{run.name}.log",
        )
        return Job(cell)

    def done_with(self, params: Mapping[str, Any]) -> Any | None:
        """A complete trial with the same parameters; None if there is none."""
        complete = (
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.state == self.optuna.trial.TrialState.COMPLETE
        )
        return next(
            (
                trial
                for trial in complete
                if trial.params == params and "folder" in trial.user_attrs
            ),
            None,
        )

    def is_hopeless(self, job: Job) -> bool:
        """Report how a running trial stands; whether the pruner gives it up."""
        key = str(job.cell.folder)
        last = last_evaluation(job.cell.folder)
        if last is None or last["step"] <= self.reported.get(key, 0):
            return False
        self.reported[key] = last["step"]
        config = job.cell.config
        whole = config.steps / (last["step"] / last["epoch"]) if config.steps else config.epochs
        # runs of different lengths and batch sizes are compared at the same part
        percentage = round(100 * last["epoch"] / whole)
        trial = self.trials[key]
        with warnings.catch_warnings():
            # two evaluations may fall on one percentage: the first stays
            warnings.simplefilter("ignore", UserWarning)
            trial.report(last["val_accuracy"], percentage)
        return (
            percentage >= 100 * WARMUP_EPOCHS_SHARE
            and percentage < 100
            and bool(trial.should_prune())
        )

    def told(self, job: Job) -> None:
        """Tell the study what became of a trial."""
        trial = self.trials.get(str(job.cell.folder))
        if trial is None or job.state not in ("finished", "failed", "stopped"):
            return
        states = self.optuna.trial.TrialState
        found = folders.state_of(job.cell.folder)
        if job.state == "finished" and found.val_accuracy is not None:
            self.study.tell(trial, found.val_accuracy)
        elif job.state == "failed":
            trial.set_user_attr("reason", job.reason)
            self.study.tell(trial, state=states.FAIL)
        elif job.is_unwanted:
            self.study.tell(trial, state=states.PRUNED)
        else:
            # stopped: the same command goes on with it
            return
        self.trials[str(job.cell.folder)] = None

    # -----------------------------------------------------------------------------------------------------------
    # the end

    def close(self) -> None:
        """The best command line, what mattered, and the picture."""
        states = self.optuna.trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        counts = {state: sum(trial.state == state for trial in trials) for state in states}
        told = [
            (states.COMPLETE, "complete"),
            (states.PRUNED, "pruned"),
            (states.FAIL, "failed"),
            (states.RUNNING, "broken off"),
        ]
        print(
            "\nsearch: "
            + ", ".join(f"{counts[state]} {word}" for state, word in told if counts[state])
        )
        for trial in trials:
            if trial.state == states.FAIL and "reason" in trial.user_attrs:
                print(f"  #{trial.number} failed: {trial.user_attrs['reason']}")
        if counts[states.COMPLETE] == 0:
            print("no trial has ended, so there is no best one yet")
            return
        best = self.study.best_trial
        run = shlex.quote(best.user_attrs["folder"])
        print(f"best on validation: {percent(best.value)} (trial {best.number}, {run})")
        importances = self.importances()
        if importances:
            few = (
                f" (of {counts[states.COMPLETE]} trials, so a rough guess)"
                if counts[states.COMPLETE] < MANY
                else ""
            )
            print(
                "importance: "
                + ", ".join(f"{key} {share:.2f}" for key, share in importances.items())
                + few
            )
        texts = [
            text
            for text in self.fixed
            if text.partition("=")[0] not in (*plan.BOOKKEEPING, "evaluator.split")
        ]
        texts += [f"{key}={value}" for key, value in best.params.items()]
        print(
            f"the test set was not read; for the trial that you choose: train resume={run} evaluator.split=test"
        )
        print(f"the best again:  train {grid.for_people(texts)}")
        history = [
            (trial.number, trial.value, trial.state.name)
            for trial in trials
            if trial.value is not None
        ]
        try:
            # matplotlib: half a second
            from skiplab.study.compare import pictures

            print(f"written: {pictures.search(self.folder / PICTURE, history, importances)}")
        # the search is done, whatever becomes of its picture
        except Exception as error:
            print(
                f"warning: {PICTURE} not drawn ({in_words(error)}); the same command again draws it",
                file=sys.stderr,
            )

    def importances(self) -> dict[str, float]:
        """How much of the variance each parameter explains (fANOVA, Hutter et al. 2014); none of fewer than three trials or equal ones."""
        complete = [
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.state == self.optuna.trial.TrialState.COMPLETE
        ]
        if len(complete) < 3 or len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(self.optuna.importance.get_param_importances(self.study, evaluator=evaluator))


class Watched:
    """A view that also tells the search."""

    def __init__(self, inner: progress_view.Lines, search: Search):
        self.inner, self.search = inner, search

    def changed(self, job: Job, jobs: Sequence[Job]) -> None:
        """Show, then tell."""
        self.inner.changed(job, jobs)
        self.search.told(job)

    def tick(self, jobs: Sequence[Job]) -> None:
        """Show."""
        self.inner.tick(jobs)


def last_evaluation(folder: Path) -> dict[str, Any] | None:
    """The last row of metrics.jsonl that has a validation accuracy; None before the first."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            rows = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(rows):
        if b'"val_accuracy"' in line:
            try:
                return json.loads(line)
            # cut off by the seek, or being written
            except ValueError:
                continue
    return None


def count_lines(path: Path) -> int:
    """Lines of a file that may not be there."""
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
