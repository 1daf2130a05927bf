"""The zoo, shipped and the user's own, and the one way to load any genotype."""

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
OWN_ZOO = "NAS_ENCODER_ZOO"


def own_zoo() -> Path:
    """Return the folder of the user's own genotypes, which may not exist.

    It is what the environment variable NAS_ENCODER_ZOO names, else ``nas_encoder/zoo`` among the
    user's data: in ``$XDG_DATA_HOME``, by default ``~/.local/share``.
    """
    given = os.environ.get(OWN_ZOO)
    if given:
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME", "")
    # XDG: a relative path must be ignored.
    base = Path(data) if os.path.isabs(data) else Path("~/.local/share").expanduser()
    return base / "nas_encoder" / "zoo"


def list_genotypes() -> list[str]:
    """Return the names of the genotypes that ship with the package, sorted."""
    return names_in(ZOO)


def list_own_genotypes() -> list[str]:
    """Return the names in the user's own zoo, sorted; see :func:`own_zoo`."""
    return names_in(own_zoo())


def names_in(folder: Path) -> list[str]:
    """Return the names of the genotypes in a folder, sorted; none if it does not exist."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.name[0] != ".")


def load_genotype(source: str | Path | Mapping[str, Any] | Genotype) -> Genotype:
    """Load a genotype.

    Args:
        source: The name of a genotype in the zoo, shipped or the user's own (:func:`own_zoo`), or
            of a known encoder (``conformer``), a path to a YAML file, the document itself as a
            mapping, a known encoder with its sizes (``{known: conformer, width: 144, blocks:
            16}``), or a genotype (returned as is). A name takes precedence over a file of the
            same name; write ``./name`` for the file.

    Raises:
        GenotypeError: No such genotype exists, it breaks the schema (every problem is listed with
            its path in the document), or a name of the user's zoo has another meaning too.
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
    names, own = list_genotypes(), list_own_genotypes()
    if text in own:
        return _of_own_zoo(text)
    if text in names:
        return Genotype.from_dict(read_yaml(ZOO / f"{text}.yaml"), text)
    if text in KNOWN:
        return _known({"known": text})
    looks_like_path = isinstance(source, Path) or "/" in text or text.endswith((".yaml", ".yml"))
    if not looks_like_path:
        names += [*own, *KNOWN]
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


def meanings_of(name: str) -> list[str]:
    """Return what a name means besides a genotype of the user's."""
    found = ["the package ships a genotype of that name"] if name in list_genotypes() else []
    return found + (["a known encoder has that name"] if name in KNOWN else [])


def _of_own_zoo(name: str) -> Genotype:
    path = own_zoo() / f"{name}.yaml"
    found = Genotype.from_dict(read_yaml(path), str(path))
    problems = [
        f"{meaning} too, perhaps since an upgrade; rename this file and the 'name' in it"
        for meaning in meanings_of(name)
    ]
    if found.name != name:
        problems.append(f"name: must be that of the file, {show(name)}, got {show(found.name)}")
    if problems:
        raise GenotypeError(str(path), problems)
    return found


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
