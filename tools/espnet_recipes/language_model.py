"""Writes the configuration and the texts of a language model, as ESPnet's recipes have them.

    python -m tools.espnet_recipes.language_model --corpus aishell --tokens tokens/char.txt \
        --token_type char --train data/train/text --config lm.yaml --text lm/text

The tokens are those of the encoders that it helps.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_yaml
from nas_encoder.errors import ConfigError, DataError
from tools.espnet_recipes.configs import table
from tools.experiments.schedules import merge
from tools.scripts import command

MODEL = "valid.loss.ave.pth"
KENLM = (
    "ESPnet decodes with its module, 'pip install kenlm'; its program lmplz builds the model and "
    "is compiled from github.com/kpu/kenlm (it needs Boost)"
)


@dataclass(frozen=True)
class LanguageModel:
    """What a decoding takes from a language model.

    Attributes:
        files: Made before.
        options: Of ``espnet2.bin.asr_inference``.
    """

    files: tuple[str, ...]
    options: str


def kenlm_tool() -> str:
    """Return the program that builds n-gram models.

    Raises:
        ConfigError: It, or the module that reads them, is missing.
    """
    tool = shutil.which("lmplz")
    missing = [] if tool else ["lmplz is not on the PATH"]
    if find_spec("kenlm") is None:
        missing.append("the module kenlm is not installed")
    if tool is None or missing:
        rule = f"needs KenLM, but {' and '.join(missing)}. {KENLM}"
        raise ConfigError("--decoding ngram", [rule])
    return tool


def language_model(corpus: str, options: Mapping[str, Any], tiny: bool) -> dict[str, Any]:
    """Return what ``espnet2.bin.lm_train`` reads.

    Args:
        corpus: Its name in the table.
        options: More of them: tokens, seed.
        tiny: Whether the network is one for a test.
    """
    about = table()["language_model"]
    config = merge(about["config"], table()["corpora"][corpus]["language_model"])
    return merge(merge(config, about["tiny"] if tiny else {}), options)


def write_texts(train: Path, more: Path | None, published: bool, target: Path) -> None:
    """Write the transcripts of the training data and, after them, other texts.

    Args:
        train: Kaldi text.
        more: A text, packed or not, with a sentence on each line; None for no others.
        published: Whether it must be the whole published one.
        target: The file.

    Raises:
        DataError: Something cannot be read or written; no file is left then.
    """
    from nas_encoder.data.corpora.lm_text import write_lm_text

    target.parent.mkdir(parents=True, exist_ok=True)
    parts, partial = [train], target.with_name(f"{target.name}.partial")
    if more is not None:
        other = target.with_name("other_text")
        write_lm_text(more, other, published)
        parts.append(other)
    try:
        with partial.open("wb") as written:
            for part in parts:
                with part.open("rb") as lines:
                    shutil.copyfileobj(lines, written)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(str(target), [f"cannot be written: {error}"]) from None


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--corpus", choices=table()["corpora"], required=True)
    add("--tokens", type=Path, required=True, help="ESPnet's token list")
    add("--token_type", choices=("char", "bpe", "word"), required=True)
    add("--bpemodel", type=Path)
    add("--seed", type=int, required=True)
    add("--tiny", action="store_true", help="a network for a test")
    add("--train", type=Path, required=True, help="Kaldi text of the training data")
    add("--more", type=Path, help="librispeech-lm-norm.txt.gz, or another text")
    add("--partial", action="store_true", help="that text need not be the whole published one")
    add("--config", type=Path, required=True, help="receives the configuration")
    add("--text", type=Path, required=True, help="receives the texts")
    args = parser.parse_args(arguments)
    options = {
        "token_type": args.token_type,
        "token_list": str(args.tokens),
        "bpemodel": None if args.bpemodel is None else str(args.bpemodel),
        "seed": args.seed,
    }
    args.config.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(args.config, language_model(args.corpus, options, args.tiny), ConfigError)
    write_texts(args.train, args.more, not args.partial, args.text)


if __name__ == "__main__":
    sys.exit(main())
