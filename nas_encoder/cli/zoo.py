"""List the genotypes that have names: those that ship with the package, and your own.

Each line has the name, the search space, the kind (published: printed in a paper; search: found
by a search; reconstruction: made to match a paper's parameter counts, because the paper prints no
genotype, so not the published cells), the hash and where it comes from. Known encoders, which are
genotypes too, at any size, are listed below them. 'add' makes the result of a search one of your
own, which ESPnet, NeMo and all commands then find by its name.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from nas_encoder.cli.origin import kind_title, provenance_line
from nas_encoder.errors import NasEncoderError
from nas_encoder.genotype import Genotype, list_genotypes, load_genotype
from nas_encoder.genotype.catalog import OWN_ZOO, ZOO, list_own_genotypes, own_zoo
from nas_encoder.tables import KNOWN

EXAMPLES = f"""examples:
  nas-encoder zoo
  nas-encoder zoo --json
  nas-encoder zoo --gallery zoo.html            pictures and numbers of all, on one page
  nas-encoder zoo add exp/search/genotype.yaml --name my_blocks --data LibriSpeech-100
  nas-encoder zoo remove my_blocks
  nas-encoder show asrnet_b
  nas-encoder show conformer

Your own are files in the folder that the environment variable {OWN_ZOO} names, by
default ~/.local/share/nas_encoder/zoo (or nas_encoder/zoo in $XDG_DATA_HOME).
"""
ADD_HELP = """The provenance must tell what others need: of a search its strategy, configuration,
data, seed, commit or version, and validation error; of anything else its source. Absolute paths
in it, which others cannot follow, are refused, and so is a name that is taken."""
ADD_EXAMPLES = """examples:
  nas-encoder zoo add exp/search/genotype.yaml --name my_blocks --data LibriSpeech-100
  nas-encoder zoo add mine.yaml --source "drawn on a napkin"
  nas-encoder zoo add exp/search/genotype.yaml --name my_blocks --into nas_encoder/genotype/zoo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options and the sub-commands."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print JSON instead of text")
    shown.add_argument(
        "--gallery", metavar="FILE", help="write a page (HTML) with pictures and numbers of all"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    add = actions.add_parser(
        "add",
        help="give a genotype a name",
        description=ADD_HELP,
        epilog=ADD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("genotype", metavar="FILE", help="for example exp/search/genotype.yaml")
    add.add_argument("--name", help="by default the one in the file")
    add.add_argument("--data", metavar="TEXT", help="what the data are, instead of their path")
    add.add_argument(
        "--config", metavar="TEXT", help="what the configuration is, instead of its path"
    )
    add.add_argument("--source", metavar="TEXT", help="where it comes from")
    add.add_argument("--note", metavar="TEXT", help="what users should know")
    add.add_argument("--into", metavar="FOLDER", help="another zoo than your own")
    remove = actions.add_parser("remove", help="take one of your own away")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--from", dest="folder", metavar="FOLDER", help="another zoo than your own")


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; without one, print the list or write the gallery."""
    if args.action == "add":
        return _add(args)
    if args.action == "remove":
        return _remove(args)
    own, broken = _own()
    shipped = [load_genotype(ZOO / f"{name}.yaml") for name in list_genotypes()]
    if args.gallery:
        from nas_encoder.cli.zoo_gallery import write_gallery

        write_gallery(args.gallery, shipped, own, broken)
        print(args.gallery)
    elif args.json:
        print(json.dumps([_entry(genotype) for genotype in (*shipped, *own)], indent=2))
    else:
        _print_list([*shipped, *own])
        if own:
            print(f"\n{', '.join(genotype.name for genotype in own)}: your own, in {own_zoo()}")
        print(f"\nknown encoders, at any size: {', '.join(KNOWN)}")
        print("for example in a config: genotype: {known: conformer, width: 144, blocks: 16}")
    for line in broken:
        print(f"nas-encoder zoo: error: {line}", file=sys.stderr)
    return 2 if broken else 0


def _own() -> tuple[list[Genotype], list[str]]:
    """Return the user's own genotypes, and what is wrong with those that cannot be read."""
    found, broken = [], []
    for name in list_own_genotypes():
        try:
            found.append(load_genotype(name))
        except NasEncoderError as error:  # the others are still of use
            broken.append(str(error))
    return found, broken


def _add(args: argparse.Namespace) -> int:
    from nas_encoder.common.sealed import require_unaltered
    from nas_encoder.genotype.publishing import error_of, publish

    genotype = load_genotype(Path(args.genotype))
    require_unaltered(Path(args.genotype))
    given = {key: getattr(args, key) for key in ("data", "config", "source", "note")}
    told = {key: text for key, text in given.items() if text is not None}
    name, provenance = args.name or genotype.name, {**genotype.provenance, **told}
    named = Genotype(name, genotype.space, genotype.architecture, provenance)
    path = publish(named, None if args.into is None else Path(args.into))
    print(f"{named.name}  {named.space}  {named.hash}  in {path}")
    error = error_of(provenance)
    found = "" if error is None else f", validation error {error:.2f} %"
    print(f"{provenance_line(named)}{found}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from nas_encoder.genotype.publishing import withdraw

    print(f"removed {withdraw(args.name, None if args.folder is None else Path(args.folder))}")
    return 0


def _print_list(genotypes: Iterable[Genotype]) -> None:
    genotypes = list(genotypes)
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
