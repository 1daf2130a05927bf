"""Draws a genotype at random from a search space."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from nas_encoder.spaces import get_space
from tools.scripts import command


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", required=True, help="name of the space, e.g. asr_revised")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="genotype YAML to write")
    args = parser.parse_args(arguments)
    genotype = get_space(args.space).sample(random.Random(args.seed))
    genotype = genotype.renamed(genotype.name, kind="sampled", seed=args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    genotype.save(args.output)
    print(f"{args.output}: {genotype.name}, {genotype.hash}")


if __name__ == "__main__":
    sys.exit(main())
