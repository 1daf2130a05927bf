"""Writes the results: tables, tests in words, the figure, and everything as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.provenance import environment
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import load_genotype
from recipes.blocks.local.collect import asked, corpora, corpus_lines, elsewhere
from recipes.blocks.local.figure import front, plot
from recipes.blocks.local.plan import RECORDED
from recipes.blocks.local.rows import Reader, Row
from recipes.blocks.local.verdicts import Duel, Verdict, verdicts
from recipes.streaming.local.plan import StreamingPlan
from tools.experiments.job_costs import read_costs
from tools.results.document import portable, write_files
from tools.scripts import command

RECIPE = Path(__file__).resolve().parents[1]
TOOLKITS = ("nemo", "espnet")  # with which names of peers begin
READING = """\
Lookahead: input frames after the first one of an output frame that it depends on, in the worst
case, chunks included, in ms (10 ms a frame, without the window of the features); computed from
the encoder, and measured by changing frames of random features. NeMo's is that of the first frame
of a chunk. ESPnet's is that of the first frame that a block gives; zeros, the mean of the
features, as long as a block's history are put before each utterance, in training, tests and
timings, since the frames of its first block would wait for all of it otherwise: they are part of
the work that its CPU seconds pay for. ESPnet's own streaming gives frames 90 ms later than that,
which is not counted. Error: characters (with the spaces between words; TIMIT layout: phones),
greedy decoding, no language model, one utterance at a time. Brackets: 95 % bootstrap interval
over test utterances of the errors of all seeds together. Matched pairs (Gillick and Cox 1989):
two-sided, one observation an utterance, over all seeds together, not corrected for the number of
comparisons. Rates are the best of those tried, on validation data with the first seed. A rate
marked * lies at an end of those tried. 10 s: median time of 10 s of features on one thread, whole
and in chunks, all encoders in turns. The chunks are as long as the bound, in whole output frames,
of which ESPnet takes whole hops, and NeMo only what its context says, which is a little more; each
length is in the table. Dropout: 0.1 in the modules of blocks, and of peers as their authors have
it; cells have 0.1 before the last layer and none inside. Training time: CPU seconds of the steps
of the weights, one thread, beside other trainings. In bold: the encoders that no other one of the
table beats in both error and time for 10 s whole."""
LIMITS = """\
- Networks of {least:.2f} to {most:.2f} M parameters, trained for {seconds} CPU seconds: they are
  judged by how fast they learn. Nothing here says how they compare at 10 M parameters and after
  days, which both toolkits' encoders are made for.
- The peers have fewer channels in front than their authors ship, and contexts that their authors do
  not ship, as the shipped ones are beyond the bounds. Which other settings suit such bounds better
  was not searched; for our encoders it was: a search is tuning that the peers did not get.
- Synthetic corpora are espeak-ng with synthetic noise and rooms, their texts come from small
  grammars. The recorded prompts have six voices that are in training and test alike (with other
  sentences): not a test of unseen speakers.
- The tests take utterances as independent; those of one voice are not. The seeds are of trainings
  and show how much a training varies, not how much a search does. Each search was made once.
- Lookahead and the time for 10 s are not the latency that a user sees: that has the window of the
  features, the size of the chunks that audio comes in and the decoder in it too.
- CTC alone, characters, one optimizer (AdamW), one schedule and one augmentation for all. Nothing
  here says how the encoders compare under a transducer or with attention."""


@dataclass(frozen=True)
class Group:
    """The encoders of a corpus within a bound, best first, and the searched ones' comparisons."""

    corpus: str
    bound: float
    title: str
    rows: Sequence[Row]
    verdicts: Sequence[Verdict]


class Results:
    """What a run left behind.

    Args:
        expdir: Its folder.
        plan: Its plan.
        seed: Of the bootstrap.
    """

    def __init__(self, expdir: Path, plan: StreamingPlan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        self.reader = Reader(expdir, plan)

    def groups(self) -> list[Group]:
        """Return the encoders of each corpus within each bound."""
        found, plan = [], self.plan
        for corpus, kind in plan.corpora.items():
            rows = self.reader.rows(corpus, "time")
            speech = "recorded speech" if kind["layout"] == RECORDED else "synthetic speech"
            for bound in plan.bounds:
                own = [row for row in rows if plan.bound_of(row.name) == bound]
                title = f"{kind['title']} ({speech}), lookahead of at most {bound:g} ms"
                decided = verdicts(own, self.seed, list(plan.encoders))
                found.append(Group(corpus, bound, title, own, decided))
        return [group for group in found if group.rows]

    def read(self, path: str) -> dict[str, Any]:
        """Return a JSON document of the run."""
        found: dict[str, Any] = json.loads((self.reader.expdir / path).read_text(encoding="utf-8"))
        return found

    def facts(self, corpus: str, row: Row) -> dict[str, Any]:
        """Return what streaming adds to a row: lookahead, time in chunks, the check of outputs."""
        ahead = self.read(f"lookahead/{corpus}/{row.name}.json")
        times = self.reader.latency["ms"][f"{corpus}/{row.name}"]
        streamed = self.read(f"streamed/{corpus}/{row.name}/{row.rate}/{self.plan.seeds[0]}.json")
        measured = {key: times[key] for key in ("streamed_ms", "chunk_ms")}
        return {**ahead, **measured, "streamed": streamed}


def table(results: Results, group: Group) -> str:
    """Return the table of a group as Markdown."""
    lines = [
        "| encoder | lookahead | error % [95 %] | each seed | 10 s | in chunks of | parameters "
        "| epochs | rate |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    best = {row.name for row in front(group.rows)}
    for row in group.rows:
        found, own = row.interval(results.seed), results.facts(group.corpus, row)
        errors = ", ".join(f"{error:.1f}" for error in row.errors)
        title = f"**{row.title}**" if row.name in best else row.title
        lines.append(
            f"| {title} | {own['lookahead_ms']:.0f} ms | {100 * found.estimate:.2f} "
            f"[{100 * found.low:.2f}, {100 * found.high:.2f}] | {errors} | {row.ms:.1f} ms "
            f"| {own['chunk_ms']:.0f} ms: {own['streamed_ms']:.0f} ms "
            f"| {row.results[0]['encoder_parameters'] / 1e3:.0f} k "
            f"| {row.mean('epochs'):.1f} | {row.rate}{'*' if row.at_the_end else ''} |"
        )
    return "\n".join(lines)


def against_toolkits(verdict: Verdict) -> list[Duel]:
    """Return the comparisons with the best encoder of each toolkit, by errors on the test data."""
    best: dict[str, Row] = {}
    for row in verdict.rows:  # the best first
        if (name := row.name.partition("_")[0]) in TOOLKITS:
            best.setdefault(name, row)
    return [Duel.of(verdict.first, row, verdict.seed) for row in best.values()]


def goal_parts(groups: Sequence[Group]) -> list[str]:
    """Return what became of the goal: fewer errors than the best of each toolkit."""
    lines, met, asked = [], 0, 0
    for group in groups:
        for verdict in group.verdicts[:1]:
            duels = against_toolkits(verdict)
            if len(duels) < len(TOOLKITS):
                continue  # a part of the encoders
            won = all(duel.outcome == "won" for duel in duels)
            met, asked = met + won, asked + 1
            said = " ".join(duel.sentence() for duel in duels)
            lines.append(f"- {group.title}: {'met' if won else 'not met'}. {said}")
    if not lines:
        return []
    return [
        "## The goal",
        "Fewer errors within the same bound than the best encoder of each toolkit (matched pairs, "
        "p < 0.05; the best on the *test* data, which favours the peers), by the first searched "
        f"encoder of the list: met in **{met} of {asked}** cases.",
        "\n".join(lines),
    ]


def group_parts(results: Results, group: Group) -> list[str]:
    """Return the paragraphs of a group."""
    parts = [f"## {group.title}", table(results, group)]
    for verdict in group.verdicts:
        duels = verdict.duels()
        counts = {o: sum(duel.outcome == o for duel in duels) for o in ("won", "lost", "open")}
        parts += [
            f"{verdict.first.title}: {counts['won']} won, {counts['lost']} lost, "
            f"{counts['open']} without a difference shown.",
            "\n".join(f"- {duel.sentence()}" for duel in duels),
        ]
    return parts + [
        f"- {row.title}, seed {result['seed']}: diverged ({result['diverged']})"
        for row in group.rows
        for result in row.results
        if result["diverged"]
    ]


def limits(groups: Sequence[Group], plan: StreamingPlan) -> str:
    """Say what the numbers do not support, of encoders of these sizes trained for so long."""
    sizes = [row.results[0]["encoder_parameters"] / 1e6 for g in groups for row in g.rows]
    return LIMITS.format(least=min(sizes), most=max(sizes), seconds=plan.options["seconds"])


def trained_sentence(plan: StreamingPlan) -> str:
    """Say how all encoders were trained."""
    rates, seeds = ", ".join(plan.rates), len(plan.seeds)
    more = f", and up to {plan.extend} beyond an end with the best" if plan.extend else ""
    tuned = f"was tuned alike (peak rates {rates}{more}), then trained"
    if len(plan.rates) == 1:  # then none is tried beside it
        tuned = f"was trained at the peak rate {rates}, which was not tuned,"
    return (
        f"Every encoder {tuned} with {seeds} seed{'s' if seeds > 1 else ''} for "
        f"{plan.options['seconds']} CPU seconds on one thread."
    )


def streamed_sentence(results: Results, groups: Sequence[Group]) -> str:
    """Say how well what streams agrees with what was decoded."""
    own = [results.facts(g.corpus, row)["streamed"] for g in groups for row in g.rows]
    count, same = (sum(each[key] for each in own) for key in ("utterances", "same_texts"))
    return (
        f"Errors are of whole utterances. Of each trained encoder (first seed) the first test "
        f"utterances were streamed too, {count} in all: {same} texts are the same, and "
        f"log-probabilities are at most {max(each['furthest'] for each in own):.1g} apart."
    )


def searches(results: Results) -> list[dict[str, Any]]:
    """Return the cost of each search and what it found."""
    found = []
    for name, corpus in results.plan.search_runs:
        folder = f"search/{name}/{corpus}"
        genotype = load_genotype(results.reader.expdir / folder / "genotype.yaml").to_dict()
        about = genotype["provenance"]
        costs = read_costs(results.reader.expdir, folder)
        found.append(
            {
                "search": name,
                "corpus": corpus,
                "cpu_seconds": costs["cpu_seconds"],
                "trials": about["trials"],
                "initial": about.get("initial"),
                "error": about["validation"]["token_error_rate"],
                "genotype": genotype,
            }
        )
    return found


def search_lines(found: Sequence[Mapping[str, Any]], plan: StreamingPlan) -> str:
    """Say what each search cost and whether it found more than what it began with."""
    return "\n".join(
        f"- {row['search']} ({plan.corpora[row['corpus']]['title']}): {row['trials']} trials in "
        f"{row['cpu_seconds']:.0f} CPU seconds, {row['error']:.2f} % on validation data; "
        + (
            f"nothing better than '{row['initial']}', which was given."
            if row["initial"]
            else "found by the search."
        )
        for row in found
    )


def group_data(results: Results, group: Group) -> dict[str, Any]:
    """Return a group as plain values."""
    return {
        "corpus": group.corpus,
        "bound_ms": group.bound,
        "rows": [
            {**row.to_dict(results.seed), **results.facts(group.corpus, row)} for row in group.rows
        ],
        "verdicts": [
            {"searched": own.name, "duels": [duel.to_dict() for duel in own.duels()]}
            for own in group.verdicts
        ],
    }


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = asked(arguments, __doc__)
    options = read_yaml(args.options, ConfigError)
    plan, seed = StreamingPlan(RECIPE, options), int(options["seed"])
    results = Results(args.options.parent, plan, seed)
    groups, about, found = results.groups(), corpora(plan), searches(results)
    args.output.mkdir(parents=True, exist_ok=True)
    panels = {group.title: group.rows for group in groups}
    plot(panels, seed, [args.output / "results.png", args.output / "results.svg"])
    parts = [
        "# Streaming encoders within a bound of the lookahead, one trainer",
        trained_sentence(plan),
        corpus_lines(plan, about),
        streamed_sentence(results, groups),
        *goal_parts(groups),
        "![error against the time for 10 s](results.png)",
        *(part for group in groups for part in group_parts(results, group)),
        "## Searches",
        search_lines(found, plan),
        "## How to read it",
        READING,
        "## What the numbers do not support",
        limits(groups, plan),
    ]
    load, names = results.reader.latency["load"], elsewhere(options)
    origin = {
        "command": portable(options["command"], names),
        "seed": seed,
        "seeds of trainings": " ".join(plan.seeds),
        "load of the machine when times were measured (1 is this workflow)": load,
        **environment(),
    }
    data = {
        "origin": origin,
        "tiny": options["tiny"] == "true",
        "options": options,
        "corpora": about,
        "searches": found,
        "groups": [group_data(results, group) for group in groups],
    }
    print(write_files(args.output, parts, origin, portable(data, names)))


if __name__ == "__main__":
    sys.exit(main())
