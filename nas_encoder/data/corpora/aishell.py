"""AISHELL-1 (Bu et al. 2017): ``data_aishell/{wav/{train,dev,test}/SPEAKER/*.wav,transcript/...}``.

As unpacked from ``data_aishell.tgz``, whose ``wav`` holds an archive for each speaker.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lhotse.recipes.aishell import text_normalize

from nas_encoder.common.problems import show
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
    some,
)
from nas_encoder.data.findings import Findings
from nas_encoder.data.mandarin import convert, has_hanzi, narrowed
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

LAYOUT = "data_aishell/{wav/{train,dev,test}/SPEAKER/*.wav,transcript/aishell_transcript_v0.8.txt}"
PARTS = ("train", "dev", "test")
_LAST = {"train": 723, "dev": 763, "test": 916}  # speakers' numbers, S0002 to S0916, go by part
_ID = re.compile(r"BAC009S(\d{4})W\d{4}")
_NO_AUDIO = "has a transcript, but no audio"


def read_aishell(root: Path, options: PrepareOptions) -> Reading:
    """Read AISHELL-1 from the folder that holds ``data_aishell``, or from that itself.

    Audio without a transcript is left out, with a note: the published corpus has some.
    """
    base = root.parent if root.name == "data_aishell" else root
    data = base / "data_aishell"
    transcript = data / "transcript" / "aishell_transcript_v0.8.txt"
    present = [part for part in PARTS if _speakers(data / "wav" / part)]
    packed, unpacked = _packed(data / "wav")
    problems = [] if transcript.is_file() else [f"{transcript}: no such file"]
    for part in PARTS:
        if part not in present and (part == "train" or not options.partial):
            problems.append(f"{data / 'wav' / part}: holds no SPEAKER/*.wav (part '{part}')")
    if problems and not data.is_dir() and (archive := archives(base, ["data_aishell"])):
        problems.append(f"{base / archive[0]}: is not unpacked; run: tar xzf {archive[0]}")
    if packed:
        problems += [_unpack(data / "wav", packed, unpacked)] if problems else []
    require("aishell", LAYOUT, problems)
    findings = Findings("corpus aishell")
    texts = _texts(transcript, findings)
    written = dict(texts)
    if options.units != "char":
        texts = {key: _in_units(key, text, options.units, findings) for key, text in texts.items()}
    findings.raise_any()
    _tell_marks(written.values())
    parts = {part: Part() for part in present}
    for part in present:
        left_out = []
        for path in sorted((data / "wav" / part).glob("*/*.wav")):
            text = texts.get(path.stem)
            if text:
                custom = {"written": written[path.stem]} if options.units != "char" else None
                parts[part].utterances[path.stem] = Utterance(
                    path, path.parent.name, text, custom=custom
                )
            else:
                left_out.append(path.stem)
        if left_out:
            many = f"{len(left_out)} of {len(left_out) + len(parts[part].utterances)} audio files"
            logger.warning(
                "aishell: %s of '%s' have no transcript and are left out: %s",
                many,
                part,
                some(left_out),
            )
    found = {key for part in parts.values() for key in part.utterances}
    lost = [key for key in texts if key not in found]
    for key in lost:
        if owner := parts.get(_part_of(key)):
            owner.faults.append((_NO_AUDIO, f"'{key}'"))
    reading = read_parts(
        "aishell", "Chinese", parts, {part: [part] for part in present}, options.jobs
    )
    if packed:
        reading.problems.append(_unpack(data / "wav", packed, unpacked))
    reading.problems += [f"no part '{part}'" for part in PARTS if part not in present]
    reading.problems += shared_speakers(parts)
    return reading


def _speakers(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if next(path.glob("*.wav"), None) is not None]


def _packed(folder: Path) -> tuple[list[str], int]:
    """Return the speakers' archives that were not unpacked, and the number of those that were."""
    names = sorted(path.name for path in folder.glob("*.tar.gz"))
    done = {path.name for part in PARTS for path in folder.glob(f"{part}/*")}
    packed = [name for name in names if name.removesuffix(".tar.gz") not in done]
    return packed, len(names) - len(packed)


def _unpack(folder: Path, packed: list[str], unpacked: int) -> str:
    return (
        f"{folder}: {len(packed)} of {len(packed) + unpacked} speakers' archives are not unpacked "
        f'({some(packed)}); there, run: for f in *.tar.gz; do tar xzf "$f"; done'
    )


def _texts(path: Path, findings: Findings) -> dict[str, str]:
    """Return id -> text; hanzi are written without spaces, and these are removed."""
    texts: dict[str, str] = {}
    for number, line in enumerate(read_text(path, findings), 1):
        key, *words = line.split()
        if key in texts:
            findings.add("an utterance may have one transcript", f"{path}: line {number} '{key}'")
        texts[key] = text_normalize(narrowed("".join(words)))
    return texts


def _in_units(key: str, text: str, units: str, findings: Findings) -> str:
    try:
        return " ".join(convert(text, units))
    except DataError as error:
        for problem in error.problems:
            findings.add(problem, f"'{key}'")
        return ""


def _tell_marks(texts: Iterable[str]) -> None:
    """Log the characters that are neither hanzi nor A to Z: they become tokens like any other."""
    marks = Counter("".join(texts))
    for character in [one for one in marks if has_hanzi(one) or "A" <= one <= "Z"]:
        del marks[character]
    if marks:
        shown = some(f"{show(one)} ({count})" for one, count in marks.most_common())
        logger.warning("aishell: texts hold characters beside hanzi and A to Z: %s", shown)


def _part_of(key: str) -> str:
    found = _ID.fullmatch(key)
    number = int(found[1]) if found else 0
    return next((part for part, last in _LAST.items() if number <= last), "test")
