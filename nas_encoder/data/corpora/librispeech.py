"""LibriSpeech (Panayotov et al. 2015) and Mini LibriSpeech.

``SUBSET/READER/CHAPTER/{*.flac,*.trans.txt}``; subsets that are there are found.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH

from nas_encoder.data.corpora.options import PrepareOptions
from nas_encoder.data.corpora.reading import (
    Part,
    Reading,
    Utterance,
    archives,
    read_parts,
    read_text,
    require,
    shared_speakers,
)
from nas_encoder.data.findings import Findings
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

LAYOUT = "LibriSpeech/SUBSET/READER/CHAPTER/{*.flac,*.trans.txt}"
SUBSETS = (*LIBRISPEECH, *MINI_LIBRISPEECH)


def read_librispeech(root: Path, options: PrepareOptions) -> Reading:
    """Read LibriSpeech from the folder of its subsets, or from the one that holds it."""
    if not any((root / name).is_dir() for name in SUBSETS) and (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    present = sorted(name for name in SUBSETS if (root / name).is_dir())
    packed = {one for folder in (root, root.parent) for one in archives(folder, SUBSETS)}
    packed = {one for one in packed if one.partition(".")[0] not in present}
    hint = [f"not unpacked: {', '.join(sorted(packed))}"] if packed else []
    if not present:
        none = f"{root}: none of the subsets {', '.join(sorted(SUBSETS))} here"
        raise DataError("corpus librispeech", [none, *hint])
    splits = _splits(present, options.subsets)
    wanted = sorted({name for names in splits.values() for name in names})
    missing = [name for name in wanted if name not in present]
    if missing:
        lines = [f"{root}: no subset '{name}'; present: {', '.join(present)}" for name in missing]
        raise DataError("corpus librispeech", [*lines, *hint])
    if hint and not options.subsets:
        logger.warning("librispeech: %s", hint[0])
    parts = {name: _read_subset(root / name) for name in wanted}
    require(
        "librispeech",
        LAYOUT,
        [
            f"{root / name}: holds no READER/CHAPTER/*.trans.txt (part '{name}')"
            for name, part in parts.items()
            if not part.utterances and not part.faults
        ],
    )
    reading = read_parts("librispeech", "English", parts, splits, options.jobs)
    reading.problems += shared_speakers(parts)
    return reading


def _splits(present: Sequence[str], asked: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    if asked:
        return {split: list(names) for split, names in asked.items() if names}
    splits = {
        split: [name for name in present if name.startswith(f"{split}-")]
        for split in ("train", "dev", "test")
    }
    if not splits["train"]:
        raise DataError("corpus librispeech", [f"no train-* subset; present: {', '.join(present)}"])
    for split in ("dev", "test"):
        if not splits[split]:
            logger.warning("librispeech: no %s-* subset, so no split '%s'", split, split)
        elif len(splits[split]) > 1:  # results on clean and other are reported separately
            splits.update({name.replace("-", "_"): [name] for name in splits[split]})
    return {split: names for split, names in splits.items() if names}


def _read_subset(folder: Path) -> Part:
    part, findings = Part(), Findings("corpus librispeech")
    heard = {path.stem: path for path in sorted(folder.glob("*/*/*.flac"))}
    for transcript in sorted(folder.glob("*/*/*.trans.txt")):
        for number, line in enumerate(read_text(transcript, findings), 1):
            key, _, text = line.strip().partition(" ")
            audio = heard.pop(key, None)
            if key in part.utterances:
                findings.add("an utterance may have one transcript", f"{transcript}:{number}")
            elif not text.strip():
                part.faults.append(("has no text", f"{transcript}:{number}"))
            elif audio is None:
                part.faults.append(("has a transcript, but no audio", f"'{key}'"))
            else:
                reader = key.partition("-")[0]
                part.utterances[key] = Utterance(audio, reader, text.strip())
    findings.raise_any()
    part.faults += [("has audio, but no transcript", f"'{key}'") for key in heard]
    return part
