"""The classes of a CTC layer in each toolkit's order and notation.

ESPnet: ``<blank>`` first, ``<unk>`` and ``<sos/eos>`` always present, a space is ``<space>``. NeMo:
the blank last and unnamed, a space is a space; with a tokenizer the classes are all pieces of the
SentencePiece model in its order, including ``<s>`` and ``</s>`` if it has them. A class that one
side needs and the other lacks gets zero weights and a bias that never wins
(:data:`~nas_encoder.interchange.model.SILENT`); converting back recognises and drops it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError, MissingDependencyError
from nas_encoder.interchange.model import BLANK, ENDS, SILENT, SPACE, UNKNOWN, Head

START, END = "<s>", "</s>"


def to_nemo(head: Head) -> tuple[list[str], Tensor, Tensor, list[str]]:
    """Convert a head to NeMo's decoder.

    Returns:
        The labels; (V, D, 1) and (V,) with the blank last; names of the tokens left out.
    """
    sources: list[int | None]
    if head.bpe_model is not None:
        labels, sources, lost = _pieces(head)
    else:
        kept = [i for i in range(1, len(head.tokens)) if not head.silent(i)]
        labels, lost = [label(head.tokens[i], head.token_type) for i in kept], []
        sources = [*kept]
    weight, bias = pick(head, [*sources, 0])
    return labels, weight[:, :, None], bias, lost


def from_nemo(
    labels: list[str], weight: Tensor, bias: Tensor, bpe_model: bytes | None, token_type: str
) -> Head:
    """Convert NeMo's decoder, V - 1 labels, weight (V, D, 1) and bias (V,), to a head."""
    given = Head([*labels, BLANK], weight[:, :, 0], bias)
    order = [i for i in range(len(labels)) if not given.silent(i)]
    names = {i: token(labels[i], token_type) for i in order}
    if bpe_model is not None and ENDS not in names.values():
        names = {i: ENDS if name == END else name for i, name in names.items()}
    ends = [i for i in order if names[i] == ENDS]
    order = [i for i in order if names[i] != ENDS]
    tokens = [BLANK, *(names[i] for i in order)]
    sources: list[int | None] = [len(labels), *order]
    if UNKNOWN not in tokens:
        tokens.insert(1, UNKNOWN)
        sources.insert(1, None)
    weight, bias = pick(given, [*sources, ends[0] if ends else None])
    return Head([*tokens, ENDS], weight, bias, token_type, bpe_model)


def pick(head: Head, sources: Sequence[int | None]) -> tuple[Tensor, Tensor]:
    """Return rows of a head by index, (V', D) and (V',); None gives a silent class."""
    weight = head.weight.new_zeros(len(sources), head.weight.size(1))
    bias = head.bias.new_full((len(sources),), SILENT)
    rows = [row for row, source in enumerate(sources) if source is not None]
    index = torch.tensor([source for source in sources if source is not None])
    weight[rows], bias[rows] = head.weight[index], head.bias[index]
    return weight, bias


def label(token_: str, token_type: str) -> str:
    """Return NeMo's label for an ESPnet token; NeMo joins labels without a separator."""
    if token_ == SPACE:
        return " "
    return token_ + " " if token_type in ("word", "phn") else token_


def token(label_: str, token_type: str) -> str:
    """Return ESPnet's token for a NeMo label: the inverse of :func:`label`."""
    if label_ == " ":
        return SPACE
    return label_.removesuffix(" ") if token_type in ("word", "phn") else label_


def guess_type(labels: list[str]) -> str:
    """Return ``word`` if :func:`label` gives words such labels, else ``char``."""
    spaced = [item for item in labels if item != " " and item.endswith(" ")]
    return "word" if labels and len(spaced) == len([i for i in labels if i != " "]) else "char"


def pieces_of(model: bytes) -> dict[str, float]:
    """Return the pieces of a SentencePiece model by id, with their scores.

    Raises:
        CheckpointError: It is not such a model.
        MissingDependencyError: sentencepiece is not installed.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        if error.name != "sentencepiece":
            raise
        raise MissingDependencyError("sentencepiece", "bpe", "reading a BPE model") from error
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise CheckpointError("BPE model", [f"is no SentencePiece model: {error}"]) from None
    ids = range(processor.GetPieceSize())
    return {processor.IdToPiece(i): processor.GetScore(i) for i in ids}


def _pieces(head: Head) -> tuple[list[str], list[int | None], list[str]]:
    assert head.bpe_model is not None
    pieces = list(pieces_of(head.bpe_model))
    index = {name: i for i, name in enumerate(head.tokens) if i > 0}
    if END not in index and ENDS in index:
        index[END] = index[ENDS]
    sources = [index.get(piece) for piece in pieces]
    used = {0, *(i for i in sources if i is not None)}
    lost = [t for i, t in enumerate(head.tokens) if i not in used and not head.silent(i)]
    return pieces, sources, lost
