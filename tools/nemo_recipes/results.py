"""Scores what NeMo transcribed and writes RESULTS.md, with the table of ESPnet's result pages.

Errors are aligned as sclite does, as in the ESPnet recipes; the last column is NeMo's own
``word_error_rate``, the fewest edits. TIMIT's phones are folded to 39 before they are scored.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.provenance import environment
from nas_encoder.errors import ConfigError, DataError
from tools.espnet_recipes.results import COLUMNS, row_of
from tools.experiments.measure import named_path
from tools.nemo_recipes.configs import Choice, choice_of, table
from tools.nemo_recipes.manifests import read_manifest
from tools.results.document import write_files
from tools.results.scoring import read_transcripts, score
from tools.scripts import command

FOLDED = "timit39"
# What is counted, by the kind of tokens: name -> unit of scoring.
UNITS = {
    "char": {"CER": "char"},
    "bpe": {"WER": "word", "CER": "char"},
    "phone": {"PER": FOLDED},
    "syllable": {"SER": "word"},
    "initial_final": {"initials and finals": "word"},
}
NOTES = {
    "PER": "PER counts phones, of 61, 48 or 39 folded to 39 (Lee and Hon 1989).",
    "SER": "SER counts tonal syllables.",
}
DIFFERENCE = 1e-9  # of rates that must be equal


def check_rate(where: Path, unit: str, rate: float, rates: dict[str, float]) -> float:
    """Return NeMo's rate for a unit.

    Raises:
        DataError: NeMo counts other errors in the same transcripts.
    """
    if abs(rate - rates[unit]) > DIFFERENCE:
        rule = f"NeMo counts {rates[unit]:.6f} errors for each {unit}, this {rate:.6f}"
        raise DataError(str(where), [rule])
    return rates[unit]


def rows_of(encoder: str, dataset: str, folder: Path, manifest: Path, kind: str) -> list[Any]:
    """Return (row, fewest edits for each unit) of every unit that is counted."""
    texts = {row["utt_id"]: " ".join(row["text"].split()) for row in read_manifest(manifest)}
    found = read_transcripts(folder / "text")
    rates = json.loads((folder / "nemo.json").read_text(encoding="utf-8"))["rates"]
    result = []
    for name, unit in UNITS[kind].items():
        counted = score(texts, found, unit, sclite=True)
        rate = check_rate(folder, unit, score(texts, found, unit).rate, rates)
        row = row_of(encoder, dataset, name, counted)
        result.append((row, rate))
    return result


def table_of(found: Sequence[Any]) -> str:
    """Return the rows as Markdown."""
    columns = [*COLUMNS, "NeMo"]
    lines = [columns, ["---"] * len(columns)]
    lines += [[*row.cells(), f"{100 * rate:.1f}"] for row, rate in found]
    return "\n".join("|" + "|".join(cells) + "|" for cells in lines)


def facts_of(encoder: str, choice: Choice, folder: Path) -> dict[str, Any]:
    """Return the sizes of a model, and what its training was told about the data."""
    document = json.loads((folder / "nemo.json").read_text(encoding="utf-8"))
    log = Path("log", "conf", f"{encoder}.log").read_text(encoding="utf-8")
    config = read_yaml(Path("conf", f"{encoder}.yaml"), ConfigError)
    return {
        "config": choice.config_name,
        "genotype": config["model"]["encoder"].get("genotype") if encoder != choice.name else None,
        "class": config["target"],
        "loss": config["model"].get("loss", {}).get("loss_name"),
        "epochs": config["trainer"]["max_epochs"],
        "parameters": document["parameters"],
        "encoder_parameters": document["encoder"],
        "data": [line for line in log.splitlines() if " of " in line],
    }


def about(facts: dict[str, Any]) -> str:
    """Return the lines above the table of an encoder."""
    genotype = facts["genotype"]
    own = f", with the genotype {genotype['name']}" if genotype else ""
    loss = f", transducer's loss: {facts['loss']}" if facts["loss"] else ""
    lines = [
        f"- Config: {facts['config']} (`nas-encoder config nemo {facts['config']}`), "
        f"{facts['class']}{own}{loss}",
        f"- Params: {facts['parameters'] / 1e6:.2f}M, encoder "
        f"{facts['encoder_parameters'] / 1e6:.2f}M; epochs: {facts['epochs']}",
        *(f"- {line}" for line in facts["data"]),
    ]
    return "\n".join(lines)


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("tests", nargs="+", type=named_path, metavar="TEST=MANIFEST")
    add("--corpus", choices=table()["corpora"], required=True)
    add("--encoders", nargs="+", required=True, help="NAME, or NAME=CONFIGURATION of a genotype")
    add("--kind", choices=tuple(UNITS), required=True, help="of tokens")
    add("--decoding", required=True, help="name of the decoding in the rows")
    add("--prepared", type=Path, required=True, help="what the first stage wrote")
    add("--synthetic", action="store_true", help="say that the corpus is")
    add("--command", required=True)
    add("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    notes = ["Each network was trained once, with one seed."]
    if args.synthetic:
        notes = [
            "**A synthetic corpus** (espeak-ng) in the layout of the real one, about which these "
            "numbers say nothing."
        ]
    prepared = read_yaml(args.prepared, ConfigError)
    if prepared.get("counts", prepared)["source"] == "partial":
        notes.append("**A part of the corpus**, with which published numbers cannot be compared.")
    notes += [NOTES[name] for name in UNITS[args.kind] if name in NOTES]
    parts = [f"# {args.corpus} with NeMo", *notes]
    document: dict[str, Any] = {"rows": [], "encoders": {}}
    for word in args.encoders:
        encoder, _, name = word.partition("=")
        choice, found = choice_of(args.corpus, name or encoder), []
        heads = choice.heads
        for head in heads:
            for name, manifest in args.tests:
                folder = Path("decode", encoder, head, name)
                dataset = f"{head}_{args.decoding}/{name}"
                found += rows_of(encoder, dataset, folder, manifest, args.kind)
        facts = facts_of(encoder, choice, Path("decode", encoder, heads[0], args.tests[0][0]))
        parts += [f"## {encoder}", about(facts)]
        for unit in UNITS[args.kind]:
            parts += [f"### {unit}", table_of([one for one in found if one[0].unit == unit])]
        document["rows"] += [{**asdict(row), "nemo_rate": rate} for row, rate in found]
        document["encoders"][encoder] = facts
    origin = {**environment(), "nemo_toolkit": _nemo_version(), "command": args.command}
    document |= {"prepared": prepared, "origin": origin}
    print(write_files(args.output, parts, origin, document))


def _nemo_version() -> str:
    from importlib.metadata import version

    return version("nemo_toolkit")


if __name__ == "__main__":
    sys.exit(main())
