"""A worker: runs trials of a study one by one, until the study is complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nas_encoder.search.trials.evaluate import Evaluator, values_of
from nas_encoder.search.trials.processes import this_process
from nas_encoder.search.trials.samplers import is_live, rank_of, suggest
from nas_encoder.search.trials.storage import WORKER, Storage, quiet
from nas_encoder.spaces.base import TrialSpace

logger = logging.getLogger(__name__)

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
RESULT, ERRORS, COST = "result", "errors", "costs"
_TELL = 10.0  # seconds between log lines
_POLL = 0.5  # seconds between checks of other workers' trials


def evaluate(
    study: Study,
    trial: Trial,
    objectives: Sequence[str],
    space: TrialSpace,
    evaluator: Evaluator,
) -> None:
    """Run one trial and report its result to the study; nothing is trained twice."""
    began = time.monotonic()
    genotype = evaluator.nearest(space.decode(suggest(trial, space)))
    known = _known(study, genotype.hash, evaluator.epochs)
    costs = evaluator.costs(genotype) if known is None else known[COST]
    source = evaluator.errors(genotype) if known is None else iter(known[ERRORS])
    errors: list[float] = []
    pruned = False
    for error in source:
        errors.append(error)
        if len(objectives) == 1:
            trial.report(error, len(errors))
            if len(errors) < evaluator.epochs and trial.should_prune():
                pruned = True
                break
    result = {
        ERRORS: errors,
        COST: costs,
        "seconds": round(time.monotonic() - began, 3),
        "genotype": genotype.hash,
        "vector": space.encode(genotype),
    }
    trial.set_user_attr(RESULT, result)  # at once: each attribute is a transaction
    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values_of(objectives, errors[-1], costs))


def _known(study: Study, genotype: str, epochs: int) -> dict[str, Any] | None:
    """Return the result of a complete trial of the same genotype, to reuse it."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        found: dict[str, Any] = trial.user_attrs[RESULT]
        if found["genotype"] == genotype and len(found[ERRORS]) == epochs:
            return found
    return None


class Worker:
    """One of the processes that work on a study.

    Exactly ``count`` trials are finished in the end, with any number of workers, which may die at
    any moment:

    * a trial counts unless it has failed, and runs only if fewer than ``count`` trials with a lower
      number count, so there are never more;
    * a dead worker's trial fails and is replaced, so there are never fewer.

    The study has been opened with its sampler and pruner; ``on_finish`` is called after each trial
    of this worker.
    """

    def __init__(
        self,
        study: Study,
        storage: Storage,
        objectives: Sequence[str],
        count: int,
        space: TrialSpace,
        evaluator: Evaluator,
        on_finish: Callable[[], Any],
    ) -> None:
        self.study = study
        self.storage = storage
        self.objectives = objectives
        self.count = count
        self.space = space
        self.evaluator = evaluator
        self.on_finish = on_finish
        self.name = this_process()

    def run(self) -> int:
        """Work until the study is finished; return the number of this worker's trials."""
        wanted, own = self.count, 0
        first = done = len(self.finished())
        began = told = time.monotonic()
        # A terminal gets a bar, a log file an occasional line.
        bar = tqdm(
            total=wanted, initial=min(done, wanted), desc="trials", unit="trial", disable=None
        )
        with bar, logging_redirect_tqdm():
            while True:
                for number in self.storage.recover(self.study):
                    logger.warning("the worker of trial %d died; the trial is run again", number)
                done = len(self.finished())
                bar.update(done - bar.n)
                if done >= wanted:
                    return own
                if not self._work_left(wanted):
                    time.sleep(_POLL)
                    continue
                if not self._one_trial(wanted):
                    continue
                own += 1
                self.on_finish()
                best, now = self._best(), time.monotonic()
                bar.set_postfix_str(best[2:], refresh=False)
                if bar.disable and now - told > _TELL:
                    done = len(self.finished())
                    left = (now - began) / max(1, done - first) * (wanted - done)
                    logger.info(
                        "%d of %d trials%s, %s left", done, wanted, best, tqdm.format_interval(left)
                    )
                    told = now

    def finished(self) -> list[FrozenTrial]:
        """Return the complete and the pruned trials."""
        return self.study.get_trials(deepcopy=False, states=DONE)

    def _work_left(self, wanted: int) -> bool:
        trials = [t for t in self.study.get_trials(deepcopy=False) if is_live(t)]
        return len(trials) < wanted or any(t.state == TrialState.WAITING for t in trials)

    def _one_trial(self, wanted: int) -> bool:
        """Take a trial and run it; return whether it counts."""
        with quiet():
            trial = self.study.ask()
        number = trial.number
        try:
            with self.storage.heartbeat(self.study, number):
                trial.set_user_attr(WORKER, self.name)
                if rank_of(self.study, number) >= wanted:
                    # Another worker was faster.
                    self.study.tell(trial, state=TrialState.FAIL)
                    return False
                evaluate(self.study, trial, self.objectives, self.space, self.evaluator)
        except UpdateFinishedTrialError:
            # This process sent no heartbeat for so long that another one took over its trial.
            logger.warning("trial %d was given to another worker", number)
            return False
        except BaseException:
            self.storage.put_back(self.study, self._frozen(number))
            raise
        return True

    def _frozen(self, number: int) -> FrozenTrial:
        found = self.study.get_trials(deepcopy=True)
        return next(trial for trial in found if trial.number == number)

    def _best(self) -> str:
        errors = [trial.user_attrs[RESULT][ERRORS][-1] for trial in self.finished()]
        return f", best error {min(errors):.2f} %" if errors else ""


def silence_optuna() -> None:
    """Make Optuna log only warnings, not every trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
