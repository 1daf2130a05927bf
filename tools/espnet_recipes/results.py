"""Scores what ESPnet decoded and writes RESULTS.md in the form of ESPnet's own result pages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.provenance import environment
from nas_encoder.errors import ConfigError, DataError
from tools.espnet_recipes.standalone import averaged, choice_of
from tools.results.document import write_files
from tools.results.scoring import read_transcripts, score
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


def rows(encoder: str, dataset: str, reference: Path, decoded: Path) -> list[Row]:
    """Return the word and the character errors of one test set."""
    texts, found = read_transcripts(reference), read_transcripts(decoded)
    result = []
    for name, unit in UNITS.items():
        counted = score(texts, found, unit, sclite=True)
        result.append(
            Row(
                encoder,
                dataset,
                name,
                len(counted.utterances),
                sum(counted.lengths),
                counted.substitutions,
                counted.deletions,
                counted.insertions,
                sum(error > 0 for error in counted.errors),
            )
        )
    return result


def table_of(found: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in found)]
    return "\n".join("|" + "|".join(cells) + "|" for cells in lines)


def page(
    title: str, notes: Sequence[str], found: Sequence[Row], sizes: Mapping[str, int]
) -> list[str]:
    """Return the paragraphs of RESULTS.md: a section for each encoder."""
    parts = [f"# {title}", *notes]
    for encoder, parameters in sizes.items():
        about = [
            f"- ASR config: conf/train_asr_{encoder}.yaml",
            f"- Params: {parameters / 1e6:.2f}M",
        ]
        parts += [f"## {encoder}", "\n".join(about)]
        for unit in UNITS:
            mine = [row for row in found if (row.encoder, row.unit) == (encoder, unit)]
            parts += [f"### {unit}", table_of(mine)]
    return parts


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
    add("--encoders", nargs="+", required=True)
    add("--tests", nargs="+", required=True, help="NAME=FOLDER with the reference")
    add("--decoding", required=True, help="name of the decoding in the rows")
    add("--prepared", type=Path, required=True, help="what data prepare wrote")
    add("--synthetic", action="store_true", help="say that the corpus is")
    add("--command", required=True)
    add("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    found: list[Row] = []
    for encoder in args.encoders:
        for test in args.tests:
            name, _, folder = test.partition("=")
            decoded = Path("decode", encoder, name, "1best_recog", "text")
            found += rows(encoder, f"{args.decoding}/{name}", Path(folder, "text"), decoded)
    sizes = {
        encoder: parameters_of(Path("models", encoder, averaged(choice_of(args.corpus, encoder))))
        for encoder in args.encoders
    }
    prepared: Any = read_yaml(args.prepared, ConfigError)
    origin = {**environment(), "command": args.command}
    document = {
        "rows": [asdict(row) for row in found],
        "parameters": sizes,
        "prepared": prepared,
        "origin": origin,
    }
    notes = ["Each network was trained once, with one seed."]
    if args.synthetic:
        notes = [
            "**A synthetic corpus** (espeak-ng) in the layout of the real one, about which these "
            "numbers say nothing."
        ]
    if args.corpus == "timit":
        notes.append("WER counts phones: it is the PER.")
    parts = page(f"{args.corpus} with ESPnet's programs", notes, found, sizes)
    print(write_files(args.output, parts, origin, document))


if __name__ == "__main__":
    sys.exit(main())
