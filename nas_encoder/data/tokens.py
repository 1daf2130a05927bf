"""What the network predicts: characters, words, phones, syllables or BPE pieces.

Id 0 is always the CTC blank. Token list files are ESPnet's, one token per line; ``<blank>`` is
prepended if missing.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically, write_lines
from nas_encoder.data.findings import Findings
from nas_encoder.errors import DataError, MissingDependencyError

logger = logging.getLogger(__name__)

BLANK = "<blank>"
UNK = "<unk>"
SPACE = "<space>"
SPLIT_KINDS = ("char", "word", "phone", "syllable")  # texts are split, nothing is learned
TOKEN_KINDS = (*SPLIT_KINDS, "bpe")
_SPECIAL = {BLANK, UNK, SPACE, "<sos/eos>", "<sos>", "<eos>"}
_HANZI = re.compile(r"[\u3400-\u9fff]")


class TokenSet:
    """An ordered set of tokens with their ids, and how texts are split into them.

    Args:
        tokens: All tokens, ``<blank>`` first.
        kind: One of ``char`` (the space is ``<space>``), ``word`` and ``phone`` (split at white
            space), ``syllable`` (as ``word``; hanzi become tone-numbered pinyin), ``bpe``.
        model: For ``bpe``, the serialized sentencepiece model.

    Raises:
        DataError: An empty set, a duplicate, an empty token, or no ``<blank>`` at 0.
    """

    def __init__(self, tokens: Sequence[str], kind: str, *, model: bytes | None = None) -> None:
        problems = []
        if kind not in TOKEN_KINDS:
            problems.append(f"unknown kind {kind!r}; known: {', '.join(TOKEN_KINDS)}")
        if not tokens or tokens[0] != BLANK:
            problems.append(f"token 0 must be '{BLANK}', got {list(tokens[:1])}")
        if len(tokens) < 2:
            problems.append("no token beside the blank")
        if (model is not None) != (kind == "bpe"):
            problems.append("a sentencepiece model belongs to kind 'bpe' and to no other")
        seen: set[str] = set()
        for position, token in enumerate(tokens):
            if not token or token.split() != [token]:
                problems.append(f"token {position} is empty or holds white space: {token!r}")
            if token in seen:
                problems.append(f"token {position} is a duplicate: {token!r}")
            seen.add(token)
        if problems:
            raise DataError("token set", problems)
        self.tokens: tuple[str, ...] = tuple(tokens)
        self.kind = kind
        self.unknown_count = 0
        self._ids = {token: position for position, token in enumerate(tokens)}
        self._unk = self._ids.get(UNK)
        self._model = model
        self._processor: Any = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenSet):
            return NotImplemented
        return (self.tokens, self.kind, self._model) == (other.tokens, other.kind, other._model)

    def __hash__(self) -> int:
        return hash((self.tokens, self.kind))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_processor": None}

    def __repr__(self) -> str:
        return f"TokenSet({len(self)} tokens, kind={self.kind!r})"

    @property
    def has_unk(self) -> bool:
        """Whether unknown tokens can be mapped to ``<unk>``."""
        return self._unk is not None

    # -- making -----------------------------------------------------------------------------

    @classmethod
    def build(
        cls, texts: Iterable[str], kind: str = "char", *, unk: bool = False, size: int | None = None
    ) -> TokenSet:
        """Collect the tokens of (training) texts, sorted.

        Args:
            texts: The transcripts.
            kind: One of :data:`TOKEN_KINDS`; for ``bpe``, sentencepiece learns the pieces (byte
                pair encoding of Sennrich et al. 2016, every character of the texts kept).
            unk: Whether to add ``<unk>`` as id 1; a BPE set always has it.
            size: Number of pieces, ``<unk>`` included; for ``bpe`` only.

        Raises:
            DataError: No tokens in the texts, an unknown kind, or a size that is missing,
                superfluous or impossible for these texts.
            MissingDependencyError: ``bpe`` without sentencepiece.
        """
        if kind not in TOKEN_KINDS:
            known = ", ".join(TOKEN_KINDS)
            raise DataError("token set", [f"kind {kind!r} cannot be built; use one of: {known}"])
        if (size is not None) != (kind == "bpe"):
            raise DataError("token set", [f"a size is for kind 'bpe', got {size} for {kind!r}"])
        if kind == "bpe":
            return cls._train_bpe(texts, size or 0)
        found = {token for text in texts for token in _split(text, kind)} - {BLANK, UNK}
        if not found:
            raise DataError("token set", ["the texts hold no token at all"])
        return cls([BLANK, *([UNK] if unk else []), *sorted(found)], kind)

    @classmethod
    def _train_bpe(cls, texts: Iterable[str], size: int) -> TokenSet:
        lines = sorted(" ".join(text.split()) for text in texts)
        if not any(lines):
            raise DataError("token set", ["the texts hold no token at all"])
        trainer, model = _import_sentencepiece("learning BPE pieces"), io.BytesIO()
        try:
            trainer.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                character_coverage=1.0,
                bos_id=-1,
                eos_id=-1,
                num_threads=1,
                minloglevel=2,
                # With their defaults, long lines would be left out and large texts sampled.
                max_sentence_length=1 << 20,
                input_sentence_size=0,
            )
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split("]")[-1].split())
            raise DataError(
                "token set", [f"no {size} BPE pieces can be learned: {reason}"]
            ) from None
        return cls._from_model(model.getvalue(), "token set")

    @classmethod
    def of(
        cls, spec: str, texts: Iterable[str], *, kind: str | None = None, size: int | None = None
    ) -> TokenSet:
        """:meth:`build` tokens if ``spec`` is a kind, else :meth:`load` the list at that path."""
        if spec in TOKEN_KINDS:
            return cls.build(texts, kind=spec, size=size)
        return cls.load(spec, kind=kind)

    @classmethod
    def load(cls, path: str | Path, kind: str | None = None) -> TokenSet:
        """Read a token list (one per line) or a sentencepiece ``.model``.

        Args:
            path: The file. A list of BPE pieces needs its model beside it, under the same name.
            kind: How texts are split; by default guessed: ``char`` if all tokens have one
                character or there is a ``<space>``; ``bpe`` if pieces have a word mark; else
                ``word``.

        Raises:
            DataError: The file is missing, empty or malformed; the line is named.
            MissingDependencyError: A BPE model without sentencepiece.
        """
        path = Path(path)
        try:
            if path.suffix == ".model":
                return cls._from_model(path.read_bytes(), str(path))
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"token list {path}", [f"cannot be read: {error}"]) from error
        while lines and not lines[-1].strip():
            lines.pop()
        findings = Findings(f"token list {path}")
        first_line: dict[str, int] = {}
        for number, line in enumerate(lines, 1):
            token = line.strip()
            if not token or token.split() != [token]:
                findings.add(
                    "one token without white space is expected", f"line {number}: {line!r}"
                )
            elif token in first_line:
                findings.add("a token may occur once", f"line {number}: {token!r}")
            else:
                first_line[token] = number
        if first_line.get(BLANK, 1) != 1:
            findings.add(f"'{BLANK}' must be the first token", f"line {first_line[BLANK]}")
        if not first_line:
            findings.add("the list is empty", "file")
        findings.raise_any()
        tokens = [token for token in first_line if token != BLANK]
        if kind is None:
            kind = _guess_kind(tokens)
        if kind == "bpe":
            model_path = path.with_suffix(".model")
            if not model_path.is_file():
                raise DataError(
                    f"token list {path}",
                    [f"holds BPE pieces, but their sentencepiece model {model_path} is missing"],
                )
            return cls([BLANK, *tokens], kind, model=model_path.read_bytes())
        return cls([BLANK, *tokens], kind)

    @classmethod
    def _from_model(cls, model: bytes, subject: str) -> TokenSet:
        processor = _sentencepiece(model, subject)
        pieces = [
            processor.id_to_piece(position)
            for position in range(processor.get_piece_size())
            if not processor.is_control(position) and not processor.is_unknown(position)
        ]
        return cls([BLANK, UNK, *pieces], "bpe", model=model)

    def save(self, path: str | Path) -> None:
        """Write the token list and, for BPE, the ``.model`` beside it."""
        path = Path(path)
        if self._model is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path.with_suffix(".model"), self._model, DataError)
            if path.suffix == ".model":
                return
        write_lines(path, self.tokens)

    # -- using ------------------------------------------------------------------------------

    def split(self, text: str) -> list[str]:
        """Split a text into tokens, known or not."""
        if self.kind == "bpe":
            if self._processor is None:
                self._processor = _sentencepiece(self._model or b"", "token set")
            return list(self._processor.encode(text, out_type=str))
        return _split(text, self.kind)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's tokens, without blanks.

        Raises:
            DataError: A token is unknown and the set has no ``<unk>``. (If it has,
                :attr:`unknown_count` counts them.)
        """
        pieces = self.split(text)
        ids = [self._ids.get(piece, self._unk) for piece in pieces]
        unknown = [piece for piece in pieces if piece not in self._ids]
        if unknown and self._unk is None:
            raise DataError(
                f"text {text!r}",
                [f"token {piece!r} is not in the token set" for piece in dict.fromkeys(unknown)],
            )
        self.unknown_count += len(unknown)
        return [i for i in ids if i is not None]

    def decode(self, ids: Iterable[int], *, ctc: bool = False) -> str:
        """Return the text of token ids without blanks.

        Args:
            ids: Token ids.
            ctc: Whether ids are the best token of each output frame; if so, repeats are merged.

        Raises:
            DataError: An id is outside the set.
        """
        numbers = [int(i) for i in ids]
        wrong = sorted({i for i in numbers if not 0 <= i < len(self.tokens)})
        if wrong:
            raise DataError("token ids", [f"{wrong} are not in 0..{len(self.tokens) - 1}"])
        if ctc:
            numbers = [i for i, _ in groupby(numbers)]
        pieces = [self.tokens[i] for i in numbers if i != 0]
        if self.kind == "char":
            return "".join(" " if piece == SPACE else piece for piece in pieces)
        if self.kind == "bpe":
            return "".join(pieces).replace("\u2581", " ").strip()
        return " ".join(pieces)

    def unknown(self, texts: Iterable[tuple[str, str]]) -> dict[str, tuple[int, str]]:
        """Return unknown token -> (occurrences, first utterance) of (utterance id, text) pairs."""
        found: dict[str, tuple[int, str]] = {}
        for utterance, text in texts:
            for piece in self.split(text):
                if piece not in self._ids:
                    count, example = found.get(piece, (0, utterance))
                    found[piece] = (count + 1, example)
        return found

    def require_known(self, texts: Iterable[tuple[str, str]], subject: str) -> int:
        """Check that every text can be encoded.

        Args:
            texts: Pairs (utterance id, text).
            subject: What the texts are, for messages ("validation data").

        Returns:
            Number of tokens that will be mapped to ``<unk>`` (with a warning); 0 without ``<unk>``.

        Raises:
            DataError: There are unknown tokens and the set has no ``<unk>``.
        """
        problems = self.unknown_problems(texts)
        if not problems:
            return 0
        count, lines = problems
        if not self.has_unk:
            raise DataError(subject, lines)
        logger.warning("%s: %d tokens are mapped to %s: %s", subject, count, UNK, "; ".join(lines))
        return count

    def unknown_problems(self, texts: Iterable[tuple[str, str]]) -> tuple[int, list[str]] | None:
        """Return (occurrences, lines naming the unknown tokens), or None if all are known."""
        found = self.unknown(texts)
        if not found:
            return None
        total = sum(count for count, _ in found.values())
        ranked = sorted(found.items(), key=lambda item: (-item[1][0], item[0]))
        lines = [
            f"token {token!r} is not in the token set of {len(self)} "
            f"({count} times, for example in utterance '{example}')"
            for token, (count, example) in ranked[:20]
        ]
        if len(ranked) > 20:
            lines.append(f"and {len(ranked) - 20} more unknown tokens")
        return total, lines


def _split(text: str, kind: str) -> list[str]:
    if kind == "char":
        return [SPACE if c == " " else c for c in " ".join(text.split())]
    if kind == "syllable" and _HANZI.search(text):
        return _pinyin(text)
    return text.split()


def _pinyin(text: str) -> list[str]:
    """Convert hanzi to tone-numbered pinyin; keep the rest, split at white space."""
    try:
        from pypinyin import Style, lazy_pinyin
    except ModuleNotFoundError as error:
        raise MissingDependencyError("pypinyin", "search", "turning hanzi to syllables") from error
    converted = lazy_pinyin(text, style=Style.TONE3, neutral_tone_with_five=True)
    return [syllable for part in converted for syllable in part.split()]


def _guess_kind(tokens: Sequence[str]) -> str:
    plain = [token for token in tokens if token not in _SPECIAL]
    if SPACE in tokens or all(len(token) == 1 for token in plain):
        return "char"
    if any("\u2581" in token for token in plain):
        return "bpe"
    return "word"


def _import_sentencepiece(purpose: str) -> Any:
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise MissingDependencyError("sentencepiece", "bpe", purpose) from error
    return sentencepiece


def _sentencepiece(model: bytes, subject: str) -> Any:
    processor = _import_sentencepiece("reading a BPE model").SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, OSError) as error:
        raise DataError(f"sentencepiece model {subject}", [f"cannot be read: {error}"]) from error
    return processor
