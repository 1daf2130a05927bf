"""Trains a sentencepiece model and writes ESPnet's list of its tokens, as asr.sh's stage 5 does."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError, MissingDependencyError
from tools.results.scoring import read_transcripts
from tools.scripts import command

UNKNOWN = "<unk>"


def train(texts: list[str], size: int) -> bytes:
    """Return the model of a unigram vocabulary.

    Raises:
        DataError: The texts have too few different pieces.
    """
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise MissingDependencyError("sentencepiece", "bpe", "tokens of type bpe") from error
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            model_type="unigram",
            character_coverage=1.0,
            input_sentence_size=100_000_000,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise DataError(f"{size} pieces of {len(texts)} texts", [str(error)]) from None
    return model.getvalue()


def tokens(model: bytes) -> list[str]:
    """Return the pieces of a model between ESPnet's special tokens."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_proto=model)
    special = {UNKNOWN, "<s>", "</s>"}
    found = [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())]
    return ["<blank>", UNKNOWN, *(piece for piece in found if piece not in special), "<sos/eos>"]


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="Kaldi text of the training set")
    parser.add_argument("--size", type=int, required=True, help="of the vocabulary")
    parser.add_argument("--model", type=Path, required=True, help="receives the model")
    parser.add_argument("--tokens", type=Path, required=True, help="receives the list")
    args = parser.parse_args(arguments)
    model = train(list(read_transcripts(args.text).values()), args.size)
    write_atomically(args.model, model, DataError)
    write_atomically(args.tokens, "".join(f"{t}\n" for t in tokens(model)).encode(), DataError)


if __name__ == "__main__":
    sys.exit(main())
