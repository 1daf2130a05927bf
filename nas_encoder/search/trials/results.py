"""The results of a study: its trials, the best genotype, the Pareto front."""

from __future__ import annotations

import bisect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_encoder.genotype import Genotype
from nas_encoder.search.config.sections import Named
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import TrialRecord, best_of, front_of
from nas_encoder.search.strategies import COSTS
from nas_encoder.search.trials.agreement import Agreement, why_none
from nas_encoder.search.trials.finalists import trainings_of
from nas_encoder.search.trials.samplers import is_outside
from nas_encoder.search.trials.storage import INITIAL, REDRAWN
from nas_encoder.search.trials.study import COST, ERRORS, SPENT, finished, result_of
from nas_encoder.spaces import get_space

FRONT, SUMMARY = "front", "result.json"


def records_of(study: Study, objectives: Sequence[str]) -> list[TrialRecord]:
    """Return a record of every finished trial, in the order of finishing."""
    done, found = finished(study), []
    trainings = trainings_of(study)
    refused = _refused(study, done)
    for place, trial in enumerate(sorted(done, key=lambda t: (t.datetime_complete, t.number)), 1):
        known, ended = result_of(trial), trial.datetime_complete
        spent, alone = known.get(SPENT, {}), trainings.get(known["genotype"])
        record = TrialRecord(
            trial=place,
            number=trial.number,
            state=trial.state.name.lower(),
            error=known[ERRORS][-1],
            **{name: known[COST][name] for name in COSTS if name in known[COST]},
            epochs=spent.get("epochs", len(known[ERRORS])),
            training_seconds=spent.get("seconds"),
            seconds=known["seconds"],
            genotype=known["genotype"],
            vector=known["vector"],
            objectives=list(objectives),
            errors=known[ERRORS],
            finished=None if ended is None else ended.isoformat("T", "seconds"),
            initial=known.get(INITIAL),
            trained=None if alone is None else alone["errors"],
            trained_seconds=None if alone is None else alone["spent"].get("seconds"),
            refused=(refused[trial.number] + known.get(REDRAWN, 0)) or None,
        )
        found.append(record)
    return found


def _refused(study: Study, done: Sequence[FrozenTrial]) -> Counter[int]:
    """Return how many trials outside the budgets were before each finished one, by number."""
    numbers = sorted(trial.number for trial in done)
    found: Counter[int] = Counter()
    for trial in study.get_trials(deepcopy=False):
        if is_outside(trial) and numbers and trial.state == TrialState.COMPLETE:
            place = bisect.bisect(numbers, trial.number)
            found[numbers[min(place, len(numbers) - 1)]] += 1
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
    best = _genotype(best_of(trials), config.name, config, count, run)
    if len(objectives) > 1:
        save_front(folder, {0: trials}, config, objectives, count, {0: run})
    folder.save_result(best)
    return best


def save_summary(
    folder: RunFolder, trials: Sequence[TrialRecord], genotype: Genotype, found: Sequence[Agreement]
) -> None:
    """Write result.json: what was found, what it cost, and what the search's scores are worth."""
    best = next(trial for trial in trials if trial.genotype == genotype.hash)
    document = {
        "genotype": genotype.hash,
        "error": best.final,
        **best.costs,
        "trials": len(trials),
        "pruned": sum(not trial.complete for trial in trials),
        "trained_alone": len({trial.genotype for trial in trials if trial.trained}),
        "seconds": round(sum(trial.seconds for trial in trials), 3),
        "scores": [one.to_dict() for one in found],
        "why_no_scores": "" if found else why_none(trials),
    }
    folder.write(SUMMARY, (json.dumps(document, indent=1) + "\n").encode())


def save_front(
    folder: RunFolder,
    trials: Mapping[int, Sequence[TrialRecord]],
    config: Named,
    objectives: Sequence[str],
    count: int,
    runs: Mapping[int, Mapping[str, Any]],
) -> None:
    """Write the Pareto front of one search's trials, or of those of several seeds.

    Args:
        folder: Where ``front/`` and ``front.json`` belong.
        trials: Seed -> its trials.
        config: The configuration.
        objectives: What is minimized.
        count: Number of trials of a search.
        runs: Seed -> the content of its run.yaml.
    """
    seeds = {id(trial): seed for seed, own in trials.items() for trial in own}
    members = []
    for place, trial in enumerate(front_of(trial for own in trials.values() for trial in own), 1):
        name, seed = f"{config.name}-{place:02d}", seeds[id(trial)]
        file = folder.path / FRONT / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        genotype = _genotype(trial, name, config, count, runs[seed])
        folder.write_yaml(f"{FRONT}/{file.name}", genotype.to_dict())
        about = {"file": f"{FRONT}/{file.name}", "hash": genotype.hash, "trial": trial.trial}
        about |= {"seed": seed} if len(trials) > 1 else {}
        members.append(about | {objective: trial.value(objective) for objective in objectives})
    document = {"objectives": list(objectives), "front": members}
    text = json.dumps(document, indent=2) + "\n"
    folder.write("front.json", text.encode())
    # Of a study that was shorter, the front may have been longer.
    kept = {member["file"] for member in members}
    for file in (folder.path / FRONT).glob("*.yaml"):
        if f"{FRONT}/{file.name}" not in kept:
            folder.remove(f"{FRONT}/{file.name}")


def _genotype(
    trial: TrialRecord, name: str, config: Named, count: int, run: Mapping[str, Any]
) -> Genotype:
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
        "validation": {"token_error_rate": trial.final, **trial.costs},
    }
    if trial.trained:
        provenance["validation"]["token_error_rate_with_shared_weights"] = trial.error
    seconds = trial.trained_seconds if trial.trained else trial.training_seconds
    if seconds is not None:
        provenance["training_seconds"] = seconds
    if trial.initial is not None:
        provenance["initial"] = trial.initial
    return Genotype(name, config.space, found.architecture, provenance)
