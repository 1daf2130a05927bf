"""Where a genotype comes from, in words."""

from __future__ import annotations

from collections.abc import Mapping

from nas_encoder.common.problems import is_number
from nas_encoder.genotype import Genotype

# Shown instead of the plain kind where the genotype might be taken for the paper's own.
KIND_TITLES = {"reconstruction": "reconstruction (parameter-matched, not the published cells)"}


def kind_title(genotype: Genotype) -> str:
    """Return the kind of provenance in unmistakable words."""
    kind = str(genotype.provenance.get("kind", "unknown"))
    return KIND_TITLES.get(kind, kind)


def note_of(genotype: Genotype) -> str:
    """Return what users should know, empty if nothing."""
    return " ".join(str(genotype.provenance.get("note") or "").split())


def provenance_line(genotype: Genotype) -> str:
    """Return where a genotype comes from, in one line."""
    provenance = genotype.provenance
    parts = [str(provenance["source"])] if "source" in provenance else []
    for key in ("strategy", "data", "seed", "commit", "score", "validation_score"):
        if provenance.get(key) is not None:  # a wheel knows no commit
            parts.append(f"{key.replace('_', ' ')} {provenance[key]}")
    scaled = provenance.get("scaled")
    if isinstance(scaled, Mapping) and is_number(scaled.get("parameters")):
        size = f"{scaled['parameters'] / 1e6:.1f} M parameters"
        parts.append(f"all that of {scaled.get('from')}, which was scaled to {size} afterwards")
    return " ".join(", ".join(parts).split()) or "-"
