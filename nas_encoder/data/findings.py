"""Collects a manifest's problems, grouped by rule so that a report stays readable."""

from __future__ import annotations

from nas_encoder.errors import DataError

SHOWN = 3


class Findings:
    """Places where a rule is broken; thousands of the same kind become one line.

    Args:
        subject: What is being read; begins the error message.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._places: dict[str, list[str]] = {}

    def add(self, rule: str, where: str) -> None:
        """Record that ``rule`` is broken at ``where`` (``file:line``, an utterance)."""
        self._places.setdefault(rule, []).append(where)

    def __bool__(self) -> bool:
        return bool(self._places)

    def problems(self) -> list[str]:
        """Return a line for each broken rule, with the first places and the count."""
        lines = []
        for rule, places in self._places.items():
            text = f"{places[0]}: {rule}"
            if len(places) > 1:
                more = "; ".join(places[1:SHOWN])
                left = len(places) - SHOWN
                text += f" ({len(places)} such; also {more}"
                text += f" and {left} more)" if left > 0 else ")"
            lines.append(text)
        return lines

    def raise_any(self) -> None:
        """Raise all findings, if any, as one :class:`DataError`."""
        if self._places:
            raise DataError(self.subject, self.problems())
