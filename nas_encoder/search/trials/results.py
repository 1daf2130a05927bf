"""The results of a study: its trials, the best genotype, the Pareto front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState

from nas_encoder.common.documents import write_atomically, write_yaml
from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.sections import Named
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import TrialRecord, best_of, front_of
from nas_encoder.search.strategies import COSTS
from nas_encoder.search.trials.study import COST, ERRORS, RESULT
from nas_encoder.spaces import get_space

FRONT = "front"


def records_of(study: Study, objectives: Sequence[str]) -> list[TrialRecord]:
    """Return a record of every finished trial, in the order of finishing."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    found = []
    for place, trial in enumerate(sorted(done, key=lambda t: (t.datetime_complete, t.number)), 1):
        known, finished = trial.user_attrs[RESULT], trial.datetime_complete
        record = TrialRecord(
            trial=place,
            number=trial.number,
            state=trial.state.name.lower(),
            error=known[ERRORS][-1],
            **{name: known[COST][name] for name in COSTS if name in known[COST]},
            epochs=len(known[ERRORS]),
            seconds=known["seconds"],
            genotype=known["genotype"],
            vector=known["vector"],
            objectives=list(objectives),
            errors=known[ERRORS],
            finished=None if finished is None else finished.isoformat("T", "seconds"),
        )
        found.append(record)
    return found


def save_results(
    folder: RunFolder,
    trials: Sequence[TrialRecord],
    config: Named,
    objectives: Sequence[str],
    count: int,
    run: Mapping[str, Any],
) -> Genotype:
    """Write genotype.yaml and, with several objectives, the front; return the best genotype.

    Raises:
        NasEncoderError: No trial is complete.
        CheckpointError: A file cannot be written.
    """

    def genotype_of(trial: TrialRecord, name: str) -> Genotype:
        found = get_space(config.space).decode(list(trial.vector))
        provenance = {
            "kind": "search",
            "strategy": config.strategy,
            "config": run["config"],
            "seed": run["seed"],
            "data": run["train"] or f"table {run['table']}",
            "version": run["version"],
            "commit": run["commit"],
            "machine": run["machine"],
            "trial": trial.trial,
            "trials": count,
            "epochs": trial.epochs,
            "validation": {"token_error_rate": trial.error, **trial.costs},
        }
        return Genotype(name, config.space, found.architecture, provenance)

    best = genotype_of(best_of(trials), config.name)
    members = []
    for place, trial in enumerate(front_of(trials) if len(objectives) > 1 else (), 1):
        name = f"{config.name}-{place:02d}"
        file = folder.path / FRONT / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        genotype = genotype_of(trial, name)
        write_yaml(file, genotype.to_dict(), CheckpointError)
        about = {"file": f"{FRONT}/{file.name}", "hash": genotype.hash, "trial": trial.trial}
        members.append(about | {objective: trial.value(objective) for objective in objectives})
    if members:
        document = {"objectives": list(objectives), "front": members}
        text = json.dumps(document, indent=2) + "\n"
        write_atomically(folder.path / "front.json", text.encode(), CheckpointError)
    folder.save_result(best)
    return best
