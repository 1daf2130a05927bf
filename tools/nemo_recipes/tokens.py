"""Makes the tokens of a training set: NeMo's tokenizer folder, or the characters.

A tokenizer is learned by the function that NeMo's script process_asr_text_tokenizer.py calls (with
``--tokenizer spe --no_lower_case``); NeMo's wheel holds that function and not the script. Phones
and syllables are pieces of a sentencepiece model of type ``word``: NeMo's models of characters have
no tokens of several letters.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nas_encoder.common.documents import write_lines
from nas_encoder.data.token_lists import ListOptions, write_token_list
from nas_encoder.errors import ConfigError, DataError
from tools.nemo_recipes.manifests import read_manifest
from tools.scripts import command

WORDS = ("phone", "syllable", "initial_final")
KINDS = ("char", "bpe", *WORDS)
TYPES = ("bpe", "unigram")
LONGEST = 4192  # bytes of a line that sentencepiece does not leave out
SHOWN = 5


def learn(texts: Sequence[str], folder: Path, size: int, model_type: str) -> list[str]:
    """Learn a sentencepiece model as NeMo does; return its pieces.

    Args:
        texts: Of the training set.
        folder: Of the tokenizer, inside the working directory; it is made anew.
        size: Number of pieces, ``<unk>`` included.
        model_type: Sentencepiece's.

    Raises:
        DataError: The texts do not give so many pieces, or one is so long that sentencepiece would
            leave it out.
    """
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model
    from sentencepiece import SentencePieceProcessor

    if long := sum(len(text.encode()) > LONGEST for text in texts):
        raise DataError("token set", [f"{long} texts have more than {LONGEST} bytes"])
    shutil.rmtree(folder, ignore_errors=True)  # NeMo would keep the model that is there
    document = folder / "text_corpus" / "document.txt"
    write_lines(document, texts)
    model, _ = create_spt_model(
        data_file=str(document),
        vocab_size=size,
        sample_size=-1,
        do_lower_case=False,
        tokenizer_type=model_type,
        output_dir=str(folder),
    )
    processor = SentencePieceProcessor(model_file=model)
    pieces = [processor.id_to_piece(place) for place in range(processor.get_piece_size())]
    if len(pieces) != size:
        rule = f"the texts give {len(pieces)} pieces, not {size}; ask for fewer (--vocab_size)"
        raise DataError("token set", [rule])
    unknown = [text for text in texts if processor.unk_id() in processor.encode(text)]
    if unknown:
        rule = f"{len(unknown)} training texts hold what no piece covers: {unknown[:SHOWN]}"
        raise DataError("token set", [rule])
    return pieces


def make_tokens(manifest: Path, folder: Path, kind: str, size: int, model_type: str) -> int:
    """Write the tokens of a manifest's texts; return their number.

    Args:
        manifest: NeMo's, of the training set.
        folder: See :func:`learn`; of ``char``, it receives ``vocab.txt`` alone.
        kind: One of :data:`KINDS`.
        size: Of ``bpe``.
        model_type: Of ``bpe``, one of :data:`TYPES`.
    """
    problems = []
    if kind not in KINDS:
        problems.append(f"--kind: must be one of {', '.join(KINDS)}, got '{kind}'")
    if model_type not in TYPES:
        problems.append(f"--model_type: must be one of {', '.join(TYPES)}, got '{model_type}'")
    if problems:
        raise ConfigError("tokens", problems)
    if kind == "char":
        shutil.rmtree(folder, ignore_errors=True)
        tokens = write_token_list(manifest, folder, ListOptions("char", layout="nemo"))
        return len(tokens)
    texts = [row["text"] for row in read_manifest(manifest)]
    if kind in WORDS:
        size, model_type = len({word for text in texts for word in text.split()}) + 1, "word"
    return len(learn(texts, folder, size, model_type))


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--manifest", type=Path, required=True, help="NeMo manifest of the training set")
    add("--kind", required=True, help=", ".join(KINDS))
    add("--size", type=int, default=0, help="pieces, of kind bpe")
    add("--model_type", default="bpe", help="of kind bpe: " + " or ".join(TYPES))
    add("--output", type=Path, required=True, help="folder, made anew")
    args = parser.parse_args(arguments)
    count = make_tokens(args.manifest, args.output, args.kind, args.size, args.model_type)
    print(f"{count} tokens of kind {args.kind} -> {args.output}")


if __name__ == "__main__":
    sys.exit(main())
