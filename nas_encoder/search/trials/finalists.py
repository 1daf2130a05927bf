"""The end of a search with a supernet: its best genotypes are trained alone, each for itself."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.study import Study

from nas_encoder.common.sealed import ANEW
from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import TrialRecord
from nas_encoder.search.trials.evaluate import Evaluator
from nas_encoder.training.lock import held, holder_of, is_held

logger = logging.getLogger(__name__)

_KEY = "trained "  # with a genotype's hash, an attribute of the study


def chosen(trials: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Return a trial of each of the ``count`` genotypes with the lowest errors, the best first.

    On a tie the first; errors are those with shared weights.
    """
    ranked = sorted((t for t in trials if t.complete), key=lambda t: (t.error, t.trial))
    return list({trial.genotype: trial for trial in reversed(ranked)}.values())[::-1][:count]


def trainings_of(study: Study) -> dict[str, dict[str, Any]]:
    """Return ``errors``, ``spent`` and ``seconds`` of all trainings, by the genotype's hash.

    Raises:
        CheckpointError: One is not as it was written.
    """
    found = {}
    for name, value in study.user_attrs.items():
        if not name.startswith(_KEY):
            continue
        genotype, result = name.removeprefix(_KEY), dict(value)
        if result.pop("seal", None) != _seal(genotype, result):
            raise CheckpointError(f"training of {genotype}", [f"is not as it was finished; {ANEW}"])
        found[genotype] = result
    return found


def train_finalists(
    study: Study,
    trials: Sequence[TrialRecord],
    folder: RunFolder,
    decode: Callable[[Sequence[int]], Genotype],
    make: Callable[[], Evaluator],
    on_finish: Callable[[], Any],
) -> None:
    """Train those of some trials' genotypes that were not trained yet; a kill loses one at most.

    Workers that share the run folder each take others; all end when all are trained.

    Args:
        study: Keeps the results.
        trials: Of :func:`chosen`.
        folder: Run folder.
        decode: Makes a genotype of a trial's vector.
        make: Makes what trains; called only where something is left to train.
        on_finish: Called after each training.
    """
    evaluator: Evaluator | None = None
    while left := _left(study, trials):
        # Those that nobody trains, then the first of the others, which is waited for.
        locks = {t.genotype: folder.path / f".trained-{t.genotype}.lock" for t in left}
        trial = next((t for t in left if not is_held(locks[t.genotype])), left[0])
        lock = locks[trial.genotype]
        if is_held(lock):
            logger.info("waiting for genotype %s, trained by %s", trial.genotype, holder_of(lock))
        with held(lock, folder.subject, wait=-1.0):
            if trial not in _left(study, trials):  # another worker was faster
                continue
            evaluator = evaluator or make()
            began = time.monotonic()
            errors = list(evaluator.errors(decode(trial.vector)))
            result: dict[str, Any] = {"errors": errors, "spent": dict(evaluator.spent)}
            result["seconds"] = round(time.monotonic() - began, 3)
            result["seal"] = _seal(trial.genotype, result)
            study.set_user_attr(_KEY + trial.genotype, result)
        logger.info(
            "genotype %s: %.2f %% after its own training, %.2f %% with shared weights; %d left",
            trial.genotype,
            errors[-1],
            trial.error,
            len(left) - 1,
        )
        on_finish()


def _left(study: Study, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    done = trainings_of(study)
    return [trial for trial in trials if trial.genotype not in done]


def _seal(genotype: str, result: Mapping[str, Any]) -> str:
    text = json.dumps([genotype, dict(result)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
