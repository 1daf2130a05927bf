"""Derive a genotype from a search's run folder: of any epoch, or within other limits.

A search writes the genotype of its last epoch itself. This gives that of an earlier epoch, or
the one that the same probabilities give when the normal cell may hold more or fewer of an
operation. The result goes to --output, or as YAML to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import yaml

from nas_encoder.errors import ConfigError, NasEncoderError
from nas_encoder.genotype import load_genotype

EXAMPLES = """examples:
  nas-encoder derive exp/search --stage 2 --output stage2.yaml
  nas-encoder derive exp/search --at-most avg_pool_3x3=0 --at-most max_pool_3x3=1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", metavar="DIR", help="run folder of 'nas-encoder search'")
    parser.add_argument("--stage", type=int, help="counted from 1 (default: the last)")
    parser.add_argument("--epoch", type=int, help="of the stage, from 1 (default: its last)")
    parser.add_argument(
        "--at-most",
        action="append",
        metavar="OPERATION=N",
        help="limit for the normal cell, instead of the limits of the search; may be repeated",
    )
    parser.add_argument("--name", help="of the genotype (default: that of the configuration)")
    parser.add_argument("--output", metavar="FILE", help="write the genotype there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of YAML")


def run(args: argparse.Namespace) -> int:
    """Derive; write or print the genotype."""
    from nas_encoder.search.folder import RunFolder
    from nas_encoder.search.gradient.rederive import rederive

    if args.output:
        _require_replaceable(args.output)
    genotype = rederive(
        RunFolder(args.folder), args.stage, args.epoch, _limits(args.at_most), args.name
    )
    if args.output:
        genotype.save(args.output)
    if args.json:
        document = {"genotype": genotype.to_dict(), "hash": genotype.hash}
        print(json.dumps(document | ({"output": args.output} if args.output else {})))
    elif args.output:
        print(f"{args.output}  {genotype.hash}")
    else:
        yaml.safe_dump(genotype.to_dict(), sys.stdout, sort_keys=False, default_flow_style=None)
    return 0


def _require_replaceable(path: str) -> None:
    """Require that a file is not there, or is a genotype, which may be derived again."""
    if not os.path.exists(path):
        return
    try:
        load_genotype(Path(path))
    except NasEncoderError as error:
        raise ConfigError("--output", [f"{path} exists and is no genotype"]) from error


def _limits(options: list[str] | None) -> dict[str, int] | None:
    if options is None:
        return None
    parts = [option.partition("=") for option in options]
    problems = [
        f"must be OPERATION=N, got {option!r}"
        for option, (_, _, count) in zip(options, parts, strict=True)
        if not count.isdecimal()
    ]
    if problems:
        raise ConfigError("--at-most", problems)
    return {operation: int(count) for operation, _, count in parts}
