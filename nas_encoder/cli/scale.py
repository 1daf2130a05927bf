"""Print a genotype at another size: what a search found small becomes an encoder to train.

The rule: as many blocks as hold 64 residual modules, as 16 blocks of Conformer-S, Conformer-M and
FastConformer do; all widths by one factor, to the number of parameters; the front end stays.
nas_encoder/spaces/blocks/scaling.py says why. What was searched was the small encoder.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

from nas_encoder.common.documents import dump_yaml
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.spaces import get_space

EXAMPLES = """examples:
  nas-encoder scale exp/search/genotype.yaml --parameters 13M > blocks_13m.yaml
  nas-encoder scale hourglass --parameters 30M --name hourglass_30m --output hourglass_30m.yaml
  nas-encoder scale exp/search/genotype.yaml --parameters 13M --blocks 24
  nas-encoder zoo add blocks_13m.yaml
"""
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kM]?)\Z")
_UNITS = {"": 1, "k": 1000, "M": 1_000_000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("genotype", help="name of the zoo or path of a YAML file")
    parser.add_argument(
        "--parameters", required=True, metavar="N", help="of the encoder, for example 13M"
    )
    parser.add_argument("--blocks", type=int, metavar="N", help="in all, instead of the rule's")
    parser.add_argument("--input-size", type=int, default=80, help="features a frame (default 80)")
    parser.add_argument("--name", help="of the result (default: the genotype's and its size)")
    parser.add_argument("--output", metavar="FILE", help="write it there instead")


def run(args: argparse.Namespace) -> int:
    """Print the scaled genotype, and say its size."""
    genotype = load_genotype(args.genotype)
    space = get_space(genotype.space)
    wanted = parse_count(args.parameters)
    if not space.has("scaling"):
        rule = f"genotypes of the space '{space.name}' have no size of their own; set the options"
        raise ConfigError("scale", [f"{rule} 'channels' and 'layers' of the encoder instead"])
    given = {"input_size": args.input_size}
    options = space.options.from_dict(given, "scale", None, genotype.architecture)
    scaled, sizes = space.scaling.scale(genotype, wanted, options, args.blocks)
    named = replace(scaled, name=args.name or f"{genotype.name}_{args.parameters.lower()}")
    named = Genotype.from_dict(named.to_dict(), "scale")  # checks the name
    if args.output:
        named.save(Path(args.output))
        print(args.output)
    else:
        sys.stdout.write(dump_yaml(named.to_dict(), "scale").decode())
    count = named.provenance["scaled"]["parameters"]
    words = ", ".join(f"{key}: {value}" for key, value in sizes.items())
    print(
        f"{named.name}: {count / 1e6:.2f} M parameters with {args.input_size} features; "
        f"the same from {args.genotype} with {words}",
        file=sys.stderr,
    )
    return 0


def parse_count(text: str) -> int:
    """Return the number that ``13M``, ``400k`` or ``400000`` means.

    Raises:
        ConfigError: It means none, or less than 1.
    """
    found = _NUMBER.match(text)
    count = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not 1 <= count <= 10**10:
        rule = "must be a number from 1 to 10000M, such as 13M, 400k or 400000"
        raise ConfigError("--parameters", [f"{rule}, got {text!r}"])
    return count
