"""The zoo: genotypes that ship with the package, and the one way to load any genotype."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.problems import Problems, show
from nas_encoder.common.sealed import check_unaltered
from nas_encoder.errors import ConfigError, GenotypeError
from nas_encoder.genotype.genotype import Genotype
from nas_encoder.tables import KNOWN

ZOO = Path(__file__).parent / "zoo"


def list_genotypes() -> list[str]:
    """Return the names of the genotypes that ship with the package, sorted."""
    return sorted(path.stem for path in ZOO.glob("*.yaml"))


def load_genotype(source: str | Path | Mapping[str, Any] | Genotype) -> Genotype:
    """Load a genotype.

    Args:
        source: The name of a shipped genotype or of a known encoder (``conformer``), a path to a
            YAML file, the document itself as a mapping, a known encoder with its sizes
            (``{known: conformer, width: 144, blocks: 16}``), or a genotype (returned as is). A
            name takes precedence over a file of the same name; write ``./name`` for the file.

    Raises:
        GenotypeError: No such genotype exists, or it breaks the schema; every problem is listed
            with its path in the document.
    """
    if isinstance(source, Genotype):
        return source
    if isinstance(source, Mapping):
        if "known" in source:
            return _known(dict(source))
        name = source.get("name")
        return Genotype.from_dict(source, f"genotype {show(name)}" if name else "genotype")
    if not isinstance(source, (str, Path)):
        raise GenotypeError(
            "genotype",
            [f"must be a name, a path or a mapping, got {type(source).__name__} {show(source)}"],
        )
    text = str(source)
    names = list_genotypes()
    if text in names:
        return Genotype.from_dict(read_yaml(ZOO / f"{text}.yaml"), text)
    if text in KNOWN:
        return _known({"known": text})
    looks_like_path = isinstance(source, Path) or "/" in text or text.endswith((".yaml", ".yml"))
    if not looks_like_path:
        names += list(KNOWN)
        close = difflib.get_close_matches(text, names, n=1)
        guess = f" (did you mean '{close[0]}'?)" if close else ""
        raise GenotypeError(
            "genotype",
            [
                f"unknown name {show(text)}{guess}; known: {', '.join(names)}; "
                "a file is given by a path that ends in .yaml or holds a '/'"
            ],
        )
    if os.path.isdir(source):
        raise GenotypeError(text, ["is a folder; name the file in it, such as genotype.yaml"])
    document = read_yaml(source)
    check_unaltered(Path(source))
    if isinstance(document, dict) and {"space", "strategy"} <= set(document) - {"schema"}:
        raise GenotypeError(text, ["is the configuration of a search, not a genotype"])
    return Genotype.from_dict(document, text)


def _known(sizes: dict[str, Any]) -> Genotype:
    """Return a known encoder of some sizes; what they lack has its own default."""
    problems = Problems()
    name = problems.choice(sizes.pop("known"), "known", "encoder", KNOWN)
    if name is None:
        raise GenotypeError("genotype", problems.lines)
    try:
        found: Genotype = KNOWN[name](**sizes)
    except ConfigError as error:
        raise GenotypeError(f"genotype of the known encoder '{name}'", error.problems) from None
    return found
