"""A search for the best values of some keys: trials are asked of Optuna one after the other and run as jobs of a sweep.

What is judged is the best validation of ``hydra.sweeper.metric``, never the test. Tree-structured Parzen estimator:
Bergstra et al. 2011, https://papers.nips.cc/paper/4443; Optuna: Akiba et al. 2019, https://arxiv.org/abs/1907.10902.
"""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from vibench.config import frozen
from vibench.errors import ConfigError, OutputError
from vibench.launch.launch import LOCAL_S, SweepError, join, show, stopped_here
from vibench.launch.place import Place
from vibench.launch.preflight import Checked, Composer, accepted, check, freeze_all, new_plan
from vibench.launch.slurm import SlurmError, first_line
from vibench.launch.space import distribution, samples, told, typed, validations
from vibench.launch.sweep import Job, Sweep, claimed
from vibench.launch.verdict import Verdict
from vibench.launch.watch import counted, in_words, place_of, say, verdicts
from vibench.report.known_runs import runs_of
from vibench.report.status import amend, read_status
from vibench.report.sweep_picture import draw_search
from vibench.signals import Stopped, heeded

if TYPE_CHECKING:
    import optuna

INFEASIBLE = {"MEMORY": "memory", "NAN": "finite"}  # kind of a failure that its values are to blame for -> constraint
STOPPED = ("cancelled", "planned", "lost", "preempted")  # states of trials that a new start goes on with
STUDY = "study.db"


class SearchError(SweepError):
    """The search did not come to its end as it should."""


class Search:
    """
    Args:
        sweep: new, or one whose directory holds a search that goes on.
        options: of the sweeper, as composed.
        arguments: overrides, those that are searched among them: ``key=a,b``, ``choice``, ``range``, ``interval``.

    Raises:
        ConfigError: no study can be made of that.
    """

    def __init__(self, sweep: Sweep, options: dict[str, Any], arguments: Sequence[str], compose: Composer) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                ["hydra/sweeper=optuna needs Optuna, which is not installed; pip install 'vibench[search]'"]
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.options, self.compose = sweep, options, compose
        parsed = OverridesParser.create().parse_overrides(list(arguments))
        self.fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
        self.space = {o.get_key_element(): distribution(o) for o in parsed if o.is_sweep_override()}
        if not self.space:
            raise ConfigError(
                ["hydra/sweeper=optuna has nothing to search; give e.g. training.lr=tag(log,interval(1e-4,1e-2))"]
            )
        self.metric, self.direction = self._objective()
        join(sweep, [])
        sweep.search = True
        self.study = self._study()
        self.place: Place = place_of(sweep.launcher)
        self.plan = new_plan(on_cluster=self.place.is_cluster)
        self.running: dict[int, optuna.Trial] = {}
        self.waiting: dict[int, tuple[optuna.Trial, Checked]] = {}  # that SLURM did not take
        self.pruning: set[int] = set()
        self.said: dict[int, str] = {}

    def _objective(self) -> tuple[str, str]:
        """What is judged, and whether min or max of it is better; by the first values that make an experiment.

        Raises:
            ConfigError: none do, or nothing can be judged.
        """
        complaints: list[str] = []
        for values in samples(self.space):
            found = self.compose(Job(number=0, name="", overrides=[*self.fixed, *values], folder=""))
            if found.config is not None:
                break
            complaints = complaints or found.refused
        else:
            raise ConfigError(complaints)
        metric = self.options["metric"] or found.config.training.monitor
        better = {"loss": "min"} | {
            f"{name}/{key}": mode for name, task in found.config.task.items() for key, mode in task.METRICS.items()
        }
        if metric not in better:
            raise ConfigError(
                [f"hydra.sweeper.metric={metric} is produced by no enabled task; use one of {', '.join(better)}"]
            )
        if not found.config.data.split.has_validation:
            raise ConfigError(
                ["hydra/sweeper=optuna needs a validation, but data.split leaves none; give data.split.val"]
            )
        return metric, better[metric]

    def _study(self) -> "optuna.Study":
        import optuna

        folder, pruners = self.sweep.folder, {"none": optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner}
        storage = self.options["storage"] or f"sqlite:///{(folder / STUDY).absolute()}"
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=self.options["study"],
                pruner=pruners[self.options["pruner"]](),
                direction={"min": "minimize", "max": "maximize"}[self.direction],
                load_if_exists=True,
            )
        except Exception as error:  # of whatever database it is
            raise OutputError(f"hydra.sweeper.storage={storage} cannot be used: {first_line(error)}") from error
        space = {key: repr(one) for key, one in self.space.items()}
        asked = {"metric": self.metric, "space": space, "fixed": self.fixed, "folder": str(folder.absolute())}
        known = study.user_attrs.get("asked", asked)
        if differ := [key for key in asked if known.get(key) != asked[key]]:
            told = ", ".join(f"{key} {known.get(key)}, not {asked[key]}" for key in differ)
            raise ConfigError(
                [f"{storage} holds another study {self.options['study']}: {told}; name another hydra.sweeper.study"]
            )
        study.set_user_attr("asked", asked)
        seed = self.options["seed"] + len(study.get_trials(deepcopy=False))  # or the same values would be drawn again
        if self.options["sampler"] == "tpe":
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)
        else:
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
        return study

    def run(self, console: Console | None = None) -> None:
        """Until all trials have ended; then the best is shown.

        Raises:
            SearchError: some failed without their values being to blame, or none was completed.
            Stopped: by a signal; the same line goes on.
        """
        console = console or Console()
        with heeded() as ignore_signals, claimed(self.sweep.folder, wait=False):
            try:
                self.sweep.write()
                self._go_on()
                while self.running or self.waiting or self._asked() < self.options["trials"]:
                    try:
                        self._look(console)
                    except SlurmError as error:  # its controller may be down for a while
                        say(console, f"{time.strftime('%H:%M:%S')} {error}; asking again")
                    time.sleep(self.sweep.launcher.get("poll_s", LOCAL_S))
            except Stopped:
                stopped_here(self.sweep, self.place)
                print(f"stopped; the same line with hydra.sweep.dir={self.sweep.folder} goes on with the search")
                raise
            ignore_signals()
            self._conclude(console)

    def _asked(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def _look(self, console: Console) -> None:
        """Once: begin what there is room for, and see what has become of the others."""
        for trial, one in list(self.waiting.values()):
            self._submit(trial, one)
        while len(self.running) < self.options["at_once"] and self._asked() < self.options["trials"]:
            trial = self.study.ask(self.space)
            self._begin(trial, self._job(trial))
        found = verdicts(self.sweep, self.place)
        for job in self.sweep.jobs:
            one = found[job.number]
            if one.state != self.said.get(job.number):
                say(console, f"{time.strftime('%H:%M:%S')} {in_words(job, one)}")
                self.said[job.number] = one.state
        for number in list(self.running):
            self._follow(number, found[number])

    def _job(self, trial: "optuna.Trial") -> Job:
        """The job of a trial, in the manifest from now on."""
        job = Job(
            number=trial.number,
            name=" ".join(told(key, value) for key, value in trial.params.items()),
            overrides=[*self.fixed, *(typed(key, value) for key, value in trial.params.items())],
            folder=str(trial.number),
        )
        self.sweep.jobs = [*(known for known in self.sweep.jobs if known.number != job.number), job]
        self.sweep.write()
        return job

    def _begin(self, trial: "optuna.Trial", job: Job) -> None:
        """Submit a trial; what is refused is told at once, so that the next ones avoid it."""
        job.refused = []
        frozen_before = (self.sweep.run_dir(job) / frozen.FILE).exists()
        one = accepted(job, frozen.thaw(self.sweep.run_dir(job), [])) if frozen_before else self.compose(job)
        check(self.sweep, [one], self.place, self.plan)
        if one.refused:
            self.sweep.write()
            self._tell_infeasible(trial, "refused", one.refused[0])
        elif (same := self._same(one)) is not None:
            job.same_as = str(same)
            self.sweep.write()
            self.study.tell(trial, self._best(validations(same, self.metric)))
        else:
            freeze_all(self.sweep, [one])
            self.sweep.write()
            self._submit(trial, one)

    def _submit(self, trial: "optuna.Trial", one: Checked) -> None:
        self.waiting[trial.number] = (trial, one)
        self.place.submit(self.sweep, [one.request()])
        del self.waiting[trial.number]
        self.running[trial.number] = trial

    def _same(self, one: Checked) -> Path | None:
        """A completed run of the same config, whose value is this one's, too."""
        if self.sweep.launcher["on_duplicate"] == "allow":
            return None
        for run in runs_of(str(one.job.config_hash)):
            if read_status(run)["state"] == "completed" and validations(run, self.metric):
                return run
        return None

    def _go_on(self) -> None:
        """With trials of a search that was stopped: those that still run are watched, the others are begun again."""
        import optuna

        found, jobs = verdicts(self.sweep, self.place), {job.number: job for job in self.sweep.jobs}
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            again = optuna.Trial(self.study, trial._trial_id)
            if trial.number not in jobs:
                self._begin(again, self._job(again))
            elif found[trial.number].final and found[trial.number].state in STOPPED:
                self._begin(again, jobs[trial.number])
            else:
                self.running[trial.number] = again

    def _follow(self, number: int, one: Verdict) -> None:
        """Report the validations of a trial, prune it, or tell how it ended."""
        import optuna

        trial, run_dir = self.running[number], self.sweep.folder / str(number)
        values = validations(run_dir, self.metric)
        if not one.final:
            reported = self.study.get_trials(deepcopy=False)[number].intermediate_values
            for step, value in values.items():
                if step not in reported:
                    trial.report(value, step)
            if number not in self.pruning and values and trial.should_prune():
                self.pruning.add(number)
                self.place.end(self.sweep, [job for job in self.sweep.jobs if job.number == number])
            return
        del self.running[number]
        if one.state == "completed" and values:
            self.study.tell(trial, self._best(values))
        elif number in self.pruning:
            amend(run_dir, state="pruned", kind=None, error=f"no better than others by step {max(values, default=0)}")
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif one.kind in INFEASIBLE or one.state == "refused":
            self._tell_infeasible(trial, INFEASIBLE.get(one.kind, "refused"), one.said)
        else:
            trial.set_user_attr("why", one.said)
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _best(self, values: dict[int, float]) -> float:
        return min(values.values()) if self.direction == "min" else max(values.values())

    def _tell_infeasible(self, trial: "optuna.Trial", constraint: str, why: str) -> None:
        """A trial without a value, of which the sampler learns where not to look."""
        import optuna

        trial.set_constraint(constraint, 1.0)
        trial.set_user_attr("why", why)
        self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def _conclude(self, console: Console) -> None:
        import optuna

        found = verdicts(self.sweep, self.place)
        show(self.sweep, found, console)
        trials = self.study.get_trials(deepcopy=False)
        done = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
        failed = [trial for trial in trials if trial.state == optuna.trial.TrialState.FAIL]
        values = {trial.number: trial.value if trial in done else None for trial in trials}
        draw_search(values, self.metric, self.direction, self.sweep.folder / "search.svg")
        if done:
            best = self.study.best_trial
            line = shlex.join([*self.fixed, *(typed(key, value) for key, value in best.params.items())])
            say(console, f"best: trial {best.number} of {len(trials)}, val/{self.metric} {best.value:.4g}")
            say(console, f"vibench-train {line}")
        if failed or not done:
            raise SearchError(f"{counted(found)}; {len(failed)} trials failed, {len(done)} have a value")
