"""Writes the results: tables, tests in words, the figure, and everything as JSON."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.provenance import environment
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import load_genotype
from recipes.blocks.local import scores, strategies
from recipes.blocks.local.encoders import NARROWED, PEER
from recipes.blocks.local.figure import front, plot
from recipes.blocks.local.plan import RANDOM, RECORDED, Plan
from recipes.blocks.local.rows import WORDS, Reader, Row
from recipes.blocks.local.shared import PREFIX
from recipes.blocks.local.verdicts import (
    Duel,
    Verdict,
    chance,
    chance_sentence,
    verdicts,
)
from tools.experiments.job_costs import read_costs
from tools.experiments.recipe import GENERAL, ROOT
from tools.results.document import portable, write_files
from tools.scripts import command

RECIPE = Path(__file__).resolve().parents[1]
CONDITIONS = {"time": "equal training time", "epochs": "equal epochs"}
READING = """\
Error: characters (with the spaces between words; TIMIT layout: phones of 39), greedy decoding, no
language model, one utterance at a time. Brackets: 95 % bootstrap interval over test utterances of
the errors of all seeds together. Matched pairs (Gillick and Cox 1989): two-sided, one observation
an utterance, over all seeds together, not corrected for the number of comparisons. Every rate was
chosen alike: the best of those tried, on validation data with the first seed. The best peer is
the one with the fewest errors on the *test* data, which favours it. Latency: median of 10 s of
features, one thread, all encoders in turns in one process that had the workflow's machine to
itself. Training time: CPU seconds of the steps of the weights, one thread, beside other
trainings. A rate marked * lies at an end of those tried; a better one may lie beyond. In bold:
the encoders that no other one of the table beats in both error and latency."""
LIMITS = """\
- Networks of 0.15 to 0.5 M parameters, trained for minutes: they are judged by how fast they learn.
  Nothing here says how they compare at 10 M parameters and after days.
- Three of the corpora are **synthetic speech** (espeak-ng) with synthetic noise and rooms; their
  texts come from small grammars. The recorded prompts have six voices that are in training and test
  alike (with other sentences): not a test of unseen speakers.
- The tests take utterances as independent; those of one voice are not. The seeds are of trainings
  and show how much a training varies, not how much a search does. Each search was made once.
- Peers are their authors' modules with the authors' settings, at sizes that no author ships, with
  one optimizer (AdamW), one schedule and one augmentation for all. Zipformer's authors have
  another optimizer, and schedules for far longer trainings, which are compressed here."""


@dataclass(frozen=True)
class Section:
    """The rows of a corpus under a condition, best first, and the verdicts."""

    corpus: str
    condition: str
    title: str
    rows: Sequence[Row]
    verdicts: Sequence[Verdict]


def read_sections(reader: Reader, seed: int) -> list[Section]:
    """Read the results of all corpora and conditions."""
    found = []
    for corpus, condition in dict.fromkeys(run[:2] for run in reader.plan.tuned_runs()):
        rows = reader.rows(corpus, condition)
        kind = reader.plan.corpora[corpus]
        speech = "recorded speech" if kind["layout"] == RECORDED else "synthetic speech"
        title = f"{kind['title']} ({speech}), {CONDITIONS[condition]}"
        names = list(reader.plan.encoders)
        found.append(Section(corpus, condition, title, rows, verdicts(rows, seed, names)))
    return found


def table(rows: Sequence[Row], seed: int) -> str:
    """Return the table of a corpus as Markdown."""
    lines = [
        "| encoder | kind | error % [95 %] | each seed | 10 s | parameters | epochs | rate |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    best = {row.name for row in front(rows)}
    for row in rows:
        found = row.interval(seed)
        errors = ", ".join(f"{error:.1f}" for error in row.errors)
        title = f"**{row.title}**" if row.name in best else row.title
        lines.append(
            f"| {title} | {WORDS[row.role]} | {100 * found.estimate:.2f} "
            f"[{100 * found.low:.2f}, {100 * found.high:.2f}] | {errors} | {row.ms:.1f} ms "
            f"| {row.results[0]['encoder_parameters'] / 1e3:.0f} k | {row.mean('epochs'):.1f} "
            f"| {row.rate}{'*' if row.at_the_end else ''} |"
        )
    return "\n".join(lines)


def section_parts(section: Section, seed: int) -> list[str]:
    """Return the paragraphs of a section."""
    parts = [f"## {section.title}", table(section.rows, seed)]
    for verdict in section.verdicts:
        duels = verdict.duels()
        counts = {o: sum(duel.outcome == o for duel in duels) for o in ("won", "lost", "open")}
        lines = [duel.sentence() for duel in duels]
        lead = (
            f"{verdict.first.title}: {counts['won']} won, {counts['lost']} lost, {counts['open']} "
            "without a difference shown."
        )
        parts += [lead, "\n".join(f"- {line}" for line in lines)]
    parts += [
        f"- {row.title}, seed {result['seed']}: diverged ({result['diverged']})"
        for row in section.rows
        for result in row.results
        if result["diverged"]
    ]
    return parts


def goal_parts(sections: Sequence[Section]) -> list[str]:
    """Return what became of the goal, over all corpora at equal training time."""
    lines: list[str] = []
    met: dict[str, list[bool]] = {}
    for section in sections:
        if section.condition != "time":
            continue
        for verdict in section.verdicts:
            goal = verdict.goal()
            if goal is None:
                continue
            met.setdefault(verdict.first.title, []).append(all(goal.values()))
            shipped, narrowed = verdict.against(PEER), verdict.against(NARROWED)
            state = ", ".join(f"{part}: {'yes' if ok else 'no'}" for part, ok in goal.items())
            lines.append(f"- {section.title}. {_sentences(shipped, narrowed)} {state}.")
    if not lines:
        return []
    counts = [f"{title} on **{sum(own)} of {len(own)}** corpora" for title, own in met.items()]
    return [
        "## The goal",
        "At equal training time, 20 % fewer errors than the best peer as shipped and fewer than "
        "the best peer with a narrowed front end (matched pairs, p < 0.05), at no more than the "
        "latency of the fastest peer that is not shown to make more errors than the best: met by "
        f"{', '.join(counts)}. It was set for the first of them.",
        "\n".join(lines),
    ]


def _sentences(*duels: Duel | None) -> str:
    return " ".join(duel.sentence() for duel in duels if duel is not None)


def chance_parts(found: Mapping[str, Sequence[Mapping[str, Any]]], reader: Reader) -> list[str]:
    """Return what searches earned over random points."""
    parts = []
    for corpus, rows in found.items():
        if not rows:
            continue
        title = reader.plan.corpora[corpus]["title"]
        count, rate = len(rows[0]["draws"]), reader.plan.options["draw_rate"]
        parts += [
            f"## Search and chance ({title})",
            f"{count} random points of the space within the search's budgets, the first trials of "
            "the random search, which has as many trials of the same time as the others. All are "
            f"trained at the rate {rate} for the time of the tables; the points once, what the "
            "searches found with every seed.",
            "\n".join(f"- {chance_sentence(dict(row))}" for row in rows),
        ]
    return parts


def affordable(reader: Reader, corpus: str) -> int:
    """Return how many random points can be trained in the time of a search and a training."""
    found = [s for s in searches(reader) if s["corpus"] == corpus and s["strategy"] != RANDOM]
    if not found:
        return 1
    seconds = float(reader.plan.options["seconds"])
    return max(1, round((float(found[0]["cpu_seconds"]) + seconds) / seconds))


def searches(reader: Reader) -> list[dict[str, Any]]:
    """Return the cost and the genotype of each search."""
    found = []
    for strategy, corpus in reader.plan.search_runs:
        path = reader.expdir / "search" / strategy / corpus / "genotype.yaml"
        costs = read_costs(reader.expdir, f"search/{strategy}/{corpus}")
        found.append(
            {
                "corpus": corpus,
                "strategy": strategy,
                "cpu_seconds": costs["cpu_seconds"],
                "peak_memory_mib": costs["peak_memory_mib"],
                "genotype": load_genotype(path).to_dict(),
            }
        )
    return found


def corpora(plan: Plan) -> dict[str, Any]:
    """Return the manifests' names, sizes and checksums."""
    found = {}
    for name, folder in plan.folders.items():
        path = Path(plan.options["downloads"], folder, "corpus.json")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found[name] = {key: manifest.get(key) for key in ("seed", "sha256", "splits", "packages")}
    return found


def corpus_lines(plan: Plan, found: Mapping[str, Any]) -> str:
    """Return a line about each corpus."""
    lines = []
    for name, about in found.items():
        kind = plan.corpora[name]
        if kind["layout"] == RECORDED:
            lines.append(f"- {kind['title']}: real recorded speech, see recipes/prompts.")
            continue
        sizes = ", ".join(
            f"{split} {own['utterances']} utterances ({own['hours']:.2f} h, "
            f"{len(own['speakers'])} voices)"
            for split, own in about["splits"].items()
        )
        lines.append(f"- {kind['title']}: **synthetic speech**, noise and rooms; {sizes}.")
    return "\n".join(lines)


def elsewhere(options: Mapping[str, Any]) -> dict[str, str]:
    """Return what folders of a run are called on other machines, for :func:`portable`.

    That is what ``run.sh`` calls them by default, whether they are given as they were typed or as
    links to them were resolved.
    """
    words = [part for word in shlex.split(str(options["command"])) for part in word.split("=", 1)]
    typed, names = dict(zip(words, words[1:], strict=False)), {str(ROOT): ""}
    for key in ("expdir", "datadir", "downloads", "debs"):
        for path in (str(options.get(key, "")), typed.get(f"--{key}", "")):
            if Path(path).is_absolute():
                names[path] = str(GENERAL.get(key, key))
    return names


def asked(arguments: list[str] | None, about: str | None) -> argparse.Namespace:
    """Return the run's options.yaml and the folder for the results, as they were typed."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--options", type=Path, required=True, help="options.yaml of the run")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    return parser.parse_args(arguments)


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = asked(arguments, __doc__)
    options = read_yaml(args.options, ConfigError)
    plan, seed = Plan(RECIPE, options), int(options["seed"])
    reader = Reader(args.options.parent, plan)
    sections, about = read_sections(reader, seed), corpora(plan)
    by_chance = {
        name: chance(
            [row for row in reader.untuned(name) if not row.name.startswith(PREFIX)],
            affordable(reader, name),
        )
        for name in plan.draw_corpora
    }
    by_strategy = strategies.found(reader.expdir, plan)
    by_score = scores.measured(reader.expdir, plan)
    args.output.mkdir(parents=True, exist_ok=True)
    panels = {section.title: section.rows for section in sections}
    plot(panels, seed, [args.output / "results.png", args.output / "results.svg"])
    parts = [
        "# Searched block encoders and others, one trainer",
        f"Every encoder was tuned alike (peak rates {', '.join(plan.rates)}{_further(plan)}), then "
        "trained with "
        f"{_counted(len(plan.seeds), 'seed')} for {options['seconds']} CPU seconds on one thread"
        + (f", or for {options['epochs']} epochs." if plan.options["epochs_corpora"] else "."),
        corpus_lines(plan, about),
        *goal_parts(sections),
        "![error against latency](results.png)",
        *(part for section in sections for part in section_parts(section, seed)),
        *chance_parts(by_chance, reader),
        *strategies.parts(by_strategy, plan),
        *scores.parts(by_score, plan),
        "## How to read it",
        READING,
        "## What the numbers do not support",
        LIMITS,
    ]
    load = reader.latency["load"]
    names = elsewhere(options)
    facts = {
        "command": portable(options["command"], names),
        "seeds": " ".join(plan.seeds),
        "load of the machine when latencies were measured (1 is this workflow)": load,
        **environment(),
    }
    data = {
        "facts": facts,
        "options": options,
        "corpora": about,
        "searches": searches(reader),
        "latency_machine": reader.latency["machine"],
        "sections": [section_data(section, seed) for section in sections],
        "chance": by_chance,
        "strategies": by_strategy,
        "scores": by_score,
    }
    print(write_files(args.output, parts, facts, portable(data, names)))


def _further(plan: Plan) -> str:
    return f", and up to {plan.extend} beyond an end with the best" if plan.extend else ""


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + ("s" if number != 1 else "")


def section_data(section: Section, seed: int) -> dict[str, Any]:
    """Return a section as plain values."""
    return {
        "corpus": section.corpus,
        "condition": section.condition,
        "rows": [row.to_dict(seed) for row in section.rows],
        "verdicts": [
            {
                "searched": verdict.name,
                "goal": verdict.goal(),
                "allowed_ms": verdict.allowed_ms(),
                "duels": [duel.to_dict() for duel in verdict.duels()],
            }
            for verdict in section.verdicts
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
