"""What each search strategy found at the same total cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.genotype import load_genotype
from recipes.blocks.local.measured import Measured, read_json
from recipes.blocks.local.plan import Plan
from tools.experiments.job_costs import costs_path


def found(expdir: Path, plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """Return a row for each finished search, by corpus; what is not trained yet is None in it."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for strategy, corpus in plan.search_runs:
        path = expdir / "search" / strategy / corpus / "genotype.yaml"
        costs = read_json(costs_path(expdir, f"search/{strategy}/{corpus}"))
        name = plan.found_by(strategy)
        if costs is None or name is None:
            continue
        about, own = load_genotype(path).provenance, Measured(expdir, plan, corpus)
        rows.setdefault(corpus, []).append(
            {
                "strategy": strategy,
                "encoder": name,
                "cpu_seconds": costs["cpu_seconds"],
                "trials": about["trials"],
                "initial": about.get("initial"),
                "search_error": about["validation"]["token_error_rate"],
                "latency_ms": about["validation"].get("latency_ms"),
                **_trained(own, name, plan),
            }
        )
    return rows


def _trained(own: Measured, name: str, plan: Plan) -> dict[str, Any]:
    """Return the errors of a found encoder at the rate of random points and at its own."""
    chosen = plan.last_choice(own.expdir, own.corpus, name)
    rates = {"alike": str(plan.options["draw_rate"])}
    if chosen.is_file():
        rates["tuned"] = plan.rate_in(chosen)
    errors: dict[str, Any] = {"alike": None, "tuned": None, "tuned_rate": rates.get("tuned")}
    for kind, rate in rates.items():
        tests = [own.test_error(name, rate, seed) for seed in plan.seeds]
        if all(error is not None for error in tests):
            errors[kind] = tests
    return errors


def parts(rows: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan) -> list[str]:
    """Return the paragraphs; none where there is a single strategy."""
    said = []
    for corpus, own in rows.items():
        if len(own) < 2:
            continue
        seconds = plan.options["trials"] * plan.options["trial_seconds"]
        lines = [
            "| strategy | CPU s | scored | error in the search % | test error % alike "
            "| test error % tuned | 10 s |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in own:
            ms = row["latency_ms"]
            lines.append(
                f"| {row['strategy']} | {row['cpu_seconds']:.0f} | {row['trials']} "
                f"| {row['search_error']:.2f} | {_mean(row['alike'])} | {_mean(row['tuned'])} "
                f"| {'' if ms is None else f'{ms:.1f} ms'} |"
            )
        said += [
            f"## Strategies at equal cost ({plan.corpora[corpus]['title']})",
            f"Each may train for {seconds:.0f} CPU seconds; what each took in all, with "
            "preparation, scoring and measuring, is in the table. Then what it found is trained "
            f"in full: alike with the rate {plan.options['draw_rate']}, and tuned as all encoders "
            "are; means over the seeds, which are of trainings. Each search was made once: which "
            "strategy is better in general cannot be told from this. Errors in the search are "
            "validation errors of the best trial, which was chosen by them.",
            "\n".join(lines),
        ]
        given = [row for row in own if row["initial"]]
        said += [
            f"- {row['strategy']} found nothing better than '{row['initial']}', which was given."
            for row in given
        ]
    return said


def _mean(errors: Sequence[float] | None) -> str:
    return "" if errors is None else f"{statistics.fmean(errors):.2f}"
