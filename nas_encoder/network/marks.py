"""Where a stream is, as one integer, so that it travels in a tensor beside the stream's caches."""

from __future__ import annotations

from typing import NamedTuple

NEW = 0  # what zeroed memory holds
OVER = -1  # after the last chunk

_AGE_BITS = 36  # two decades of frames of 10 ms
_CHOICE_BITS = 4
_SINCE_BITS = 21
_SINCE = _AGE_BITS + _CHOICE_BITS
_CLOSING = 1 << (_SINCE + _SINCE_BITS)
_BEFORE = 1 << 10  # an end may lie so many frames ahead, where a short utterance is extended
_LONGEST = (1 << _SINCE_BITS) - 1


class Mark(NamedTuple):
    """The place of a stream.

    Attributes:
        age: Frames so far.
        end: Frames of the utterance, None while it goes on. That of an utterance which ended more
            than 5 hours ago is only known to be before the last frames.
        closing: Whether no new frames may follow.
        over: Whether the last chunk has come.
        choice: Which lookahead the encoder had, below 16.
    """

    age: int
    end: int | None = None
    closing: bool = False
    over: bool = False
    choice: int = 0

    @classmethod
    def read(cls, number: int) -> Mark:
        """Return what :meth:`written` wrote."""
        if number == OVER:
            return cls(0, over=True)
        age = number & ((1 << _AGE_BITS) - 1)
        since = (number >> _SINCE) & _LONGEST
        choice = (number >> _AGE_BITS) & ((1 << _CHOICE_BITS) - 1)
        end = age - since + _BEFORE if since else None
        return cls(age, end, bool(number & _CLOSING), choice=choice)

    def refusal(self, choice: int) -> str:
        """Return why the stream cannot go on with a lookahead; empty if it can."""
        again = "begin another with new caches"
        if self.over:
            last = "in NeMo keep_all_outputs=True says that a chunk is the last"
            return f"has ended; {again} ({last})"
        if self.age and self.choice != choice:
            return f"began with another lookahead than the encoder has now; {again}"
        return ""

    def written(self) -> int:
        """Return the mark as one integer from 0 on; :data:`OVER` if the stream is over."""
        if self.over:
            return OVER
        since = 0 if self.end is None else min(self.age - self.end + _BEFORE, _LONGEST)
        place = self.age | self.choice << _AGE_BITS | since << _SINCE
        return place | (_CLOSING if self.closing else 0)
