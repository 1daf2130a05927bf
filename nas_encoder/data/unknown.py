"""Tokens of texts that a token set lacks: counted, told in a line, or refused."""

from __future__ import annotations

from nas_encoder.common.problems import show
from nas_encoder.data.splitting import BLANK

SHARE_OF_UNKNOWN = 0.5  # above it, the tokens are those of other texts
SHOWN = 10


class Missing:
    """Tokens of texts that a set lacks.

    Args:
        total: Number of all tokens of the texts.
        found: Missing token -> (occurrences, first utterance).
        blanks: Utterances whose text holds ``<blank>``.
    """

    def __init__(self, total: int, found: dict[str, tuple[int, str]], blanks: list[str]) -> None:
        self.total, self.found, self.blanks = total, found, blanks

    @property
    def count(self) -> int:
        """Number of occurrences."""
        return sum(count for count, _ in self.found.values())

    def __str__(self) -> str:
        ranked = sorted(self.found.items(), key=lambda item: (-item[1][0], item[0]))
        shown = [f"{show(t)} ({n}, first in {show(u)})" for t, (n, u) in ranked[:SHOWN]]
        if len(ranked) > SHOWN:
            shown.append(f"and {len(ranked) - SHOWN} more")
        return (
            f"{self.count} of {self.total} tokens ({self.count / max(1, self.total):.2%}), "
            f"{len(ranked)} different: {', '.join(shown)}"
        )

    def problems(self, forbidden: bool) -> list[str]:
        """Return what cannot be helped by ``<unk>``; with ``forbidden``, all that is missing."""
        lines = []
        if self.blanks:
            lines.append(
                f"{len(self.blanks)} texts hold '{BLANK}', which belongs to CTC alone: utterance "
                f"{show(self.blanks[0])}"
            )
        if forbidden and self.found:
            lines.append(f"not in the token set: {self}")
        elif self.count > SHARE_OF_UNKNOWN * self.total:
            lines.append(f"most is not in the token set, which is of other texts: {self}")
        return lines
