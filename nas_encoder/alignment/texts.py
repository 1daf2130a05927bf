"""Texts as tokens of a model; nothing is dropped, what the model cannot say is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nas_encoder.alignment.model import CtcModel
from nas_encoder.common.problems import show
from nas_encoder.data.findings import Findings
from nas_encoder.errors import DataError

CASES = ("as-is", "lower", "upper")


@dataclass(frozen=True)
class Line:
    """An utterance to align.

    Attributes:
        id: Its name.
        text: As it was given.
        labels: Its tokens.
        classes: Their numbers in the model.
        speaker: Who says it, if known.
    """

    id: str
    text: str
    labels: tuple[str, ...]
    classes: tuple[int, ...]
    speaker: str | None = None


def read_lines(
    model: CtcModel,
    rows: Iterable[tuple[str, str, str, str | None]],
    subject: str,
    case: str = "as-is",
) -> tuple[list[Line], int]:
    """Turn texts into tokens.

    Args:
        model: The model.
        rows: (where it stands, id, text, speaker or None).
        subject: What they are, for errors.
        case: What is done to letters: one of :data:`CASES`.

    Returns:
        The lines, and in how many the model's own cleaner changed more than white space.

    Raises:
        DataError: A text is empty or holds tokens that the model does not have, or an id occurs
            twice; all are listed.
    """
    if case not in CASES:
        raise DataError(subject, [f"case: must be one of {', '.join(CASES)}, got {show(case)}"])
    findings, lines, changed = Findings(subject), dict[str, Line](), 0
    for where, key, text, speaker in rows:
        given = text if case == "as-is" else text.lower() if case == "lower" else text.upper()
        clean = model.normalized(given)
        changed += clean.split() != given.split()
        pieces = model.split(" ".join(clean.split()))
        unknown = sorted({piece for piece, number in pieces if number is None})
        blank = model.blank in {number for _, number in pieces}
        if key in lines:
            findings.add("an id may occur once", f"{where} {show(key)}")
        elif not pieces:
            findings.add("the text is empty", where)
        elif unknown or blank:
            names = ", ".join(map(show, unknown or ["<blank>"]))
            findings.add(
                "the model has no such token: write it as the model's training texts do, "
                "or try --case",
                f"{where} {names}",
            )
        else:
            labels, classes = zip(*pieces, strict=True)
            lines[key] = Line(key, text, tuple(labels), tuple(classes), speaker)
    findings.raise_any()
    if not lines:
        raise DataError(subject, ["holds no text"])
    return list(lines.values()), changed
