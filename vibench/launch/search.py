"""A search for the best values of some keys: trials are asked of Optuna one after the other and run as jobs of a sweep.

What is judged is the best validation of ``hydra.sweeper.metric``, never the test. Tree-structured Parzen estimator:
Bergstra et al. 2011, https://papers.nips.cc/paper/4443; Optuna: Akiba et al. 2019, https://arxiv.org/abs/1907.10902.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from vibench.errors import ConfigError, OutputError
from vibench.launch.launch import LOCAL_S, SweepError, joined, show, stopped_here
from vibench.launch.place import Place
from vibench.launch.preflight import Checked, accepted, check, composed, freeze_all, new_plan
from vibench.launch.space import distribution, first_of, told, typed, validations
from vibench.launch.sweep import FILE, Job, Sweep, claimed
from vibench.launch.verdict import Verdict
from vibench.launch.watch import counted, in_words, place_of, say, verdicts
from vibench.report.status import amend
from vibench.report.sweep_picture import draw_search
from vibench.signals import Stopped, heeded

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("vibench")
INFEASIBLE = {"MEMORY": "memory", "NAN": "finite"}  # kind of a failure that its values are to blame for -> constraint
STOPPED = ("cancelled", "planned", "lost", "preempted")  # states of trials that a new start goes on with
STUDY = "study.db"


class SearchError(SweepError):
    """The search did not come to its end as it should."""


class Search:
    """
    Args:
        folder: of the sweep; the study is kept in it, and gone on with.
        launcher, sweeper: options as composed.
        arguments: overrides, those that are searched among them: ``key=a,b``, ``choice``, ``range``, ``interval``.

    Raises:
        ConfigError: the study cannot be made of that.
    """

    def __init__(
        self,
        folder: Path,
        launcher: dict[str, Any],
        sweeper: dict[str, Any],
        arguments: Sequence[str],
        config_dir: str | None,
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                ["hydra/sweeper=optuna needs Optuna, which is not installed; pip install 'vibench[search]'"]
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.launcher, self.sweeper, self.config_dir = launcher, sweeper, config_dir
        parsed = OverridesParser.create().parse_overrides(list(arguments))
        self.fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
        self.space = {o.get_key_element(): distribution(o) for o in parsed if o.is_sweep_override()}
        if not self.space:
            raise ConfigError(
                ["hydra/sweeper=optuna has nothing to search; give e.g. training.lr=tag(log,interval(1e-4,1e-2))"]
            )
        self.metric, self.direction = self._objective()
        self.sweep = joined(folder, launcher, [], config_dir)
        if (folder / FILE).exists():
            self.sweep = Sweep.read(folder)
            self.sweep.launcher = launcher
        self.study = self._study(folder)
        self.place: Place = place_of(launcher)
        self.plan = new_plan(on_cpu=self.place.asks_for_memory)
        self.running: dict[int, optuna.Trial] = {}
        self.pruning: set[int] = set()
        self.said: dict[int, str] = {}

    def _objective(self) -> tuple[str, str]:
        """What is judged, and whether min or max of it is better; by the first values of the space."""
        first = [typed(key, first_of(one)) for key, one in self.space.items()]
        found = composed(Job(number=0, name="", overrides=[*self.fixed, *first], folder=""), self.config_dir)
        if found.config is None:
            raise ConfigError(found.refused)
        metric = self.sweeper["metric"] or found.config.training.monitor
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

    def _study(self, folder: Path) -> "optuna.Study":
        import optuna

        sampler = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=self.sweeper["seed"], constant_liar=True, multivariate=True),
            "random": lambda: optuna.samplers.RandomSampler(seed=self.sweeper["seed"]),
        }[self.sweeper["sampler"]]()
        pruner = {"none": optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner}[self.sweeper["pruner"]]()
        storage = self.sweeper["storage"] or f"sqlite:///{(folder / STUDY).absolute()}"
        direction = {"min": "minimize", "max": "maximize"}[self.direction]
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=self.sweeper["study"],
                sampler=sampler,
                pruner=pruner,
                direction=direction,
                load_if_exists=True,
            )
        except Exception as error:  # of whatever database it is
            raise OutputError(
                f"hydra.sweeper.storage={storage} cannot be used: {str(error).splitlines()[0]}"
            ) from error
        asked = {
            "metric": self.metric,
            "space": {key: repr(one) for key, one in self.space.items()},
            "fixed": self.fixed,
        }
        known = study.user_attrs.get("asked")
        if known not in (None, asked):
            raise ConfigError([f"hydra.sweep.dir={folder} holds another search: {known}; name another directory"])
        study.set_user_attr("asked", asked)
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
                self._go_on()
                while self.running or len(self.study.get_trials(deepcopy=False)) < self.sweeper["trials"]:
                    self._ask_more()
                    found = verdicts(self.sweep, self.place)
                    self._say_changes(found, console)
                    for number in list(self.running):
                        self._follow(number, found[number])
                    if self.running:
                        time.sleep(self.launcher.get("poll_s", LOCAL_S))
            except Stopped:
                stopped_here(self.sweep, self.place)
                print(f"stopped; the same line with hydra.sweep.dir={self.sweep.folder} goes on with the search")
                raise
            ignore_signals()
            self._conclude(console)

    def _say_changes(self, found: dict[int, Verdict], console: Console) -> None:
        for job in self.sweep.jobs:
            one = found[job.number]
            if one.state != self.said.get(job.number):
                say(console, f"{time.strftime('%H:%M:%S')} {in_words(job, one)}")
                self.said[job.number] = one.state

    def _ask_more(self) -> None:
        """Trials, while there is room for them; what is refused is told at once, so that the next ones avoid it."""
        most = self.sweeper["at_once"]
        while len(self.running) < most and len(self.study.get_trials(deepcopy=False)) < self.sweeper["trials"]:
            trial = self.study.ask(self.space)
            job = Job(
                number=trial.number,
                name=" ".join(told(key, value) for key, value in trial.params.items()),
                overrides=[*self.fixed, *(typed(key, value) for key, value in trial.params.items())],
                folder=str(trial.number),
            )
            self.sweep.jobs = [*(known for known in self.sweep.jobs if known.number != job.number), job]
            self._begin(trial, composed(job, self.config_dir))

    def _begin(self, trial: "optuna.Trial", one: Checked) -> None:
        check(self.sweep, [one], self.place, self.plan)
        self.sweep.write()
        if one.refused:
            self._tell_infeasible(trial, "refused", one.refused[0])
            return
        freeze_all(self.sweep, [one])
        self.place.submit(self.sweep, [one.request()])
        self.running[trial.number] = trial

    def _go_on(self) -> None:
        """With trials of a search that was stopped: those that still run are watched, the others are begun again."""
        import optuna

        from vibench.config.frozen import thaw

        states = (optuna.trial.TrialState.RUNNING,)
        found = verdicts(self.sweep, self.place)
        jobs = {job.number: job for job in self.sweep.jobs}
        for frozen in self.study.get_trials(deepcopy=False, states=states):
            trial = optuna.Trial(self.study, frozen._trial_id)
            if frozen.number not in jobs:
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            elif found[frozen.number].final and found[frozen.number].state in (
                "cancelled",
                "planned",
                "lost",
                "preempted",
            ):
                self._begin(trial, accepted(jobs[frozen.number], thaw(self.sweep.run_dir(jobs[frozen.number]), [])))
            else:
                self.running[frozen.number] = trial

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
                self.place.cancel(self.sweep, [job for job in self.sweep.jobs if job.number == number])
            return
        del self.running[number]
        if one.state == "completed" and values:
            self.study.tell(trial, min(values.values()) if self.direction == "min" else max(values.values()))
        elif number in self.pruning:
            amend(run_dir, state="pruned", kind=None, error=f"no better than others by step {max(values)}")
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif one.kind in INFEASIBLE:
            self._tell_infeasible(trial, INFEASIBLE[one.kind], one.said)
        else:
            trial.set_user_attr("why", one.said)
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

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
            line = " ".join([*self.fixed, *(typed(key, value) for key, value in best.params.items())])
            words = f"best: trial {best.number} of {len(trials)}, val/{self.metric} {best.value:.4g}"
            say(console, f"{words}: vibench-train {line}")
        if failed or not done:
            raise SearchError(f"{counted(found)}; {len(failed)} trials failed, {len(done)} have a value")
