"""The genotype document: a tagged union by ``space``, with a canonical form and a hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import plain, write_yaml
from nas_encoder.common.problems import Problems, check_plain, show
from nas_encoder.errors import GenotypeError
from nas_encoder.tables import SPACES

SCHEMA_VERSION = 1
PROVENANCE_KINDS = ("search", "published", "reconstruction", "sampled", "handwritten")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}\Z")


@dataclass(frozen=True)
class Genotype:
    """One architecture with its origin and name.

    Attributes:
        name: A label; letters, digits, ``_ . + -``.
        space: The search space that the architecture belongs to.
        architecture: The space's own data, for example
            :class:`~nas_encoder.spaces.cells.architecture.CellArchitecture`.
        provenance: Plain YAML types; ``kind`` is one of :data:`PROVENANCE_KINDS`.
    """

    name: str
    space: str
    architecture: Any
    provenance: Mapping[str, Any] = field(
        default_factory=lambda: {"kind": "handwritten"}, hash=False
    )

    @classmethod
    def from_dict(cls, document: object, subject: str = "genotype") -> Genotype:
        """Read the YAML form; ``subject`` is its name in errors, for example the file's name.

        Raises:
            GenotypeError: The document breaks the schema; every problem is listed.
        """
        problems = Problems()
        if not isinstance(document, Mapping):
            raise GenotypeError(
                subject, [f"must be a mapping, got {type(document).__name__} {show(document)}"]
            )
        space = problems.choice(document.get("space"), "space", "search space", SPACES)
        if space:
            own, more = SPACES[space].keys, SPACES[space].more_keys
            required = ("schema", "name", "space", *own)
            problems.mapping(document, "", required, (*more, "provenance"))
        else:  # the other allowed keys are unknown
            for key in ("schema", "name"):
                if key not in document:
                    problems.add(key, "is missing")
        version = document.get("schema")
        if "schema" in document and (type(version) is not int or version != SCHEMA_VERSION):
            problems.add(
                "schema",
                f"must be {SCHEMA_VERSION}, the version that is read here, got {show(version)}",
            )
        name = document.get("name")
        if "name" in document and not (isinstance(name, str) and NAME.match(name)):
            problems.add(
                "name",
                "must be 1 to 128 letters, digits and _ . + -, beginning with a letter or digit, "
                f"got {show(name)}",
            )
        provenance = _read_provenance(document.get("provenance"), problems)
        architecture = SPACES[space].parse(document, problems) if space else None
        if problems or space is None or architecture is None:
            raise GenotypeError(subject, problems.lines)
        return cls(str(name), space, architecture, provenance)

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form, in plain types."""
        return {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "space": self.space,
            **self.architecture.to_dict(),
            "provenance": plain(self.provenance),
        }

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify the architecture, whatever its name."""
        text = json.dumps(self.architecture.canonical(), separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the YAML document atomically.

        Raises:
            GenotypeError: The file cannot be written.
        """
        write_yaml(path, self.to_dict())

    def renamed(self, name: str, **provenance: Any) -> Genotype:
        """Return the same architecture under another name and, if given, provenance."""
        return Genotype(name, self.space, self.architecture, provenance or self.provenance)


def _read_provenance(value: object, problems: Problems) -> dict[str, Any]:
    if value is None:
        return {"kind": "handwritten"}
    if not isinstance(value, Mapping):
        problems.add("provenance", f"must be a mapping, got {show(value)}")
        return {}
    problems.choice(value.get("kind"), "provenance.kind", "kind of provenance", PROVENANCE_KINDS)
    before = len(problems.lines)
    check_plain(value, "provenance", problems)
    return plain(value) if len(problems.lines) == before else {}
