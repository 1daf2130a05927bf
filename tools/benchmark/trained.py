"""What was trained and decoded, whatever made it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError
from nas_encoder.tables import encoder_targets, saved_name
from tools.benchmark.costs import Costs
from tools.benchmark.manifests import texts_of
from tools.results.scoring import read_transcripts

_TRN = re.compile(r"(?P<text>.*)\((?P<key>[^()]+)\)\s*")


@dataclass(frozen=True)
class Decoding:
    """A test set, as one way of decoding wrote it.

    Attributes:
        way: Name of the way; empty if the training has one only.
        test: Name of the test set, with dashes.
        recognised: Kaldi's ``text``, or sclite's ``hyp.trn``.
        reference: The same of the reference; None if it was not found.
    """

    way: str
    test: str
    recognised: Path
    reference: Path | None


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        name: Its name in the table.
        toolkit: ``espnet`` or ``nemo``.
        root: The folder of experiments that it was found in.
        model: What ``nas-encoder bench`` measures: the folder, the file or the configuration.
        weights: A checkpoint, for the number of all parameters; None if there is none.
        config: The toolkit's configuration, of NeMo the section ``model``.
        decodings: What was decoded.
        costs: What the training cost.
        corpus: Name of the corpus, if the place tells it.
        synthetic: Whether the corpus is; None if nothing tells.
        group: Label of the folder of experiments.
        data: What ``nas-encoder data prepare`` wrote for it; None if that is not known.
    """

    name: str
    toolkit: str
    root: Path
    model: Path
    weights: Path | None
    config: Mapping[str, Any]
    decodings: tuple[Decoding, ...]
    costs: Costs
    corpus: str | None = None
    synthetic: bool | None = None
    group: str = ""
    data: Path | None = None

    @property
    def encoder(self) -> str:
        """Name of the encoder: of ours ``nas`` or a baseline, else the toolkit's."""
        found = self.config.get("encoder")
        if self.toolkit == "espnet":
            own = {saved_name(name): name for name in encoder_targets()}
            return own.get(str(found), str(found))
        target = found.get("_target_") if isinstance(found, Mapping) else None
        ours = {path: name for name, path in encoder_targets().items()}
        return ours.get(str(target), str(target).rpartition(".")[2])

    @property
    def token_type(self) -> str:
        """Tokens of the model: char, bpe, word or phn, as ESPnet names them."""
        if self.toolkit == "espnet":
            return str(self.config.get("token_type"))
        tokenizer = self.config.get("tokenizer")
        kind = tokenizer.get("type") if isinstance(tokenizer, Mapping) else None
        return "char" if kind is None else str(kind)


def transcripts(path: Path, keys: Mapping[str, str] | None = None) -> dict[str, str]:
    """Read the transcripts of utterances by id.

    Args:
        path: Kaldi's ``text``; a ``.trn`` of sclite, ``words (speaker-id)``; a NeMo manifest
            with ``utt_id``.
        keys: Of a ``.trn``: what has the ids, which tell the end of the speaker's name.

    Raises:
        DataError: It cannot be read, is empty, or names an utterance twice.
    """
    if path.suffix == ".trn":
        return _of_trn(path, keys or {})
    if path.suffix in (".json", ".jsonl"):
        return texts_of(path)
    return read_transcripts(path)


def _of_trn(path: Path, keys: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    problems = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), [f"cannot be read: {error}"]) from None
    for number, line in enumerate(lines, 1):
        match = _TRN.fullmatch(line)
        if match is None:
            problems.append(f"line {number}: must be words and (speaker-id), got '{line[:40]}'")
            continue
        # Speakers may have dashes too: the id is the longest end that is one.
        parts = match["key"].split("-")
        ends = ["-".join(parts[start:]) for start in range(1, len(parts))]
        key = next((end for end in ends if end in keys), None)
        if key is None:
            problems.append(f"line {number}: ({match['key']}) ends with the id of no utterance")
        elif key in found:
            problems.append(f"line {number}: utterance '{key}' is there twice")
        else:
            found[key] = " ".join(match["text"].split())
    if problems:
        raise DataError(str(path), problems)
    return found
