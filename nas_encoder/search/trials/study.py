"""A worker: runs trials of a study one by one, until the study is complete."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nas_encoder.common.sealed import ANEW
from nas_encoder.errors import CheckpointError
from nas_encoder.search.records import training_time
from nas_encoder.search.strategies import ERROR
from nas_encoder.search.trials.budget import Budget
from nas_encoder.search.trials.evaluate import Evaluator
from nas_encoder.search.trials.processes import this_process
from nas_encoder.search.trials.samplers import OUTSIDE, is_live, is_outside, rank_of, suggest
from nas_encoder.search.trials.storage import INITIAL, REDRAWN, WORKER, Storage, quiet
from nas_encoder.training.stopping import stop_if_requested

logger = logging.getLogger(__name__)

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
RESULT, ERRORS, COST, SPENT = "result", "errors", "costs", "spent"
_TELL = 10.0  # seconds between log lines
_POLL = 0.5  # seconds between checks of other workers' trials


def evaluate(
    study: Study,
    trial: Trial,
    objectives: Sequence[str],
    evaluator: Evaluator,
    budget: Budget | None = None,
) -> bool:
    """Run one trial and report its result to the study; nothing is trained twice.

    A genotype outside the budget is not trained: its trial is complete for Optuna, with
    constraints that are violated (by the |log(cost / bound)|) and an infinite error.

    Returns:
        Whether the trial counts, since it is within the budget.
    """
    began, space = time.monotonic(), evaluator.space
    genotype = evaluator.nearest(space.decode(suggest(trial, space)))
    if budget is not None and budget.redrawn:
        trial.set_user_attr(REDRAWN, budget.redrawn)
        budget.redrawn = 0
    known = _known(study, genotype.hash, evaluator.epochs)
    names = [name for name in objectives if name != ERROR]
    initial = trial.user_attrs.get(INITIAL, {})
    if known is None and budget is not None and not initial:
        excess = budget.excess(genotype)
        if excess:
            costs = evaluator.costs(genotype, list(excess))
            trial.set_user_attr(OUTSIDE, costs)
            for name, value in excess.items():
                trial.set_constraint(name, value)
            study.tell(trial, [costs.get(name, math.inf) for name in objectives])
            return False
        names = budget.names(objectives)
    if known is not None:
        costs = known[COST]
    else:
        costs = initial.get("costs") or evaluator.costs(genotype, names)
    source = evaluator.errors(genotype) if known is None else iter(known[ERRORS])
    errors: list[float] = []
    pruned = False
    for error in source:
        errors.append(error)
        if len(objectives) == 1:
            trial.report(error, evaluator.resource(len(errors)))
            pruned = len(errors) < evaluator.epochs and trial.should_prune()
        if pruned:
            break
    result = {
        ERRORS: errors,
        COST: costs,
        "seconds": round(time.monotonic() - began, 3),
        "genotype": genotype.hash,
        "vector": space.encode(genotype),
    }
    if spent := evaluator.spent if known is None else known.get(SPENT):
        result[SPENT] = dict(spent)
    if redrawn := trial.user_attrs.get(REDRAWN):
        result[REDRAWN] = redrawn
    if initial:
        result[INITIAL] = initial["name"]
    values = [errors[-1] if name == ERROR else costs[name] for name in objectives]
    result["seal"] = _seal(result, trial.params, [] if pruned else values)
    trial.set_user_attr(RESULT, result)  # at once: each attribute is a transaction
    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values)
    return True


def _seal(result: Mapping[str, Any], params: Mapping[str, Any], values: Sequence[float]) -> str:
    """Return a checksum of a finished trial; SQLite has none of its contents."""
    text = json.dumps([dict(result), dict(params), list(values)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def result_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the result of a finished trial.

    Raises:
        CheckpointError: It is not as its worker wrote it.
    """
    result: dict[str, Any] = dict(trial.user_attrs[RESULT])
    seal = result.pop("seal", None)  # earlier versions wrote none
    values = trial.values if trial.state == TrialState.COMPLETE else []
    course = [error for _, error in sorted(trial.intermediate_values.items())]
    if seal is not None and (
        seal != _seal(result, trial.params, values) or (course and course != result[ERRORS])
    ):
        raise CheckpointError(
            f"trial {trial.number} of the study", [f"is not as it was finished; {ANEW}"]
        )
    return result


def _known(study: Study, genotype: str, epochs: int) -> dict[str, Any] | None:
    """Return the result of a complete trial of the same genotype, to reuse it."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if is_outside(trial):
            continue
        found = result_of(trial)
        if found["genotype"] == genotype and len(found[ERRORS]) == epochs:
            return found
    return None


def spent_by(trials: Iterable[FrozenTrial]) -> float:
    """Return the training time of finished trials whose time is limited, in seconds."""
    found = [(trial.state, trial.user_attrs[RESULT]) for trial in trials]
    return training_time(
        (own["genotype"], state == TrialState.COMPLETE, own.get(SPENT, {}).get("seconds", 0.0))
        for state, own in found
    )


def finished(study: Study) -> list[FrozenTrial]:
    """Return the finished trials, without those outside the budget."""
    done = study.get_trials(deepcopy=False, states=DONE)
    return [trial for trial in done if not is_outside(trial)]


@dataclass(frozen=True)
class Worker:
    """One of the processes that work on a study.

    Exactly ``count`` trials are finished in the end, with any number of workers, which may die at
    any moment:

    * a trial counts unless it has failed or is outside the budget, and runs only if fewer than
      ``count`` trials with a lower number count, so there are never more;
    * a dead worker's trial fails and is replaced, so there are never fewer.

    With ``seconds``, no trial begins after the finished ones have trained so long, so there may be
    fewer than ``count``.

    The study has been opened with its sampler and pruner; ``on_finish`` is called after each trial
    of this worker.
    """

    study: Study
    storage: Storage
    objectives: Sequence[str]
    count: int
    evaluator: Evaluator
    on_finish: Callable[[], Any]
    budget: Budget | None = None
    seconds: float | None = None

    def run(self) -> int:
        """Work until the study is finished; return the number of this worker's trials."""
        own = 0
        share = self._share(self._finished())
        began = told = time.monotonic()
        # A terminal gets a bar, a log file an occasional line.
        whole, unit = (self.count, "trial") if self.seconds is None else (self.seconds, "s")
        at = self._place(self._finished())
        bar = tqdm(total=whole, initial=at, desc="trials", unit=unit, disable=None)
        with bar, logging_redirect_tqdm():
            while True:
                stop_if_requested()
                for number in self.storage.recover(self.study):
                    logger.warning("the worker of trial %d died; the trial is run again", number)
                done = len(self._finished())
                bar.update(self._place(self._finished()) - bar.n)
                if done >= self.count or (self._time_is_up() and not self._running()):
                    return own
                if not self._work_left():
                    time.sleep(_POLL)
                    continue
                if not self._one_trial():
                    continue
                own += 1
                self.on_finish()
                finished, now = self._finished(), time.monotonic()
                best = min(trial.user_attrs[RESULT][ERRORS][-1] for trial in finished)
                bar.set_postfix_str(f"best error {best:.2f} %", refresh=False)
                if bar.disable and now - told > _TELL:
                    done, told = len(finished), now
                    reached = self._share(finished)
                    left = (now - began) * (1 - reached) / max(1e-9, reached - share)
                    logger.info(
                        "%d of %d trials, best error %.2f %%, %s left",
                        done,
                        self.count,
                        best,
                        tqdm.format_interval(left),
                    )

    def _finished(self) -> list[FrozenTrial]:
        return finished(self.study)

    def _place(self, trials: Sequence[FrozenTrial]) -> float:
        """Return where the progress bar stands: trials, or the seconds that they trained.

        The last trials may train past the end, where tqdm would warn.
        """
        if self.seconds is None:
            return len(trials)
        return min(self.seconds, round(spent_by(trials), 1))

    def _share(self, trials: Sequence[FrozenTrial]) -> float:
        """Return how much of the study is done, from 0 to 1."""
        timed = spent_by(trials) / self.seconds if self.seconds is not None else 0.0
        return min(1.0, max(timed, len(trials) / self.count))

    def _time_is_up(self) -> bool:
        return self.seconds is not None and spent_by(self._finished()) >= self.seconds

    def _running(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _work_left(self) -> bool:
        if self._time_is_up():
            return False
        trials = [t for t in self.study.get_trials(deepcopy=False) if is_live(t)]
        return len(trials) < self.count or any(t.state == TrialState.WAITING for t in trials)

    def _is_copy(self, trial: Trial) -> bool:
        """Return whether an earlier trial is of the same initial point."""
        own = trial.user_attrs.get(INITIAL, {}).get("name")
        return own is not None and any(
            other.number < trial.number
            and is_live(other)
            and other.user_attrs.get(INITIAL, {}).get("name") == own
            for other in self.study.get_trials(deepcopy=False)
        )

    def _one_trial(self) -> bool:
        """Take a trial and run it; return whether it counts."""
        with quiet():
            trial = self.study.ask()
        number = trial.number
        try:
            with self.storage.heartbeat(self.study, number):
                trial.set_user_attr(WORKER, this_process())
                if rank_of(self.study, number) >= self.count or self._is_copy(trial):
                    # Another worker was faster.
                    self.study.tell(trial, state=TrialState.FAIL)
                    return False
                counts = evaluate(self.study, trial, self.objectives, self.evaluator, self.budget)
        except UpdateFinishedTrialError:
            # This process sent no heartbeat for so long that another one took over its trial.
            logger.warning("trial %d was given to another worker", number)
            return False
        except BaseException:
            found = self.study.get_trials(deepcopy=False)
            self.storage.put_back(self.study, next(t for t in found if t.number == number))
            raise
        if self.budget is not None:
            self.budget.require_hope()
        return counts
