"""The first trials of a study: given genotypes, so that a search is never worse than the best."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.study import Study

from nas_encoder.common.documents import plain
from nas_encoder.errors import ConfigError, ProblemsError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.search.trials.budget import Budget
from nas_encoder.search.trials.evaluate import Evaluator
from nas_encoder.search.trials.samplers import distributions, is_live
from nas_encoder.search.trials.storage import INITIAL

SUBJECT = "trials.initial"


def load_initial(
    sources: Sequence[str | Mapping[str, Any]], evaluator: Evaluator
) -> dict[str, Genotype]:
    """Load genotypes: name -> genotype, by the source instead where two have the same name.

    Raises:
        ConfigError: One cannot be loaded, encoded or evaluated, or is given twice; all are named.
    """
    found: dict[str, Genotype] = {}
    problems: list[str] = []
    for source in sources:
        shown = f"'{source}'" if isinstance(source, str) else str(dict(source))
        try:
            # As the search writes it: one of fewer stages can be the same network as one of more.
            genotype = load_genotype(source)
            vector = evaluator.space.encode(genotype)
        except ProblemsError as error:
            problems += [f"{shown}: {line}" for line in error.problems]
            continue
        genotype = evaluator.space.decode(vector).renamed(genotype.name)
        if evaluator.nearest(genotype).hash != genotype.hash:
            problems.append(f"{shown}: the table does not hold it, or 'choices' do not")
        if twin := next((s for s, other in found.items() if other.hash == genotype.hash), None):
            problems.append(f"{shown}: is the same architecture as {twin}")
        found[shown] = genotype
    if problems:
        raise ConfigError(SUBJECT, problems)
    names = Counter(genotype.name for genotype in found.values())
    return {
        genotype.name if names[genotype.name] == 1 else shown.strip("'"): genotype
        for shown, genotype in found.items()
    }


def enqueue(
    study: Study,
    points: dict[str, Genotype],
    evaluator: Evaluator,
    objectives: Sequence[str],
    budget: Budget | None,
    sources: Sequence[str | Mapping[str, Any]],
) -> None:
    """Enqueue those points that the study does not have yet.

    Two workers that begin a study at the same moment in different places may both do so; a worker
    runs only the first trial of a point. ``sources`` are what :func:`load_initial` was given.

    Raises:
        ConfigError: A point is outside the budget; all that are so are named, and the setting that
            leaves them out.
    """
    trials = study.get_trials(deepcopy=False)
    there = {
        t.user_attrs[INITIAL]["name"] for t in trials if INITIAL in t.user_attrs and is_live(t)
    }
    missing = {name: genotype for name, genotype in points.items() if name not in there}
    broken: dict[str, list[str]] = {}
    attributes: dict[str, dict[str, Any]] = {}
    for name, genotype in missing.items():
        attributes[name] = {"name": name}
        if budget is not None:
            costs = evaluator.costs(genotype, budget.names(objectives))
            if lines := budget.broken(costs):
                broken[name] = [f"'{name}': {line}" for line in lines]
            attributes[name]["costs"] = costs  # measured again, they might not be within
    if broken:
        given = zip(points, sources, strict=True)
        within = [plain(source) for name, source in given if name not in broken]
        setting = shlex.quote(f"{SUBJECT}={json.dumps(within, ensure_ascii=False)}")
        remedy = f"give larger budgets, smaller networks, or leave these out: --set {setting}"
        raise ConfigError(SUBJECT, [*(line for own in broken.values() for line in own), remedy])
    names = list(distributions(evaluator.space))
    for name, genotype in missing.items():
        vector = evaluator.space.encode(genotype)
        params = dict(zip(names, vector, strict=True))
        study.enqueue_trial(params, user_attrs={INITIAL: attributes[name]})
