"""Scores what was decoded and writes the comparison: table, text, JSON, picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.provenance import environment
from nas_encoder.errors import ConfigError
from tools.experiments.equal_time import run_of
from tools.experiments.job_costs import read_costs, training_seconds
from tools.experiments.schedules import Schedule
from tools.results.comparison import Comparison, System
from tools.results.document import corpus_name, corpus_sentence, write_results
from tools.results.scoring import read_transcripts, score
from tools.scripts import command

CONDITIONS = {"epochs": "Equal epochs", "time": "Equal training time"}


@dataclass(frozen=True)
class Recipe:
    """What a toolkit's recipe adds.

    Attributes:
        heading: Heading of the document.
        toolkit: Distribution whose version is reported.
        systems: Name in job names -> name in the table; the first is compared with the others.
        schedule: Reads the toolkit's configs.
        transcripts: Path of the recognised text below ``decode/RUN``.
        decoder: Name of the decoder, for the report.
        notes: Collector, systems -> paragraphs after the one on the corpus.
    """

    heading: str
    toolkit: str
    systems: Mapping[str, str]
    schedule: Schedule
    transcripts: str
    decoder: str
    notes: Callable[[Collector, Sequence[str]], list[str]]


class Collector:
    """Reads the results of a recipe's jobs; ``reference`` is the Kaldi ``text`` of the test set."""

    def __init__(self, recipe: Recipe, expdir: Path, reference: Path) -> None:
        self.recipe, self.expdir = recipe, expdir
        self.reference = read_transcripts(reference)
        self.measures = json.loads((expdir / "measure.json").read_text(encoding="utf-8"))["systems"]

    def system(self, condition: str, name: str) -> System:
        """Return a row of the table."""
        run = run_of(self.expdir, condition, name)
        recognised = read_transcripts(self.expdir / "decode" / run / self.recipe.transcripts)
        epochs, steps = self._epochs_and_steps(run)
        _, once = self._epochs_and_steps(f"epochs/{name}")
        costs = read_costs(self.expdir, f"train/{run}")
        measured = self.measures[name]
        return System(
            name=self.recipe.systems[name],
            cer=score(self.reference, recognised, "char"),
            wer=score(self.reference, recognised, "word"),
            encoder_parameters=measured["encoder_parameters"],
            parameters=measured["parameters"],
            macs_10s=measured["macs_10s"],
            rtf=measured["rtf"],
            epochs=round(epochs * steps / once, 1),
            training_seconds=training_seconds(costs, epochs),
            peak_memory_mib=costs["peak_memory_mib"],
        )

    def _epochs_and_steps(self, run: str) -> tuple[int, int]:
        config = read_yaml(self.expdir / "conf" / f"{run}.yaml", ConfigError)
        return self.recipe.schedule.epochs_and_steps(config)

    def wall_seconds(self, run: str) -> float:
        """Return the wall-clock seconds of a training's epochs."""
        epochs, _ = self._epochs_and_steps(run)
        return training_seconds(read_costs(self.expdir, f"train/{run}"), epochs, "wall")


def notes(
    collector: Collector,
    corpus: dict[str, Any],
    systems: Sequence[str],
    comparisons: Sequence[Comparison],
) -> list[str]:
    """Return the paragraphs below the heading."""
    machine_load = max(
        collector.wall_seconds(run_of(collector.expdir, condition, name)) / system.training_seconds
        for condition, item in zip(CONDITIONS, comparisons, strict=True)
        for name, system in zip(systems, item.systems, strict=True)
    )
    paragraphs = [
        f"{corpus_sentence(corpus)} It shows that the parts work together; it says nothing about "
        "recorded speech.",
        *collector.recipe.notes(collector, systems),
    ]
    if len(systems) > 1:
        paragraphs += [
            f"**{title}**: {item.verdict()}"
            for title, item in zip(CONDITIONS.values(), comparisons, strict=True)
        ]
    if machine_load > 1.25:
        paragraphs.append(
            "The machine was busy with other things: a training took up to "
            f"{machine_load:.1f} times its CPU seconds of wall time."
        )
    return paragraphs


@command
def main(recipe: Recipe, arguments: list[str] | None = None) -> None:
    """Run the command for a toolkit's recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--expdir", type=Path, required=True, help="experiments")
    names = list(recipe.systems)
    add("--systems", nargs="+", choices=names, required=True, help="the searched one first")
    add("--reference", type=Path, required=True, help="Kaldi text of the test set")
    add("--corpus", type=Path, required=True, help="corpus.json of the synthetic corpus")
    add("--seed", type=int, required=True, help="of the demo; also of the bootstrap")
    add("--decoding", required=True, help="how it was decoded, to write down")
    add("--command", required=True, help="the command line, to write down")
    add("--output", type=Path, required=True, help="folder for RESULTS.md and the others")
    args = parser.parse_args(arguments)
    collector = Collector(recipe, args.expdir, args.reference)
    comparisons = [
        Comparison(
            f"{title} (synthetic corpus)",
            [collector.system(condition, name) for name in args.systems],
            args.seed,
        )
        for condition, title in CONDITIONS.items()
    ]
    corpus = json.loads(args.corpus.read_text(encoding="utf-8"))
    facts = {
        "command": args.command,
        "seed": args.seed,
        "decoding": f"{recipe.decoder} {args.decoding}".strip(),
        "corpus": corpus_name(corpus),
        **environment(),
        recipe.toolkit: version(recipe.toolkit),
    }
    paragraphs = notes(collector, corpus, args.systems, comparisons)
    print(write_results(args.output, recipe.heading, paragraphs, comparisons, facts))
