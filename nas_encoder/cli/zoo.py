"""List the genotypes that ship with the package.

Each line has the name, the search space, the kind (published: printed in a paper; search: found
by this project; reconstruction: made to match a paper's parameter counts, because the paper
prints no genotype, so not the published cells), the hash and where it comes from. Known encoders,
which are genotypes too, at any size, are listed below them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap

from nas_encoder.genotype import Genotype, list_genotypes, load_genotype
from nas_encoder.tables import KNOWN

EXAMPLES = """examples:
  nas-encoder zoo
  nas-encoder zoo --json
  nas-encoder show asrnet_b
  nas-encoder show conformer
"""

# Shown instead of the plain kind where the genotype might be taken for the paper's own.
KIND_TITLES = {"reconstruction": "reconstruction (parameter-matched, not the published cells)"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def kind_title(genotype: Genotype) -> str:
    """Return the kind of provenance in unmistakable words."""
    kind = str(genotype.provenance.get("kind", "unknown"))
    return KIND_TITLES.get(kind, kind)


def provenance_line(genotype: Genotype) -> str:
    """Return where a genotype comes from, in one line."""
    provenance = genotype.provenance
    parts = [str(provenance["source"])] if "source" in provenance else []
    for key in ("strategy", "data", "seed", "commit", "score", "validation_score"):
        if provenance.get(key) is not None:  # a wheel knows no commit
            parts.append(f"{key.replace('_', ' ')} {provenance[key]}")
    return " ".join(", ".join(parts).split()) or "-"


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    genotypes = [load_genotype(name) for name in list_genotypes()]
    if args.json:
        print(json.dumps([_entry(genotype) for genotype in genotypes], indent=2))
        return 0
    names = max(len(genotype.name) for genotype in genotypes)
    spaces = max(len(genotype.space) for genotype in genotypes)
    indent = " " * (names + 2)
    # Wide enough for a line of prose, narrow enough to keep words whole on a small terminal.
    width = max(60, min(shutil.get_terminal_size().columns, 100))
    for genotype in genotypes:
        head = f"{genotype.name:{names}}  {genotype.space:{spaces}}  {genotype.hash}"
        print(f"{head}  {kind_title(genotype)}")
        print(
            textwrap.fill(
                provenance_line(genotype),
                width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
        )
    print(f"\nknown encoders, at any size: {', '.join(KNOWN)}")
    print("for example in a config: genotype: {known: conformer, width: 144, blocks: 16}")
    return 0


def _entry(genotype: Genotype) -> dict[str, object]:
    document = genotype.to_dict()["provenance"]
    return {
        "name": genotype.name,
        "space": genotype.space,
        "kind": genotype.provenance.get("kind"),
        "hash": genotype.hash,
        "source": provenance_line(genotype),
        "provenance": document,
    }
