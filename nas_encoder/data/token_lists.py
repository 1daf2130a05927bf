"""Writes the token list of a corpus, as ESPnet's recipes or NeMo's scripts lay one out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas_encoder.common.documents import write_atomically, write_lines
from nas_encoder.data.mandarin import UNITS, inventory
from nas_encoder.data.manifests import PREPARED, open_cuts, transcripts
from nas_encoder.data.splitting import BLANK, SPACE, TOKEN_KINDS, UNK, WORD_MARK
from nas_encoder.data.tokens import TokenSet
from nas_encoder.errors import ConfigError, DataError

SOS_EOS = "<sos/eos>"
MODEL_TYPES = ("unigram", "bpe")
LAYOUTS = ("espnet", "nemo")


@dataclass(frozen=True)
class ListOptions:
    """What kind of list is made.

    Attributes:
        kind: One of :data:`TOKEN_KINDS`.
        size: Pieces, for ``bpe``.
        model_type: For ``bpe``, one of :data:`MODEL_TYPES`.
        fixed: For syllables and their parts, all that Mandarin has, not those of the texts: lists
            of several corpora are then the same.
        sos_eos: Whether ``<sos/eos>`` is the last token, as ESPnet's decoders need it.
        layout: One of :data:`LAYOUTS`.
    """

    kind: str = "char"
    size: int | None = None
    model_type: str = "unigram"
    fixed: bool = False
    sos_eos: bool = True
    layout: str = "espnet"

    def problems(self) -> list[str]:
        """Return every value that breaks a rule."""
        problems = []
        if self.kind not in TOKEN_KINDS:
            problems.append(f"kind: must be one of {', '.join(TOKEN_KINDS)}, got {self.kind!r}")
        if self.size is None and self.kind == "bpe":
            problems.append("size: kind bpe needs the number of pieces, for example 500")
        elif self.size is not None and self.kind != "bpe":
            problems.append(f"size: is for kind bpe, not {self.kind}")
        elif self.size is not None and self.size < 1:
            problems.append(f"size: must be at least 1, got {self.size}")
        if self.model_type not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            problems.append(f"model_type: must be one of {known}, got {self.model_type!r}")
        if self.fixed and self.kind not in UNITS:
            problems.append(f"fixed: is for {', '.join(UNITS)}, not {self.kind}")
        if self.layout not in LAYOUTS:
            known = ", ".join(LAYOUTS)
            problems.append(f"layout: must be one of {known}, got {self.layout!r}")
        elif self.layout == "nemo" and self.kind not in ("char", "bpe"):
            problems.append(f"layout: nemo has tokens of kind char and bpe, not {self.kind}")
        return problems


def write_token_list(source: str | Path, folder: str | Path, options: ListOptions) -> TokenSet:
    """Make the token list of training texts, and write it.

    For ESPnet, ``tokens.txt`` (``<blank>``, ``<unk>``, the tokens, ``<sos/eos>``), ``bpe.model``.
    For NeMo, whose models add the blank themselves, what process_asr_text_tokenizer.py writes, for
    ``model.tokenizer.dir``: ``tokenizer.model``, ``tokenizer.vocab`` and ``vocab.txt``, with the
    case of the texts; of characters, ``vocab.txt`` alone, the ``labels`` of a configuration.

    Args:
        source: Training data of any form that :func:`open_cuts` takes; of a prepared folder, the
            split ``train``.
        folder: Receives the files.
        options: See :class:`ListOptions`.

    Raises:
        ConfigError: Options are out of range.
        DataError: The data are unusable; no such list can be made of them; a text has tokens that
            a fixed list lacks; the folder cannot be written.
        MissingDependencyError: pypinyin or sentencepiece is needed.
    """
    if problems := options.problems():
        raise ConfigError("token list", problems)
    prepared = (Path(source).expanduser() / PREPARED).is_file()
    pairs = transcripts(open_cuts(source, split="train" if prepared else None))
    if options.fixed:
        tokens = TokenSet([BLANK, UNK, *inventory(options.kind)], options.kind)
        if problems := tokens.missing(pairs).problems(forbidden=True):
            raise DataError(f"token list of {source}", problems)
    else:
        texts = (text for _, text in pairs)
        size, model_type = options.size, options.model_type
        tokens = TokenSet.build(texts, options.kind, unk=True, size=size, model_type=model_type)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(str(folder), [f"cannot be made: {error.strerror}"]) from None
    if options.layout == "nemo":
        _write_nemo(tokens, Path(folder))
        return tokens
    listed = list(tokens.tokens)
    if options.sos_eos and SOS_EOS not in listed:
        listed.append(SOS_EOS)
    model = tokens.model
    tokens = TokenSet(listed, options.kind, model=model)
    tokens.save(Path(folder) / "tokens.txt")
    if model is not None:  # the name that ESPnet's recipes give it
        (Path(folder) / "tokens.model").replace(Path(folder) / "bpe.model")
    return tokens


def _write_nemo(tokens: TokenSet, folder: Path) -> None:
    if tokens.model is None:
        kept = [token for token in tokens.tokens if token not in (BLANK, UNK)]
        write_lines(folder / "vocab.txt", (" " if one == SPACE else one for one in kept))
        return
    processor = tokens.processor
    scored = [
        (processor.id_to_piece(place), processor.get_score(place))
        for place in range(processor.get_piece_size())
    ]
    write_lines(folder / "tokenizer.vocab", (f"{piece}\t{score:g}" for piece, score in scored))
    # As BERT writes pieces: those inside words are marked, not those that begin one.
    pieces = [piece for piece, _ in scored if piece != UNK]
    inner = [piece if piece[0] == WORD_MARK else f"##{piece}" for piece in pieces]
    write_lines(folder / "vocab.txt", (one.removeprefix(WORD_MARK) or WORD_MARK for one in inner))
    write_atomically(folder / "tokenizer.model", tokens.model, DataError)
