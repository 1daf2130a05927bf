"""Putting genotypes into a zoo, and taking them out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import dump_yaml, write_atomically
from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import GenotypeError
from nas_encoder.genotype.catalog import ZOO, meanings_of, names_in, own_zoo
from nas_encoder.genotype.genotype import NAME, Genotype

# Of a search: key of the provenance -> what it tells.
SEARCHED = {
    "strategy": "how it was searched",
    "config": "with which configuration",
    "data": "on which data",
    "seed": "with which seed",
}
# From the root, from a home folder, or of Windows; not URLs and not parts of a sentence.
_OWN_PATH = re.compile(r"(?:/|~[\w.-]*/|[A-Za-z]:[\\/])[^\s/\\]")
_SHOW = "nas-encoder show FILE --json prints what the file has"


def publish(genotype: Genotype, folder: Path | None = None) -> Path:
    """Put a genotype into a zoo, from where its name finds it; return the file.

    The file appears as a whole or not at all, and never in place of another.

    Args:
        genotype: Named as it is to be called.
        folder: The zoo; None for the user's own (:func:`~nas_encoder.genotype.catalog.own_zoo`),
            which is made if needed.

    Raises:
        GenotypeError: The name is taken or looks like a path, the provenance does not say enough
            (:func:`missing_provenance`) or names files of this machine (:func:`own_paths`), or the
            folder cannot be written.
    """
    target = own_zoo() if folder is None else folder
    name, problems = genotype.name, Problems()
    if not NAME.match(name) or name.endswith((".yaml", ".yml")):
        rule = "must be letters, digits and _ . + - without .yaml at the end"
        problems.add("name", f"{rule}, got {show(name)}")
    taken = meanings_of(name)
    if name in names_in(target) and target.resolve() != ZOO.resolve():
        taken.append(f"{target} has one")
    for reason in taken:
        problems.add("name", f"{show(name)} is taken: {reason}; give another with --name")
    paths = map(_with_remedy, own_paths(genotype.provenance))
    for line in (*missing_provenance(genotype.provenance), *paths):
        problems.add(*line.split(": ", 1))
    if problems:
        raise GenotypeError(f"genotype {show(name)}", problems.lines)
    try:
        if folder is None:
            target.mkdir(parents=True, exist_ok=True)
        elif not target.is_dir():
            what = "is no folder" if target.exists() else "no such folder; make it first"
            raise GenotypeError(str(target), [what])
    except OSError as error:
        raise GenotypeError(str(target), [f"cannot be made: {error.strerror}"]) from None
    path = target / f"{name}.yaml"
    write_atomically(path, dump_yaml(genotype.to_dict(), str(path)), new=True)
    return path


def withdraw(name: str, folder: Path | None = None) -> Path:
    """Delete a genotype of a zoo (by default the user's own) and return the file that it was.

    Raises:
        GenotypeError: There is none of that name, or the file cannot be deleted.
    """
    target = own_zoo() if folder is None else folder
    names = names_in(target)
    if name not in names:
        known = ", ".join(names) or "none"
        problems = [f"{show(name)} is not in {target}; there: {known}", *meanings_of(name)]
        raise GenotypeError("zoo", problems)
    path = target / f"{name}.yaml"
    try:
        path.unlink()
    except OSError as error:
        raise GenotypeError(str(path), [f"cannot be deleted: {error.strerror}"]) from None
    return path


def missing_provenance(provenance: Mapping[str, Any]) -> list[str]:
    """Return what is missing for others to know where a genotype comes from, as lines.

    Of a search: strategy, configuration, data, seed, commit (or, of an installed wheel, version)
    and the validation error; of any other: the source.
    """
    kind = provenance.get("kind")
    if kind != "search":
        if kind == "sampled" and provenance.get("source") is None:
            return ["provenance.kind: is 'sampled', so nobody found it; say why with --source"]
        if not provenance.get("source"):
            return [f"provenance.source: is missing: where a {kind} genotype comes from; --source"]
        return []
    lines = [
        f"provenance.{key}: is missing: {what} ({_SHOW})"
        for key, what in SEARCHED.items()
        if provenance.get(key) in (None, "")
    ]
    if not (provenance.get("commit") or provenance.get("version")):
        lines.append(f"provenance.commit: is missing, as is version: with which code ({_SHOW})")
    if error_of(provenance) is None:
        rule = "must be a number: the error that it was chosen by"
        lines.append(f"provenance.validation.token_error_rate: {rule} ({_SHOW})")
    return lines


def own_paths(document: Mapping[str, Any]) -> list[str]:
    """Return where a document holds an absolute path, as lines: others have no such file."""
    return [
        f"{place}: is a path of this machine, {show(text)}"
        for place, text in _texts(document)
        if _OWN_PATH.match(text)
    ]


def _with_remedy(line: str) -> str:
    place = line.split(":", 1)[0]
    known = place in ("data", "config", "source", "note")
    remedy = f"say what it is with --{place}" if known else "change it in the file, by hand"
    return f"provenance.{line}; {remedy}"


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts of a document with their places."""
    if isinstance(value, str):
        yield place, value.strip()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _texts(item, f"{place}.{number}")


def error_of(provenance: Mapping[str, Any]) -> float | None:
    """Return the validation error, in %, that a provenance records, if any."""
    validation = provenance.get("validation")
    error = validation.get("token_error_rate") if isinstance(validation, Mapping) else None
    if isinstance(error, bool) or not isinstance(error, (int, float)) or not math.isfinite(error):
        return None
    return float(error)
