"""Counts the errors of transcripts, utterance by utterance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas_encoder.data.phones import FOLDINGS, fold
from nas_encoder.errors import DataError, MissingDependencyError

FOLDED = tuple(FOLDINGS)  # units of folded phones
_SHOWN = 5
_CHARACTERS = re.compile(r"<[a-z_/]+>|.")  # a special token, such as <unk>, is one unit


@dataclass(frozen=True)
class Score:
    """Errors of one system on one test set.

    Utterances are sorted by id, so that systems scored against the same reference can be compared
    utterance by utterance.

    Attributes:
        utterances: Ids of the utterances.
        errors: Substitutions, deletions and insertions of each utterance.
        lengths: Units (characters or words) in each reference.
        substitutions: Total number.
        deletions: Total number.
        insertions: Total number.
    """

    utterances: tuple[str, ...]
    errors: tuple[int, ...]
    lengths: tuple[int, ...]
    substitutions: int
    deletions: int
    insertions: int

    @property
    def rate(self) -> float:
        """Errors per unit of the reference; 0.1 is 10 %."""
        return sum(self.errors) / sum(self.lengths)


def read_transcripts(path: Path) -> dict[str, str]:
    """Read a Kaldi ``text`` file: an id and a possibly empty transcript on each line.

    Raises:
        DataError: The file cannot be read, is empty, or names an utterance twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), [f"cannot be read: {error}"]) from None
    found: dict[str, str] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, _, transcript = line.strip().partition(" ")
        if key in found:
            problems.append(f"line {number}: utterance '{key}' is there twice")
        found[key] = " ".join(transcript.split())
    if not found:
        problems.append("holds no transcript")
    if problems:
        raise DataError(str(path), problems)
    return found


def score(
    reference: Mapping[str, str],
    hypothesis: Mapping[str, str],
    unit: str = "char",
    sclite: bool = False,
) -> Score:
    """Align and count.

    Args:
        reference: Utterance id -> transcript.
        hypothesis: The recognised transcripts of the same ids.
        unit: ``"char"``: characters, including spaces between words, as in ESPnet's CER;
            ``"word"``: words; or the name of a folding of phones, ``"timit39"``: phones of any of
            TIMIT's sets, scored as 39.
        sclite: Align as NIST's sclite and so ESPnet's result pages: a substitution costs 4, a
            deletion or an insertion 3. The errors are then not always the fewest possible.

    Raises:
        DataError: Ids differ, or all references are empty.
        ValueError: The unit is unknown.
    """
    try:
        from kaldialign import edit_distance
    except ModuleNotFoundError as error:
        raise MissingDependencyError("kaldialign", "search", "scoring") from error
    problems = []
    for what, keys in (
        ("recognised", reference.keys() - hypothesis.keys()),
        ("in the reference", hypothesis.keys() - reference.keys()),
    ):
        if keys:
            shown = ", ".join(sorted(keys)[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
            problems.append(f"{len(keys)} utterances are not {what}: {shown}")
    if not any(reference.values()):
        problems.append("all references are empty")
    if problems:
        raise DataError("transcripts", problems)
    utterances = tuple(sorted(reference))
    wanted = [units(reference[key], unit) for key in utterances]
    found = [units(hypothesis[key], unit) for key in utterances]
    pairs = zip(wanted, found, strict=True)
    counts = [edit_distance(*pair, sclite_mode=sclite) for pair in pairs]
    return Score(
        utterances,
        tuple(int(count["total"]) for count in counts),
        tuple(map(len, wanted)),
        *(sum(int(count[kind]) for count in counts) for kind in ("sub", "del", "ins")),
    )


def units(transcript: str, unit: str) -> Sequence[str]:
    """Return what is counted of a transcript; ValueError if the unit is unknown."""
    if unit == "char":
        return _CHARACTERS.findall(transcript)
    if unit == "word":
        return transcript.split()
    if unit in FOLDINGS:
        return fold(transcript.split(), FOLDINGS[unit])
    known = ", ".join(("char", "word", *FOLDINGS))
    raise ValueError(f"unit must be one of {known}, got {unit!r}")
