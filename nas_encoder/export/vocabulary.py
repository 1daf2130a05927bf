"""The classes of an exported model: ``tokens.txt``, and from classes to text.

A line is ``symbol class``. The blank is ``<blk>``, the last class. ``▁`` (U+2581) stands for a
space, in symbols of any kind: of SentencePiece pieces where it is in them, of characters for the
space itself, of words and phones in front of each. ``</s>``, the end of a sentence, is not written
out. This is what sherpa-onnx reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from nas_encoder.common.problems import show
from nas_encoder.errors import CheckpointError
from nas_encoder.interchange.model import ENDS, SPACE, Head

BLANK, BOUNDARY, END = "<blk>", "\u2581", "</s>"
_MAX_BYTES = 1 << 24
_AS_BLANK = ("<blk>", "<eps>")  # what sherpa-onnx takes for the blank before it looks further


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of the V classes, the blank last."""

    symbols: tuple[str, ...]

    @classmethod
    def of_head(cls, head: Head) -> tuple[Vocabulary, list[int]]:
        """Return the classes of a CTC layer, and which of its rows each is.

        Classes that a conversion added and that never win are left out.

        Raises:
            CheckpointError: A token cannot be written.
        """
        order = [i for i in range(1, len(head.tokens)) if not head.silent(i)]
        symbols = [_symbol(head.tokens[i], head.token_type) for i in order]
        problems = [
            f"token {show(head.tokens[i])}: {rule}"
            for i, symbol in zip(order, symbols, strict=True)
            if (rule := _broken_rule(symbol))
        ]
        if problems:
            raise CheckpointError("tokens", problems)
        return cls((*symbols, BLANK)), [*order, 0]

    @property
    def blank(self) -> int:
        """The class of the blank."""
        return len(self.symbols) - 1

    def to_bytes(self) -> bytes:
        """Return the content of ``tokens.txt``."""
        return "".join(f"{symbol} {i}\n" for i, symbol in enumerate(self.symbols)).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the symbols, which the model's metadata hold too."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def text(self, path: Iterable[int]) -> str:
        """Return the text of a CTC path, the best class of each frame."""
        return self.text_of(one for one, _ in groupby(path) if one != self.blank)

    def text_of(self, classes: Iterable[int]) -> str:
        """Return the text of classes without blanks."""
        text = "".join(self.symbols[one] for one in classes if self.symbols[one] != END)
        return text.replace(BOUNDARY, " ").strip()


def read_vocabulary(path: Path) -> Vocabulary:
    """Read ``tokens.txt``.

    Raises:
        CheckpointError: It cannot be read, or is not such a file; all problems are listed.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(str(path), [f"is larger than {_MAX_BYTES} bytes"])
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise CheckpointError(str(path), [f"is not UTF-8 text: {error}"]) from None
    problems, symbols = [], []
    # Not splitlines(), which also ends lines at characters that a token may hold.
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        symbol, _, index = line.removesuffix("\r").rpartition(" ")
        if index != str(number) or not symbol:
            problems.append(f"line {number + 1}: must be 'SYMBOL {number}', got {show(line)}")
        symbols.append(symbol)
    if not problems and symbols.count(BLANK) != 1:
        problems.append(f"must name the blank, {BLANK}, once")
    elif not problems and symbols[-1] != BLANK:
        problems.append(f"the last class must be the blank, {BLANK}, got {show(symbols[-1])}")
    if problems:
        raise CheckpointError(str(path), problems)
    return Vocabulary(tuple(symbols))


def _symbol(token: str, token_type: str) -> str:
    if token in (SPACE, ENDS):
        return BOUNDARY if token == SPACE else END
    return BOUNDARY + token if token_type in ("word", "phn") else token


def _broken_rule(symbol: str) -> str:
    if symbol in _AS_BLANK:
        return "runtimes take it for the blank"
    if not symbol or any(sign.isspace() for sign in symbol):
        return "is empty or holds white space, which tokens.txt cannot hold"
    return ""
