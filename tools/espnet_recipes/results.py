"""Scores what ESPnet decoded and writes RESULTS.md in the form of ESPnet's own result pages."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from nas_encoder.cli.origin import provenance_line
from nas_encoder.common.documents import read_yaml
from nas_encoder.common.provenance import environment
from nas_encoder.errors import ConfigError, DataError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.genotype.publishing import error_of
from tools.espnet_recipes.standalone import averaged, choice_of
from tools.experiments.job_costs import read_costs
from tools.results.document import write_files
from tools.results.scoring import Score, read_transcripts, score
from tools.scripts import command

COLUMNS = ("dataset", "Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")
UNITS = {"WER": "word", "CER": "char"}


@dataclass(frozen=True)
class Row:
    """Errors on a test set, as sclite counts them.

    Attributes:
        encoder: Name of the training.
        dataset: Decoding and test set.
        unit: WER or CER.
        utterances: Number of them.
        units: Words or characters of the references.
        substitutions: Number of them; so are deletions and insertions.
        deletions: See substitutions.
        insertions: See substitutions.
        wrong: Utterances with an error.
    """

    encoder: str
    dataset: str
    unit: str
    utterances: int
    units: int
    substitutions: int
    deletions: int
    insertions: int
    wrong: int

    def cells(self) -> list[str]:
        """Return the cells of the table's row; rates in percent."""
        right = self.units - self.substitutions - self.deletions
        errors = self.substitutions + self.deletions + self.insertions
        rates = (right, self.substitutions, self.deletions, self.insertions, errors)
        return [
            self.dataset,
            str(self.utterances),
            str(self.units),
            *(f"{100 * rate / self.units:.1f}" for rate in rates),
            f"{100 * self.wrong / self.utterances:.1f}",
        ]


def row_of(encoder: str, dataset: str, unit: str, counted: Score) -> Row:
    """Return the row of the errors of one test set."""
    return Row(
        encoder,
        dataset,
        unit,
        len(counted.utterances),
        sum(counted.lengths),
        counted.substitutions,
        counted.deletions,
        counted.insertions,
        sum(error > 0 for error in counted.errors),
    )


def rows(encoder: str, dataset: str, reference: Path, decoded: Path) -> list[Row]:
    """Return the word and the character errors of one test set."""
    texts, found = read_transcripts(reference), read_transcripts(decoded)
    result = []
    for name, unit in UNITS.items():
        counted = score(texts, found, unit, sclite=True)
        result.append(row_of(encoder, dataset, name, counted))
    return result


def table_of(found: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in found)]
    return "\n".join("|" + "|".join(cells) + "|" for cells in lines)


def page(
    title: str, notes: Sequence[str], found: Sequence[Row], about: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the paragraphs of RESULTS.md: a section for each encoder.

    Args:
        title: Of the page.
        notes: Paragraphs after it.
        found: The errors.
        about: Encoder -> lines on it.
    """
    parts = [f"# {title}", *notes]
    for encoder, lines in about.items():
        parts += [f"## {encoder}", "\n".join(f"- {line}" for line in lines)]
        for unit in UNITS:
            mine = [row for row in found if (row.encoder, row.unit) == (encoder, unit)]
            parts += [f"### {unit}", table_of(mine)]
    return parts


def lines_on(name: str, config: str, trained: Mapping[str, Any], parameters: int) -> list[str]:
    """Return what is said about an encoder.

    Args:
        name: Of the training.
        config: Name of its configuration.
        trained: Costs of the training.
        parameters: Of the whole model.
    """
    lines = [f"ASR config: conf/train_asr_{config}.yaml", f"Params: {parameters / 1e6:.2f}M"]
    if name != config:
        saved: Any = read_yaml(Path("models", name, "config.yaml"), ConfigError)
        genotype = load_genotype(saved["encoder_conf"]["genotype"])
        lines[0] += f" with the genotype {genotype.hash} of the space {genotype.space}"
        lines.append(f"Genotype: {_origin(genotype)}")
    searched = Path("costs", "search", f"{name.removeprefix('searched_')}.json")
    if name.startswith("searched_") and searched.is_file():
        lines.append(f"Search: {_cost(json.loads(searched.read_text(encoding='utf-8')))}")
    lines.append(f"Training: {_cost(trained)}; epochs: {len(trained['epochs'])}")
    return lines


def _origin(genotype: Genotype) -> str:
    """Return where a genotype comes from, but for the paths of data, which nobody else has."""
    known = genotype.provenance
    if known.get("kind") != "search":
        return f"{genotype.name}, {provenance_line(genotype)}"
    error = error_of(known)
    parts = [f"{key} {known[key]}" for key in ("strategy", "seed", "commit") if known.get(key)]
    if error is not None:
        parts.append(f"validation error {error:.1f} %")
    if known.get("initial"):
        parts.append(f"the known encoder {known['initial']}, which the search began with")
    return ", ".join([genotype.name, *parts])


def _cost(costs: Mapping[str, Any]) -> str:
    cpu, wall = (costs[f"{clock}_seconds"] / 60 for clock in ("cpu", "wall"))
    return f"{cpu:.1f} CPU minutes, {wall:.1f} minutes by the clock"


def parameters_of(checkpoint: Path) -> int:
    """Return the number of values in a checkpoint that were learned, as ESPnet counts them."""
    import torch

    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(str(checkpoint), [f"cannot be read: {error.strerror}"]) from None
    buffers = ("normalize.", "running_mean", "running_var", "num_batches_tracked")
    return sum(value.numel() for key, value in state.items() if not any(b in key for b in buffers))


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--corpus", required=True)
    add("--encoders", nargs="+", required=True, help="NAME=CONFIGURATION of each")
    add("--tests", nargs="+", required=True, help="NAME=FOLDER with the reference")
    add("--decodings", nargs="+", required=True)
    add("--prepared", type=Path, required=True, help="what data prepare wrote")
    add("--seed", type=int, required=True)
    add("--synthetic", action="store_true", help="say that the corpus is")
    add("--tiny", action="store_true", help="say that the networks are too small to mean anything")
    add("--command", required=True)
    add("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    configs = dict(word.split("=", 1) for word in args.encoders)
    found: list[Row] = []
    for encoder, decoding, test in product(configs, args.decodings, args.tests):
        name, _, folder = test.partition("=")
        decoded = Path("decode", encoder, decoding, name, "1best_recog", "text")
        found += rows(encoder, f"{decoding}/{name}", Path(folder, "text"), decoded)
    sizes = {
        name: parameters_of(Path("models", name, averaged(choice_of(args.corpus, config))))
        for name, config in configs.items()
    }
    costs = {name: read_costs(Path(), f"train/{name}") for name in configs}
    about = {
        name: lines_on(name, config, costs[name], sizes[name]) for name, config in configs.items()
    }
    prepared: Any = read_yaml(args.prepared, ConfigError)
    del prepared["output_dir"]  # which nobody else has
    used = used_of(prepared)
    origin = {"seed": args.seed, **environment(), "command": args.command}
    document = {
        "corpus": args.corpus,
        "synthetic": args.synthetic,
        "tiny": args.tiny,
        "rows": [asdict(row) for row in found],
        "parameters": sizes,
        "about": about,
        "training": costs,
        "prepared": prepared,
        "used": {split: kept for split, (kept, _) in used.items()},
        "origin": origin,
    }
    notes = ["Each network was trained once, with one seed."]
    if args.synthetic:
        notes.insert(
            0,
            f"**A synthetic corpus** (espeak-ng) in the layout of the real one, about which these "
            f"numbers say nothing: {_sizes(prepared)}.",
        )
    if any(kept < total for kept, total in used.values()):
        notes.append(
            "By length or for want of a text, some utterances were left out of the training: "
            + ", ".join(f"{split} has {kept} of {total}" for split, (kept, total) in used.items())
            + "."
        )
    if args.tiny:
        notes.append("**Networks of a few thousand parameters, an epoch each**: not results.")
    if args.corpus == "timit":
        notes.append("WER counts phones: it is the PER.")
    parts = page(f"{args.corpus} with ESPnet's programs", notes, found, about)
    print(write_files(args.output, parts, origin, document))


def used_of(prepared: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return how many utterances of each split were trained with, and how many there are.

    Of a run before lengths were looked at, all were.
    """
    found = {}
    for split in ("train", "dev"):
        total, path = int(prepared["splits"][split]["utterances"]), Path("lengths", split)
        kept = len(path.read_bytes().splitlines()) if path.is_file() else total
        found[split] = kept, total
    return found


def _sizes(prepared: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{split} {size['utterances']} utterances ({size['hours']:.2f} h)"
        for split, size in prepared["splits"].items()
    )


if __name__ == "__main__":
    sys.exit(main())
