"""Writes the document that builds an encoder: from the list, with the genotype that was found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError
from recipes.blocks.local.encoders import read_encoders, unlisted, write_spec
from tools.scripts import command


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--encoders", type=Path, required=True, help="conf/encoders.yaml")
    add("--name", required=True, help="of the encoder there, or of a random genotype")
    add("--genotype", type=Path, help="what a search found")
    add("--search", type=Path, required=True, help="conf/search.yaml, for the network's size")
    add("--output", type=Path, required=True, help="document to write")
    args = parser.parse_args(arguments)
    listed = read_encoders(args.encoders)
    network = read_yaml(args.search, ConfigError).get("network") or {}
    write_spec(args.output, listed.get(args.name) or unlisted(args.name), args.genotype, network)
    print(args.output)


if __name__ == "__main__":
    sys.exit(main())
