"""Where a stream is, as one integer, so that it travels in a tensor beside the stream's caches."""

from __future__ import annotations

from typing import NamedTuple

NEW = 0  # what zeroed memory holds
OVER = -1  # after the last chunk

_AGE_BITS = 40  # three centuries of frames of 10 ms
_SINCE_BITS = 21
_CLOSING = 1 << (_AGE_BITS + _SINCE_BITS)
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
    """

    age: int
    end: int | None = None
    closing: bool = False
    over: bool = False

    @classmethod
    def read(cls, number: int) -> Mark:
        """Return what :meth:`written` wrote."""
        if number == OVER:
            return cls(0, over=True)
        age = number & ((1 << _AGE_BITS) - 1)
        since = (number >> _AGE_BITS) & _LONGEST
        return cls(age, age - since + _BEFORE if since else None, bool(number & _CLOSING))

    def written(self) -> int:
        """Return the mark as one integer from 0 on; :data:`OVER` if the stream is over."""
        if self.over:
            return OVER
        since = 0 if self.end is None else min(self.age - self.end + _BEFORE, _LONGEST)
        return self.age | since << _AGE_BITS | (_CLOSING if self.closing else 0)
