"""What the trials of a study came to: the history, the best genotype, the Pareto front."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_encoder.common.documents import write_atomically, write_yaml
from nas_encoder.errors import CheckpointError, NasEncoderError
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.strategies import COSTS, ERROR
from nas_encoder.search.trials.study import COST, ERRORS, RESULT
from nas_encoder.spaces import get_space

FRONT = "front"


def rows_of(study: Study, objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for every finished trial, in the order in which they were finished."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    done = sorted(done, key=lambda t: (t.datetime_complete, t.number))
    return [_row(trial, place, objectives) for place, trial in enumerate(done, 1)]


def _row(trial: FrozenTrial, place: int, objectives: Sequence[str]) -> dict[str, Any]:
    known = trial.user_attrs[RESULT]
    return {
        "trial": place,
        "number": trial.number,
        "state": trial.state.name.lower(),
        ERROR: known[ERRORS][-1],
        **{name: known[COST][name] for name in COSTS if name in known[COST]},
        "epochs": len(known[ERRORS]),
        "seconds": known["seconds"],
        "genotype": known["genotype"],
        "vector": known["vector"],
        "objectives": list(objectives),
        "errors": known[ERRORS],
        "finished": trial.datetime_complete and trial.datetime_complete.isoformat("T", "seconds"),
    }


def front_of(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows that no other one is better than, by rising error.

    A row is left out when another one is nowhere worse and somewhere better; of rows with equal
    values the first one stays. Pruned trials are left out.
    """
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        return []
    objectives = complete[0]["objectives"]
    values = [tuple(row[name] for name in objectives) for row in complete]

    def is_beaten(place: int) -> bool:
        mine = values[place]
        return any(
            all(a <= b for a, b in zip(other, mine, strict=True))
            and (other != mine or number < place)
            for number, other in enumerate(values)
            if number != place
        )

    front = [row for place, row in enumerate(complete) if not is_beaten(place)]
    return sorted(front, key=lambda row: tuple(row[name] for name in (ERROR, *objectives)))


def best_of(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the complete trial with the lowest error; of equals the cheapest, then the first.

    Raises:
        NasEncoderError: No trial is complete.
    """
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        raise NasEncoderError("no trial was completed, so there is no genotype")

    def merit(row: Mapping[str, Any]) -> tuple[Any, ...]:
        others = [row[name] for name in row["objectives"] if name != ERROR]
        return (row[ERROR], *others, row["trial"])

    return min(complete, key=merit)


def genotype_of(
    row: Mapping[str, Any], config: TrialsConfig, run: Mapping[str, Any], name: str
) -> Genotype:
    """Return the genotype of a trial with where it comes from."""
    found = get_space(config.space).decode([int(value) for value in row["vector"]])
    provenance = {
        "kind": "search",
        "strategy": config.strategy,
        "config": run["config"],
        "seed": run["seed"],
        "data": run["train"] or f"table {run['table']}",
        "version": run["version"],
        "commit": run["commit"],
        "machine": run["machine"],
        "trial": row["trial"],
        "trials": config.trials.count,
        "epochs": row["epochs"],
        "validation": {
            "token_error_rate": row[ERROR],
            **{cost: row[cost] for cost in COSTS if cost in row},
        },
    }
    return Genotype(name, config.space, found.architecture, provenance)


def save_results(
    folder: RunFolder, rows: list[dict[str, Any]], config: TrialsConfig, run: Mapping[str, Any]
) -> Genotype:
    """Write genotype.yaml and, with several objectives, the front; return the best genotype.

    Raises:
        NasEncoderError: No trial is complete.
        CheckpointError: A file cannot be written.
    """
    best = genotype_of(best_of(rows), config, run, config.name)
    if len(config.objectives) > 1:
        _save_front(folder, rows, config, run)
    folder.save_result(best)
    return best


def _save_front(
    folder: RunFolder, rows: list[dict[str, Any]], config: TrialsConfig, run: Mapping[str, Any]
) -> None:
    members = []
    target = folder.path / FRONT
    target.mkdir(exist_ok=True)
    for place, row in enumerate(front_of(rows), 1):
        name = f"{config.name}-{place:02d}"
        genotype = genotype_of(row, config, run, name)
        write_yaml(target / f"{name}.yaml", genotype.to_dict(), CheckpointError)
        members.append(
            {
                "file": f"{FRONT}/{name}.yaml",
                "hash": genotype.hash,
                "trial": row["trial"],
                **{objective: row[objective] for objective in config.objectives},
            }
        )
    document = {"objectives": list(config.objectives), "front": members}
    text = json.dumps(document, indent=2) + "\n"
    write_atomically(folder.path / "front.json", text.encode(), CheckpointError)
