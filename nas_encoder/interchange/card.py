"""Model cards: what is known about a trained model, in Markdown, and what is not."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import CheckpointError, GenotypeError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.picture import architecture_lines

SUFFIX = ".card.md"
UNKNOWN = "unknown"
_MOST = 400  # characters per value


def card_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's card: beside it, with its name."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".nemo") + SUFFIX)


def render(
    title: str, toolkit: str, genotype: Genotype | None, sections: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return a card.

    Args:
        title: The model's name.
        toolkit: ``nemo`` or ``espnet``, for the tags that model hubs read.
        genotype: The encoder's; None for a baseline.
        sections: Heading -> (entry -> value); None is written as "unknown", an empty section as
            a sentence saying that nothing is known.
    """
    lines = [
        "---",
        f"library_name: {toolkit}",
        "pipeline_tag: automatic-speech-recognition",
        "tags: [automatic-speech-recognition, nas_encoder]",
        "---",
        "",
        f"# {_inline(title)}",
        "",
    ]
    for heading, entries in sections.items():
        lines += [f"## {heading}", ""]
        lines += [f"- {name}: {_inline(value)}" for name, value in entries.items()]
        if not entries:
            lines.append("Nothing is known.")
        lines.append("")
    if genotype is not None:
        lines += _genotype(genotype)
    return "\n".join(lines)


def _genotype(genotype: Genotype) -> list[str]:
    facts = {"name": genotype.name, "hash": genotype.hash, "space": genotype.space}
    facts |= genotype.provenance
    lines = ["## Genotype", "", *(f"- {name}: {_inline(value)}" for name, value in facts.items())]
    if genotype.provenance.get("kind") == "reconstruction":
        lines.append("- It matches the parameter counts of a paper; it is not the paper's network.")
    try:
        drawing = architecture_lines(genotype)
    except GenotypeError:  # its space has no text form; the config holds it anyway
        return [*lines, ""]
    return [*lines, "", "```", *drawing, "```", ""]


def write(path: Path, text: str) -> None:
    """Write a card atomically; CheckpointError if it cannot be written."""
    write_atomically(path, text.encode("utf-8"), CheckpointError)


def today() -> str:
    """Return the date, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def _inner(value: Any) -> str:
    return f"[{_inline(value)}]" if isinstance(value, (list, tuple)) else _inline(value)


def _inline(value: Any) -> str:
    """Return a value as one line of Markdown that cannot start another construct."""
    if value is None or value in ("", [], {}):
        return UNKNOWN
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_inner(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_inline(item) for item in value)
    text = " ".join(str(value).split())
    text = text if len(text) <= _MOST else f"{text[:_MOST]} ..."
    return text.replace("<", "&lt;")
