"""Model cards: what is known about a trained model, in Markdown, and what is not.

A card is the README.md that model hubs show: metadata in YAML between two lines ``---``, then text.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nas_encoder import __version__
from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import CheckpointError, GenotypeError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.picture import architecture_lines

SUFFIX = ".card.md"
UNKNOWN = "unknown"
WHEEL = f"nas_encoder-{__version__}-py3-none-any.whl"
TITLES = {"espnet": "ESPnet", "nemo": "NeMo"}
_TASK = "automatic-speech-recognition"
_MOST = 400  # characters per value
_PACKAGES = {"espnet": "espnet espnet_model_zoo soundfile", "nemo": "'nemo_toolkit[asr]'"}
# What the toolkit says where this package is missing.
_REFUSALS = {
    "espnet": "ValueError: --encoder must be one of (...): --encoder nas_encoder",
    "nemo": "Instantiation of unsafe target 'nas_encoder.nemo...' is blocked",
}


def card_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's card: beside it, with its name."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".nemo") + SUFFIX)


def render(
    title: str,
    toolkit: str,
    genotype: Genotype | None,
    sections: Mapping[str, Mapping[str, Any] | str],
    about: Mapping[str, Any] | None = None,
    requirement: str = WHEEL,
) -> str:
    """Return a card.

    Args:
        title: The model's name.
        toolkit: ``nemo`` or ``espnet``, for the tags that model hubs read.
        genotype: The encoder's; None for a baseline.
        sections: Heading -> Markdown, or (entry -> value), where None is written as "unknown" and
            no entries as a sentence saying that nothing is known.
        about: More metadata, such as ``language``.
        requirement: What to give to pip for this package.
    """
    metadata = {
        "library_name": toolkit,
        "pipeline_tag": _TASK,
        "tags": [toolkit, "audio", _TASK, "nas_encoder"],
        **(about or {}),
    }
    text = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    lines = ["---", *text.splitlines(), "---", "", f"# {_inline(title)}", ""]
    lines += [*_installation(toolkit, requirement), ""]
    for heading, entries in sections.items():
        lines += [f"## {heading}", ""]
        if isinstance(entries, str):
            lines.append(entries.strip())
        else:
            lines += [f"- {name}: {_inline(value)}" for name, value in entries.items()]
        if not entries:
            lines.append("Nothing is known.")
        lines.append("")
    if genotype is not None:
        lines += _genotype(genotype)
    return "\n".join(lines)


def _installation(toolkit: str, requirement: str) -> list[str]:
    return [
        "## Installation",
        "",
        f"The encoder is part of the package `nas_encoder`, not of {TITLES[toolkit]}, which ends "
        f"without it: `{_REFUSALS[toolkit]}`.",
        "",
        "```sh",
        f"pip install {_PACKAGES[toolkit]}",
        f"pip install {requirement}   # or from a checkout of nas_encoder: pip install .",
        "nas-encoder doctor            # is the encoder registered?",
        "```",
        "",
        "Nothing of it has to be imported.",
    ]


def fenced(text: str, language: str = "") -> str:
    """Return text as a block of code, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def folded(title: str, block: str) -> str:
    """Return a block that a reader has to open."""
    return f"<details><summary>{title}</summary>\n\n{block}\n\n</details>"


def below(text: str, level: int) -> str:
    """Return Markdown whose headings are below those of a level."""
    return re.sub(r"^(#+)(?=\s)", lambda marks: "#" * level + marks[0], text, flags=re.MULTILINE)


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
