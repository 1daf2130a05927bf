"""What cheap scores are worth: Kendall's tau against trainings in full, and what each would find.

Works on what there is so far; what is missing is counted and told.

    python -m recipes.blocks.local.scores --options EXPDIR/options.yaml
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.ranks import kendall
from nas_encoder.errors import ConfigError
from nas_encoder.search.records import TrialRecord
from recipes.blocks.local import strategies
from recipes.blocks.local.extrapolate import power_law
from recipes.blocks.local.measured import Measured, read_json
from recipes.blocks.local.plan import Plan
from recipes.blocks.local.shared import SCORES
from tools.scripts import command

RECIPE = Path(__file__).resolve().parents[1]
FEW = 24  # genotypes below which nothing is concluded
SHARED = "error with shared weights"
_SUBSETS = 2000
PARTS = (0.25, 0.5)  # of a training in full, whose losses are compared


@dataclass(frozen=True)
class Point:
    """A genotype that was trained in full.

    Attributes:
        name: As in paths.
        final: Its error, in %, of the kind that all points of a table have.
        cheap: Score -> its value; a lower one is better.
    """

    name: str
    final: float
    cheap: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Cheap scores of some genotypes.

    Attributes:
        title: What they are.
        final: What their final errors are of.
        points: Those that are trained.
        wanted: How many there are to be.
        costs: Score -> CPU seconds for each genotype.
    """

    title: str
    final: str
    points: Sequence[Point]
    wanted: int
    costs: Mapping[str, float]

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """Return tau of each score over the points that have it."""
        found = []
        for name in dict.fromkeys(name for point in self.points for name in point.cheap):
            own = [point for point in self.points if name in point.cheap]
            tau = kendall([p.cheap[name] for p in own], [p.final for p in own], seed)
            told = tau.to_dict() if tau is not None else {"tau": None, "count": len(own)}
            found.append({"score": name, "seconds": self.costs.get(name), **told})
        return found


def _sizes(parameters: float, macs: float) -> dict[str, float]:
    return {"more parameters": -parameters, "more multiply-adds": -macs}


def of_trial(trial: TrialRecord, times: Sequence[float], full: float) -> dict[str, float]:
    """Return the scores that a trial of a search gives; a training in full ends at ``full``."""
    found = {f"error after {t:g} s": e for t, e in zip(times, trial.errors, strict=True)}
    for count in range(2, len(times) + 1):
        name = f"power law through the errors until {times[count - 1]:g} s"
        found[name] = power_law(times[:count], trial.errors[:count], full)
    costs = trial.costs
    found |= _sizes(costs["parameters"], costs["macs"])
    return found | ({"more latency": -costs["latency_ms"]} if "latency_ms" in costs else {})


def of_losses(losses: Sequence[float]) -> dict[str, float]:
    """Return the scores that the first part of a training in full gives: losses of its epochs."""
    found, count = {}, len(losses)
    for part in PARTS:
        known = int(part * count)
        if known:
            found[f"training loss at {part:.0%} of the training"] = losses[known - 1]
        if known > 1:
            name = f"power law through the losses until {part:.0%}"
            found[name] = power_law(range(1, known + 1), losses[:known], count)
    return found


def draws(own: Measured) -> Table:
    """Return the random points of the search, with everything that is known of them."""
    plan, (trials, times) = own.plan, own.trials()
    shared = read_json(own.expdir / "shared" / own.corpus / SCORES) or {"errors": {}}
    names = plan.draws(own.corpus)
    cheap = {
        name: {**of_trial(trial, times, own.full), **_shared(shared, name)}
        for name, trial in zip(names, trials, strict=False)
    }
    costs = {f"error after {t:g} s": t for t in times}
    costs |= {f"power law through the errors until {t:g} s": t for t in times[1:]}
    return _table("Random points of the space", own, names, cheap, costs)


def shared_points(own: Measured) -> Table:
    """Return the random points of the supernet's part."""
    names = own.plan.shared(own.corpus)
    shared = read_json(own.expdir / "shared" / own.corpus / SCORES) or {"errors": {}, "costs": {}}
    cheap = {
        name: {
            **_shared(shared, name),
            **_sizes(shared["costs"][name]["parameters"], shared["costs"][name]["macs"]),
        }
        for name in names
        if name in shared["errors"]
    }
    return _table("Random points of the supernet's part", own, names, cheap, {})


def _shared(found: Mapping[str, Any], name: str) -> dict[str, float]:
    errors = found["errors"]
    return {SHARED: errors[name]} if name in errors else {}


def _table(
    title: str,
    own: Measured,
    names: Sequence[str],
    cheap: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, float],
) -> Table:
    """Return the table; test errors are final where all that are trained are decoded."""
    results = {name: own.result(name) for name in names}
    trained = {name: found for name, found in results.items() if found is not None}
    tests = {name: own.test_error(name) for name in trained}
    decoded = bool(trained) and all(error is not None for error in tests.values())
    points = []
    for name, found in trained.items():
        final = tests[name] if decoded else found["valid_error"]
        own_cheap = {**cheap.get(name, {}), **of_losses(found["losses"])}
        if decoded:
            own_cheap["validation error of the training itself"] = found["valid_error"]
        points.append(Point(name, float(final or 0.0), own_cheap))
    losses = {f"training loss at {part:.0%} of the training": part * own.full for part in PARTS}
    losses |= {f"power law through the losses until {part:.0%}": part * own.full for part in PARTS}
    whole = {"validation error of the training itself": own.full}
    kind = "test" if decoded else "validation"
    return Table(
        title,
        f"{kind} errors after {own.full:g} s",
        points,
        len(names),
        {**costs, **losses, **whole},
    )


def everything(own: Measured) -> Table:
    """Return everything that was trained in full at the rate of random points with one seed."""
    names = [*own.plan.of_corpus(own.corpus), *own.plan.draws(own.corpus)]
    names += own.plan.shared(own.corpus)
    points = []
    for name in names:
        found = own.result(name)
        if found is not None:
            cheap = of_losses(found["losses"])
            cheap |= _sizes(found["encoder_parameters"], found["macs_10s"])
            again = [own.result(name, seed=seed) for seed in own.plan.seeds[1:2]]
            if again and again[0] is not None:
                cheap["validation error with another seed"] = again[0]["valid_error"]
            points.append(Point(name, found["valid_error"], cheap))
    costs = {f"training loss at {part:.0%} of the training": part * own.full for part in PARTS}
    costs |= {f"power law through the losses until {part:.0%}": part * own.full for part in PARTS}
    costs["validation error with another seed"] = own.full
    final = f"validation errors after {own.full:g} s"
    return Table("All encoders", final, points, len(names), costs)


def selections(table: Table, full: float, budget: float, seed: int) -> list[dict[str, Any]]:
    """Return what choosing by each score finds at the same total cost.

    Half of the budget, or what all points take, scores random points; with the rest the best of
    these are trained in full, and the best of them is chosen. Without scores all of the budget goes
    into trainings. Means over random subsets. Nothing of fewer than :data:`FEW` points.

    Args:
        table: Points and scores.
        full: Seconds of a training in full.
        budget: CPU seconds.
        seed: Of the subsets.
    """
    points, found = list(table.points), []
    if len(points) < FEW:
        return []
    plans = {"no score": (min(len(points), int(budget / full)),) * 2}
    for name, seconds in table.costs.items():
        if seconds < full and all(name in point.cheap for point in points):
            screened = min(len(points), int(budget / 2 / seconds)) if seconds else len(points)
            plans[name] = screened, min(screened, int((budget - screened * seconds) / full))
    for name, (screened, trained) in plans.items():
        if not points or trained < 1:
            continue
        rng, errors = random.Random(seed), []
        for _ in range(_SUBSETS):
            drawn = rng.sample(points, screened)
            kept = sorted(drawn, key=lambda p: p.cheap.get(name, 0.0))[:trained]  # noqa: B023
            errors.append(min(point.final for point in kept))
        mean = statistics.fmean(errors)
        found.append({"score": name, "screened": screened, "trained": trained, "error": mean})
    return found


def measured(expdir: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """Return all tables by corpus, as plain values."""
    seed = int(plan.options["seed"])
    budget = float(plan.options["trials"] * plan.options["trial_seconds"]) / 2
    found: dict[str, dict[str, Any]] = {}
    for corpus in dict.fromkeys([*plan.draw_corpora, *plan.shared_corpora]):
        own = Measured(expdir, plan, corpus)
        tables = [draws(own), everything(own)]
        if corpus in plan.shared_corpora:
            tables.insert(1, shared_points(own))
        held = read_json(expdir / "shared" / corpus / SCORES)
        found[corpus] = {
            "tables": [
                {
                    "title": table.title,
                    "final": table.final,
                    "trained": len(table.points),
                    "wanted": table.wanted,
                    "rows": table.rows(seed),
                }
                for table in tables
            ],
            "budget": budget,
            "selections": selections(tables[0], own.full, budget, seed),
            "held": held and [held["held"], held["others"]],
        }
    return found


def parts(found: Mapping[str, Mapping[str, Any]], plan: Plan) -> list[str]:
    """Return the paragraphs about cheap scores."""
    said = []
    for corpus, own in found.items():
        said += [f"## What cheap scores are worth ({plan.corpora[corpus]['title']})", READING]
        for table in own["tables"]:
            lead = f"**{table['title']}**, {table['trained']} trained in full: {table['final']}."
            if table["trained"] < table["wanted"]:
                lead += f" **Partial**: {table['wanted']} are to be trained."
            if table["trained"] < FEW:
                lead += f" Fewer than {FEW}: no evidence."
            said += [lead, _markdown(table["rows"])] if table["rows"] else [lead]
        if own["held"]:
            said.append(
                "The supernet holds {} of the {} random points of the space.".format(*own["held"])
            )
        if own["selections"]:
            said += [SELECTION.format(own["budget"]), _selected(own["selections"])]
    return said


READING = """\
Kendall's tau between a score and the final errors of the same genotypes, with a 95 % bootstrap
interval over the genotypes: 1 where both rank them alike, 0 where the score says nothing. CPU
seconds are those of scoring one genotype; sizes cost nothing. The last part of a training lowers
its rate: a curve's first part knows nothing of that."""
SELECTION = """\
What choosing by a score finds for {:.0f} CPU seconds: half of them, or what all points take, score
random points, the rest trains the best of these in full; the best of those is chosen. Means over
random subsets of these same points, chosen by their final errors themselves."""


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| score | tau [95 %] | genotypes | CPU s each |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        tau = "none" if row["tau"] is None else f"{row['tau']:.2f}"
        if row.get("low") is not None:
            tau += f" [{row['low']:.2f}, {row['high']:.2f}]"
        seconds = "0" if row["seconds"] is None else f"{row['seconds']:g}"
        if row["score"] == SHARED:
            seconds = "the supernet, once"
        lines.append(f"| {row['score']} | {tau} | {row['count']} | {seconds} |")
    return "\n".join(lines)


def _selected(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| score | scored | trained in full | error % |", "| --- | ---: | ---: | ---: |"]
    for row in sorted(rows, key=lambda row: float(row["error"])):
        counts = f"{row['screened']} | {row['trained']}"
        lines.append(f"| {row['score']} | {counts} | {row['error']:.2f} |")
    return "\n".join(lines)


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--options", type=Path, required=True, help="options.yaml of the run")
    parser.add_argument(
        *("--set", "-s"), action="append", default=[], metavar="NAME=VALUE", help="another option"
    )
    args = parser.parse_args(arguments)
    options = {**read_yaml(args.options, ConfigError), **dict(x.split("=", 1) for x in args.set)}
    plan, expdir = Plan(RECIPE, options), args.options.parent
    said = [*strategies.parts(strategies.found(expdir, plan), plan)]
    said += parts(measured(expdir, plan), plan)
    print("\n\n".join(said) or "no random points and no searches")


if __name__ == "__main__":
    sys.exit(main())
