"""The page of the zoo: a picture of each genotype, what its network costs, where it comes from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.cli import show
from nas_encoder.cli.origin import kind_title, note_of, provenance_line
from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import MissingDependencyError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.genotype.publishing import error_of
from nas_encoder.spaces.picture import architecture_lines, picture
from nas_encoder.tables import KNOWN

SIZES = """Of the networks that 'nas-encoder show NAME' builds: blocks and known encoders with their
own sizes and 80 features a frame, all others as the smallest of He et al. 2020 (17 cells, 24
channels) with 40. Errors are what searches recorded on their own validation data, of gradient
searches the supernet's, of others after trainings of their own length: do not compare those of two
searches."""
HEAD = (
    "genotype",
    "space",
    "kind",
    "parameters",
    "multiply-adds, 10 s",
    "receptive field",
    "frames a second",
    "validation error",
)


def write_gallery(
    path: str | Path, shipped: Sequence[Genotype], own: Sequence[Genotype], broken: Sequence[str]
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        shipped: Genotypes that ship with the package; known encoders are added to them.
        own: The user's own.
        broken: What is wrong with those of the user's own that are not in ``own``.

    Raises:
        MissingDependencyError: Jinja2 or matplotlib is not installed.
        GenotypeError: The file cannot be written.
    """
    try:
        from nas_encoder.search.report.page import Page, Section, render
    except ImportError as error:
        raise MissingDependencyError("jinja2", "search", "the gallery") from error
    genotypes = [*own, *shipped, *map(load_genotype, KNOWN)]
    costs = [_costs(genotype) for genotype in genotypes]

    def sections() -> Iterator[Section]:
        rows = [_row(genotype, cost) for genotype, cost in zip(genotypes, costs, strict=True)]
        yield Section("Numbers", SIZES, head=HEAD, rows=rows)
        for genotype, row in zip(genotypes, rows, strict=True):
            yield Section(
                genotype.name,
                f"{kind_title(genotype)}: {provenance_line(genotype)}. {note_of(genotype)}".strip(),
                picture(genotype, "png", dpi=90),
                f"drawing of {genotype.name}",
                "\n".join(architecture_lines(genotype)),
                head=HEAD[3:],
                rows=[row[3:]],
            )

    state = f"{len(own)} of your own, {len(shipped)} that ship, {len(KNOWN)} known encoders"
    page = Page("Zoo of nas_encoder", state, broken, sections())
    write_atomically(path, render(page).encode())


def _costs(genotype: Genotype) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    show.add_arguments(parser)
    return show.network_costs(genotype, parser.parse_args([genotype.name]))


def _row(genotype: Genotype, costs: dict[str, Any]) -> tuple[str | None, ...]:
    # That of a scaled one is of the genotype before.
    error = None if "scaled" in genotype.provenance else error_of(genotype.provenance)
    field = costs.get("receptive_field")
    return (
        genotype.name,
        genotype.space,
        str(genotype.provenance.get("kind")),
        f"{costs['parameters']['encoder'] / 1e6:.2f} M",
        f"{costs['multiply_adds']['encoder'] / 1e9:.2f} G",
        "the whole utterance" if field is None else f"{field['ms']:,.0f} ms",
        f"{costs['output']['frames_per_second']:g}",
        None if error is None else f"{error:.2f} %",
    )
