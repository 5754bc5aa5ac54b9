"""`skiplab search`: hyperparameters by Optuna, each trial a run under the studies' supervisor.

Optuna is asked for a trial and told its result, one by one. Its journal file holds all of that, so
a search that was killed goes on, with the trials that the kill broke off. Imports no torch.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Override

from skiplab import locations, paths
from skiplab.config import compose, grid, overrides, stored
from skiplab.config.schema import Config
from skiplab.errors import FolderError, UsageError
from skiplab.launch import with_data
from skiplab.machine import streams
from skiplab.machine.signals import StopSignal
from skiplab.runs import folders, lock, status
from skiplab.study import (
    plan,
    progress_view,
    record,
    search_report,
    search_space as spaces,
    slots,
    supervisor,
)
from skiplab.study.search_files import JOURNAL, count_lines, drop_torn_line, last_evaluation
from skiplab.study.supervisor import Job

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

# No trial is pruned in this first part of its run.
WARMUP_SHARE = 0.2
# No trial is pruned before this many have ended.
STARTUP_TRIALS = 5


def require_optuna() -> None:
    """Import Optuna and silence it. Raises UsageError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UsageError("skiplab search: needs Optuna; pip install 'skiplab[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_sampler(seed: int) -> "optuna.samplers.BaseSampler":
    """Make Optuna's TPE sampler.

    It takes trials that still run for bad ones, so that trials that run at the same time differ.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        # Optuna 4 warns that constant_liar is experimental.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, constant_liar=True)


def name_of(parsed: Sequence[Override]) -> str:
    """Return a search's name: its keys, and a hash of all overrides that change numbers."""
    texts = sorted(str(o.input_line) for o in parsed if plan.changes_numbers(o.key_or_group))
    keys = [o.key_or_group.rpartition(".")[2] for o in parsed if o.is_sweep_override()]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:4]
    return folders.slug("-".join(["search", *keys, digest]))[: plan.LONGEST_NAME]


@dataclass(frozen=True)
class Options:
    """The options of a search: overrides as typed, and how many trials it comes to."""

    texts: Sequence[str]
    trials: int
    sampler_seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The exit code of a search, and what it has found, as docs/json.md states it."""

    code: int
    found: Mapping[str, object]


def command(options: Options) -> Outcome:
    """Run a search until it has `options.trials` trials, then report.

    Raises UsageError for what cannot be searched, FolderError if the folder cannot be made.
    """
    require_optuna()
    parsed, space, fixed = check(options.texts)
    base = compose.compose_config(fixed)
    if base.val_fraction == 0:
        raise UsageError("val_fraction=0: a search goes by validation accuracy; set it above 0")
    # What is wrong with one's own images would fail each trial.
    with_data(seal_test_set(base))
    folder = locations.studies() / (base.study or name_of(parsed))
    plan.check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder}: cannot be made ({error.strerror})") from None
    streams.spare()
    with lock.hold(folder):
        search = Search(folder, fixed, space, options)
        typed = f"{grid.for_people(options.texts)} --trials {options.trials}{paths.flag_for_own()}"
        record.write(folder, command=f"skiplab search {typed}")
        code = search.run(base)
        found = search_report.report(search.study, folder, search.fixed)
    states = {trial.state.name for trial in search.trials()}
    if code == 0 and "COMPLETE" not in states:
        return Outcome(1, found)
    return Outcome(code or (7 if "RUNNING" in states else 0), found)


def check(
    texts: Sequence[str],
) -> tuple[list[Override], "dict[str, BaseDistribution]", list[str]]:
    """Return the parsed overrides of a search, its space, and the overrides with one value.

    Raises UsageError for what cannot be searched.
    """
    if presets := [text for text in texts if text.startswith("sweep=")]:
        raise UsageError(
            f"{presets[0]}: a preset is a grid for train; name the keys to search: "
            "block=conv,skip depth=2,6"
        )
    if any(text.replace(" ", "").startswith("evaluator.split=test") for text in texts):
        raise UsageError("evaluator.split=test: a search leaves the test set sealed; leave it out")
    overrides.check(texts, multirun=True, is_search=True)
    parsed = grid.parsed(texts)
    space = spaces.space_of(parsed)
    if "seed" in space:
        raise UsageError(
            "seed: cannot be searched; give one, and compare seeds with train -m seed=0,1,2"
        )
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    spaces.check_ends(parsed, fixed)
    return parsed, space, fixed


def seal_test_set(config: Config) -> Config:
    """Return the config of a trial, which reports on validation and does not read the test set."""
    return replace(config, evaluator=replace(config.evaluator, split="val"))


class Search:
    """A search in its folder. Raises UsageError if the folder holds a search of another space."""

    def __init__(
        self,
        folder: Path,
        fixed: Sequence[str],
        space: "Mapping[str, BaseDistribution]",
        options: Options,
    ):
        self.folder = folder
        self.fixed = list(fixed)
        self.space = dict(space)
        self.options = options
        self.study = self._open_study()
        self._check_settings()
        # A run folder's trial is None once Optuna has been told how it ended.
        self.open_trials: dict[str, Trial | None] = {}
        # This is the last step of each run folder that Optuna has been told of.
        self.reported: dict[str, int] = {}

    def _open_study(self) -> "optuna.Study":
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        journal = self.folder / JOURNAL
        drop_torn_line(journal)
        return optuna.create_study(
            study_name=self.folder.name,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            direction="maximize",
            load_if_exists=True,
            sampler=make_sampler(self.options.sampler_seed + count_lines(journal)),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=0),
        )

    def _check_settings(self) -> None:
        space = {key: str(distribution) for key, distribution in self.space.items()}
        before = self.study.user_attrs.get("space", space)
        if before != space:
            raise UsageError(
                f"study={self.folder.name}: was searched over {', '.join(before)} in other "
                "ranges; take another study=NAME"
            )
        kept = sorted(text for text in self.fixed if plan.changes_numbers(text.partition("=")[0]))
        kept += spaces.digests_of(grid.parsed(self.options.texts))
        if (other := self.study.user_attrs.get("fixed", kept)) != kept:
            apart = sorted({*other} ^ {*kept})
            raise UsageError(
                f"study={self.folder.name}: was searched with other values ({', '.join(apart)}); "
                "take another study=NAME"
            )
        self.study.set_user_attr("space", space)
        self.study.set_user_attr("fixed", kept)

    def run(self, base: Config) -> int:
        """Run the trials that a kill broke off, then further ones; the exit code of a signal.

        `base` is the config with the overrides that all trials share.
        """
        from optuna.trial import Trial

        broken_off = [trial for trial in self.trials() if trial.state.name == "RUNNING"]
        jobs = [
            job
            for trial in broken_off
            if (job := self.job_of(Trial(self.study, trial._trial_id))) is not None
        ]
        places = slots.slots_for([base], jobs=base.jobs)
        done = len(self.ended())
        print(
            f"search {self.folder}: {', '.join(self.space)}; "
            f"{done} of {self.options.trials} trials done before"
            + (f", {len(jobs)} to go on with" if jobs else "")
            + f"; {len(places)} at a time",
            flush=True,
        )
        total = self.options.trials - done
        view = SearchView(progress_view.make_view(slots=len(places), total=total), self)
        policy = supervisor.Policy(
            retries=base.retries,
            go_on=True,
            next_job=self.next_job,
            should_prune=self.should_prune,
        )
        try:
            with StopSignal() as stop_signal, stop_signal.heeded():
                return supervisor.run(jobs, places, view, stop_signal, policy)
        finally:
            view.inner.close()

    def trials(self) -> "list[FrozenTrial]":
        """Return all trials, whatever their state."""
        return self.study.get_trials(deepcopy=False)

    def ended(self) -> "list[FrozenTrial]":
        """Return the trials that count: complete, pruned or failed."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def next_job(self) -> Job | None:
        """Ask Optuna for a trial and return its job; None when there are enough trials.

        A combination that cannot be built is recorded as failed, and the next one is asked for.
        """
        while len(self.ended()) + self._count_open() < self.options.trials:
            if job := self.job_of(self.study.ask(self.space)):
                return job
        return None

    def _count_open(self) -> int:
        return sum(trial is not None for trial in self.open_trials.values())

    def job_of(self, trial: "Trial") -> Job | None:
        """Return a trial's job; None if its combination cannot be built, or was run before.

        Optuna is then told at once.
        """
        from optuna.trial import TrialState

        given = [grid.for_hydra(f"{key}={value}") for key, value in trial.params.items()]
        texts = [*self.fixed, *given]
        try:
            config = plan.within_budget(seal_test_set(compose.compose_config(texts)))
        except UsageError as error:
            trial.set_user_attr("reason", str(error).split("\n")[0])
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        # A run with the same parameters would be bit for bit identical.
        if (same := self.complete_with(trial.params)) is not None:
            trial.set_user_attr("folder", same.user_attrs["folder"])
            self.study.tell(trial, same.value)
            return None
        words = " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in trial.params.items()
        )
        run = self.folder / f"trial-{trial.number:04d}_{stored.identity(config)[:8]}"
        trial.set_user_attr("folder", str(run))
        self.open_trials[str(run)] = trial
        config = replace(config, out=str(run), pictures="never")
        log = self.folder / "logs" / f"{run.name}.log"
        return Job(plan.Cell(f"#{trial.number} {words}", config, run, log))

    def complete_with(self, params: Mapping[str, object]) -> "FrozenTrial | None":
        """Return a complete trial with the same parameters; None if there is none."""
        for trial in self.trials():
            has_run = trial.state.name == "COMPLETE" and "folder" in trial.user_attrs
            if has_run and trial.params == params:
                return trial
        return None

    def should_prune(self, job: Job) -> bool:
        """Report a running trial's last evaluation to Optuna; return whether to give it up."""
        key = str(job.cell.folder)
        last = last_evaluation(job.cell.folder)
        if last is None or last.step <= self.reported.get(key, 0):
            return False
        self.reported[key] = last.step
        config = job.cell.config
        whole = config.steps / (last.step / last.epoch) if config.steps else config.epochs
        # Runs of different lengths and batch sizes are compared at the same part of their training.
        percentage = round(100 * last.epoch / whole)
        trial = self.open_trials[key]
        assert trial is not None
        with warnings.catch_warnings():
            # Optuna warns where two evaluations fall on one percentage: the first one stays.
            warnings.simplefilter("ignore", UserWarning)
            trial.report(last.val_accuracy, percentage)
        return 100 * WARMUP_SHARE <= percentage < 100 and bool(trial.should_prune())

    def tell(self, job: Job) -> None:
        """Tell Optuna how a trial ended. One that was stopped stays open: it goes on later."""
        from optuna.trial import TrialState

        key = str(job.cell.folder)
        trial = self.open_trials.get(key)
        if trial is None or job.state not in ("finished", "failed", "stopped"):
            return
        found = status.read(job.cell.folder)
        if job.state == "finished" and found.val_accuracy is not None:
            self.study.tell(trial, found.val_accuracy)
        elif job.state == "failed":
            trial.set_user_attr("reason", job.reason)
            self.study.tell(trial, state=TrialState.FAIL)
        elif job.is_pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            return
        self.open_trials[key] = None


class SearchView:
    """A view that also tells the search."""

    def __init__(self, inner: progress_view.Lines, search: Search):
        self.inner = inner
        self.search = search

    def changed(self, job: Job, jobs: Sequence[Job]) -> None:
        """Show the change, then tell the search."""
        self.inner.changed(job, jobs)
        self.search.tell(job)

    def tick(self, jobs: Sequence[Job]) -> None:
        """Show that some time has passed."""
        self.inner.tick(jobs)
