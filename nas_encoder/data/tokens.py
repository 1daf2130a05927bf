"""What the network predicts: characters, words, phones, syllables or BPE pieces.

Id 0 is always the CTC blank. Token list files are ESPnet's, one token per line; ``<blank>`` is
prepended if missing.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically, write_lines
from nas_encoder.common.problems import one_line, show
from nas_encoder.data.findings import Findings
from nas_encoder.data.splitting import (
    BLANK,
    SPACE,
    TOKEN_KINDS,
    UNK,
    fault_of,
    guess_kind,
    import_sentencepiece,
    is_unicode,
    load_model,
    splitter,
)
from nas_encoder.data.unknown import Missing
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)


class TokenSet:
    """An ordered set of tokens with their ids, and how texts are split into them.

    Args:
        tokens: All tokens, ``<blank>`` first.
        kind: One of ``char`` (the space is ``<space>``; longer tokens such as ``<noise>`` are
            found in texts as they stand), ``word`` (split at white space), ``phone`` (split at
            every space), ``syllable`` (as ``word``; hanzi become tone-numbered pinyin),
            ``initial_final`` (the same in two parts; both: :mod:`nas_encoder.data.mandarin`),
            ``bpe``.
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
            if fault := fault_of(token, kind):
                problems.append(f"token {position}: {fault}, got {show(token)}")
            if token in seen:
                problems.append(f"token {position} is a duplicate: {show(token)}")
            seen.add(token)
        if problems:
            raise DataError("token set", problems)
        self.tokens: tuple[str, ...] = tuple(tokens)
        self.kind = kind
        self.unknown_count = 0
        self._ids = {token: position for position, token in enumerate(tokens)}
        self._unk = self._ids.get(UNK)
        self._model = model
        self._split: Callable[[str], list[str]] | None = None
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
        return {**self.__dict__, "_split": None, "_processor": None}

    def __repr__(self) -> str:
        return f"TokenSet({len(self)} tokens, kind={self.kind!r})"

    @property
    def has_unk(self) -> bool:
        """Whether unknown tokens can be mapped to ``<unk>``."""
        return self._unk is not None

    # -- making -----------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        kind: str = "char",
        *,
        unk: bool = False,
        size: int | None = None,
        model_type: str = "bpe",
    ) -> TokenSet:
        """Collect the tokens of (training) texts, sorted.

        Args:
            texts: The transcripts.
            kind: One of :data:`TOKEN_KINDS`; for ``bpe``, sentencepiece learns the pieces (byte
                pair encoding of Sennrich et al. 2016, every character of the texts kept).
            unk: Whether to add ``<unk>`` as id 1; a BPE set, and one of texts that hold it,
                always has it.
            size: Number of pieces, ``<unk>`` included; for ``bpe`` only.
            model_type: ``bpe``, or sentencepiece's ``unigram``, which ESPnet's recipes choose.

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
            return cls._train_bpe(texts, size or 0, model_type)
        split = splitter(kind, ())
        found = {token for text in texts for token in split(text)}
        unk = unk or UNK in found
        # White space in texts that no list of ESPnet's holds: <unk> for its networks too.
        kept = {t for t in found - {BLANK, UNK} if not t.isspace() and not fault_of(t, kind)}
        if not kept - {SPACE}:
            raise DataError("token set", ["the texts hold no token at all"])
        return cls([BLANK, *([UNK] if unk else []), *sorted(kept)], kind)

    @classmethod
    def _train_bpe(cls, texts: Iterable[str], size: int, model_type: str) -> TokenSet:
        lines = sorted(" ".join(text.split()) for text in texts)
        if not any(lines):
            raise DataError("token set", ["the texts hold no token at all"])
        if wrong := [line for line in lines if not is_unicode(line)]:
            rule = f"{len(wrong)} texts are no valid Unicode: {show(wrong[0])}"
            raise DataError("token set", [rule])
        trainer, model = import_sentencepiece("learning BPE pieces"), io.BytesIO()
        try:
            trainer.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type=model_type,
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
            reason = one_line(str(error).rpartition("]")[2])
            raise DataError(
                "token set",
                [f"no {size} {model_type.replace('bpe', 'BPE')} pieces can be learned: {reason}"],
            ) from None
        return cls._from_model(model.getvalue(), "token set")

    @classmethod
    def of(
        cls, spec: str, texts: Iterable[str], *, kind: str | None = None, size: int | None = None
    ) -> TokenSet:
        """:meth:`build` tokens if ``spec`` is a kind, else :meth:`load` the list at that path."""
        if spec in TOKEN_KINDS:
            return cls.build(texts, kind=spec, size=size)
        if not Path(spec).expanduser().exists():
            rule = f"neither a kind ({', '.join(TOKEN_KINDS)}) nor a file or folder"
            raise DataError(f"tokens {spec!r}", [rule])
        return cls.load(spec, kind=kind)

    @classmethod
    def load(cls, path: str | Path, kind: str | None = None) -> TokenSet:
        """Read a token list (one per line) or a sentencepiece ``.model``.

        Args:
            path: The file, or a folder with ``tokens.txt``. A list of BPE pieces needs its model
                beside it, under the same name or as ``bpe.model``.
            kind: How texts are split; by default that of the list's folder in an ESPnet recipe,
                else guessed: ``bpe`` if pieces have a word mark; ``char`` if all tokens but tags
                have one character or there is a ``<space>``; ``syllable`` or
                ``initial_final`` if all are such; else ``word``.

        Raises:
            DataError: The file is missing, empty or malformed; the line is named.
            MissingDependencyError: A BPE model without sentencepiece.
        """
        path = Path(path).expanduser()
        if path.is_dir() and (path / "tokens.txt").is_file():
            path /= "tokens.txt"
        findings = Findings(f"token list {path}")
        try:
            if path.suffix == ".model":
                return cls._from_model(path.read_bytes(), str(path))
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(findings.subject, [f"cannot be read: {error}"]) from error
        while lines and not lines[-1]:
            lines.pop()
        tokens = [line[:1] + line[1:].rstrip() for line in lines]  # as ESPnet reads them
        kind = kind or guess_kind([token for token in tokens if token], path.resolve().parent.name)
        first_line: dict[str, int] = {}
        for number, token in enumerate(tokens, 1):
            if token.startswith("\ufeff"):
                findings.add(
                    "a byte order mark, which ESPnet reads as a part of the token; remove it, for "
                    "example with sed -i 's/^\\xEF\\xBB\\xBF//'",
                    f"line {number}: {show(token)}",
                )
            elif fault := fault_of(token, kind):
                findings.add(fault, f"line {number}: {show(token)}")
            elif token in first_line:
                findings.add("a token may occur once", f"line {number}: {show(token)}")
            else:
                first_line[token] = number
        if first_line.get(BLANK, 1) != 1:
            findings.add(f"'{BLANK}' must be the first token", f"line {first_line[BLANK]}")
        if not tokens:
            findings.add("the list is empty", "file")
        models = dict.fromkeys((path.with_suffix(".model"), path.with_name("bpe.model")))
        model = next((found for found in models if found.is_file()), None)
        if kind == "bpe" and model is None:
            rule = "holds BPE pieces, but their sentencepiece model is missing"
            findings.add(rule, " and ".join(map(str, models)))
        findings.raise_any()
        if BLANK not in tokens:
            logger.warning("%s: '%s' is put in front, all ids are one more", path, BLANK)
        return cls(
            [BLANK, *(token for token in tokens if token != BLANK)],
            kind,
            model=model.read_bytes() if kind == "bpe" and model else None,
        )

    @classmethod
    def _from_model(cls, model: bytes, subject: str) -> TokenSet:
        processor = load_model(model, subject)
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
        """Split a text into tokens, known or not.

        Raises:
            DataError: For ``bpe``, the text is no valid Unicode; for syllables, a character of a
                text in hanzi has no reading.
        """
        if self.kind != "bpe":
            self._split = self._split or splitter(self.kind, self.tokens)
            return self._split(text)
        if not is_unicode(text):
            raise DataError(f"text {show(text)}", ["is no valid Unicode"])
        return list(self.processor.encode(text, out_type=str))

    @property
    def model(self) -> bytes | None:
        """The serialized sentencepiece model of a BPE set."""
        return self._model

    @property
    def processor(self) -> Any:
        """The sentencepiece processor of a BPE set."""
        if self._processor is None:
            self._processor = load_model(self._model or b"", "token set")
        return self._processor

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's tokens, without blanks.

        Raises:
            DataError: A token is unknown and the set has no ``<unk>``. (If it has,
                :attr:`unknown_count` counts them.) The text holds ``<blank>``, which is CTC's own.
        """
        pieces = self.split(text)
        unknown = [piece for piece in pieces if piece not in self._ids]
        problems = [f"holds '{BLANK}', which belongs to CTC alone"] if BLANK in pieces else []
        if unknown and self._unk is None:
            problems += [
                f"token {show(piece)} is not in the token set" for piece in dict.fromkeys(unknown)
            ]
        if problems:
            raise DataError(f"text {show(text)}", problems[:10])
        self.unknown_count += len(unknown)
        return [self._ids.get(piece, self._unk or 0) for piece in pieces]

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
        if self.kind == "bpe":  # bytes become characters again
            return str(self.processor.decode_pieces(pieces))
        return " ".join(pieces)

    def with_unk(self, position: int | None = None) -> TokenSet:
        """Return the set with ``<unk>``, at its end or at a position."""
        if self.has_unk:
            return self
        tokens = list(self.tokens)
        tokens.insert(len(tokens) if position is None else position, UNK)
        return TokenSet(tokens, self.kind, model=self._model)

    def unknown(self, texts: Iterable[tuple[str, str]]) -> dict[str, tuple[int, str]]:
        """Return unknown token -> (occurrences, first utterance) of (utterance id, text) pairs."""
        return self.missing(texts).found

    def missing(self, texts: Iterable[tuple[str, str]]) -> Missing:
        """Return what the set lacks to encode (utterance id, text) pairs."""
        found: dict[str, tuple[int, str]] = {}
        total, blanks, known = 0, [], self._ids.keys() - {BLANK}
        for utterance, text in texts:
            pieces = self.split(text)
            total += len(pieces)
            for piece in sorted(set(pieces) - known):
                if piece == BLANK:
                    blanks.append(utterance)
                else:
                    count, example = found.get(piece, (0, utterance))
                    found[piece] = (count + pieces.count(piece), example)
        return Missing(total, found, blanks)

    def require_known(self, texts: Iterable[tuple[str, str]], subject: str) -> int:
        """Check that every text can be encoded.

        Args:
            texts: Pairs (utterance id, text).
            subject: What the texts are, for messages ("validation data").

        Returns:
            Number of tokens that are read as ``<unk>``; 0 without ``<unk>``.

        Raises:
            DataError: There are unknown tokens and the set has no ``<unk>``.
        """
        missing = self.missing(texts)
        if problems := missing.problems(forbidden=not self.has_unk):
            raise DataError(subject, problems)
        return missing.count
