"""From log-probabilities to text as they arrive: the best path, in memory that does not grow.

Letters in shapes: n output frames, V classes with the blank last.
"""

from __future__ import annotations

from torch import Tensor

from nas_encoder.export.vocabulary import BOUNDARY, END, Vocabulary


class LiveDecoder:
    """Greedy CTC decoding; all pieces together are :meth:`.Vocabulary.text` of the whole path.

    Args:
        vocabulary: The V classes.

    Attributes:
        frames: Output frames so far.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.frames = vocabulary, 0
        self._previous, self._begun, self._spaces = vocabulary.blank, False, ""

    def feed(self, values: Tensor) -> list[tuple[int, str]]:
        """Return the pieces of text in frames (n, V) and the frame, from 0, of each."""
        found = []
        for best in values.argmax(1).tolist():
            if best not in (self._previous, self.vocabulary.blank):
                piece = self._piece(self.vocabulary.symbols[best])
                if piece:
                    found.append((self.frames, piece))
            self._previous = best
            self.frames += 1
        return found

    def _piece(self, symbol: str) -> str:
        """Return the text of a symbol; spaces wait for what is after them."""
        text = "" if symbol == END else symbol.replace(BOUNDARY, " ")
        text = self._spaces + text if self._begun else text.lstrip()
        kept = text.rstrip()
        self._spaces = text[len(kept) :]
        self._begun = self._begun or bool(kept)
        return kept
