"""TIMIT (LDC93S1): ``[TIMIT/|data/]{TRAIN,TEST}/DR?/SPEAKER/*.{WAV,PHN,WRD,TXT}``.

Releases differ in the case of all names and in the audio: NIST SPHERE, or RIFF, also as a second
file ``SA1.WAV.wav`` beside the first. Ids are in upper case whatever the release. The splits are
those of Kaldi's and ESPnet's recipes: TRAIN, 50 development speakers of TEST, and the 24 core test
speakers; TEST's other 94 speakers are not used.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from lhotse.recipes.timit import get_speakers

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
from nas_encoder.data.phones import PHONE_SETS

logger = logging.getLogger(__name__)

LAYOUT = "[TIMIT/|data/]{TRAIN,TEST}/DR?/SPEAKER/*.{WAV,PHN,WRD,TXT}, in upper or lower case"
PER_SPEAKER = 10  # two SA, five SX and three SI sentences
_TEXTS = ("PHN", "WRD", "TXT")
_DEV, _CORE_TEST = ({name.upper() for name in names} for names in get_speakers())


def read_timit(root: Path, options: PrepareOptions) -> Reading:
    """Read TIMIT; texts become phones, the words are kept as custom data."""
    findings = Findings("corpus timit")
    folders = next((f for f in map(_parts, _bases(root)) if "TRAIN" in f), {})
    problems = [f"{root}: no folder {name}" for name in ("TRAIN", "TEST") if name not in folders]
    if len(problems) == 2 and (packed := archives(root, ["LDC93S1", "timit", "TIMIT"])):
        problems.append(f"not unpacked: {', '.join(packed)}")
    files = {name: _files(folder, findings) for name, folder in folders.items()}
    for name, found in files.items():
        if not any(name.endswith(".WAV") for names in found.values() for name in names):
            problems.append(f"{folders[name]}: holds no DR?/SPEAKER/*.WAV (part '{name}')")
    require("timit", LAYOUT, problems)
    others = set(files["TEST"]) - _DEV - _CORE_TEST
    logger.info("timit: %d speakers of TEST are in neither dev nor core test", len(others))
    parts = {}
    for split, folder, speakers in (
        ("train", "TRAIN", set(files["TRAIN"])),
        ("dev", "TEST", _DEV),
        ("test", "TEST", _CORE_TEST),
    ):
        parts[split] = Part()
        for speaker in sorted(speakers & set(files[folder])):
            _read_speaker(speaker, files[folder][speaker], options, parts[split], findings)
    findings.raise_any()
    reading = read_parts("timit", "English", parts, {name: [name] for name in parts}, options.jobs)
    for name, part in parts.items():
        spoken = Counter(one.speaker for one in part.utterances.values())
        reading.examples[name] = [
            f"{speaker} reads {count} of {PER_SPEAKER} sentences"
            for speaker, count in sorted(spoken.items())
            if count != PER_SPEAKER
        ]
    reading.problems += shared_speakers(parts)
    return reading


def _bases(root: Path) -> Iterator[Path]:
    yield root
    for _ in range(2):  # data/, TIMIT/, TIMIT/TIMIT/, timit/data/, ...
        inner = [p for p in _inside(root) if p.is_dir() and p.name.upper() in ("TIMIT", "DATA")]
        yield from inner
        root = inner[0] if inner else root


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _parts(base: Path) -> dict[str, Path]:
    return {
        path.name.upper(): path
        for path in _inside(base)
        if path.name.upper() in ("TRAIN", "TEST") and path.is_dir()
    }


def _files(folder: Path, findings: Findings) -> dict[str, dict[str, Path]]:
    """Return speaker -> name -> path, both in upper case."""
    speakers: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*/*/*")):
        files = speakers.setdefault(path.parent.name.upper(), {})
        if files.setdefault(path.name.upper(), path) != path:
            rule = "two files whose names differ in case, or two folders of a speaker: remove one"
            findings.add(rule, f"{files[path.name.upper()]} and {path}")
    return speakers


def _read_speaker(
    speaker: str,
    files: Mapping[str, Path],
    options: PrepareOptions,
    part: Part,
    findings: Findings,
) -> None:
    names = sorted({name.partition(".")[0] for name in files if name[:2] in ("SA", "SX", "SI")})
    for name in names:
        key = f"{speaker}-{name}"
        audio = files.get(f"{name}.WAV", files.get(f"{name}.WAV.WAV"))
        missing = [f".{kind}" for kind in _TEXTS if f"{name}.{kind}" not in files]
        missing = missing if audio else [".WAV", *missing]
        if missing or audio is None:
            part.faults.append((f"has no {', '.join(missing)}", f"'{key}'"))
            continue
        aligned = {
            kind: _units(files[f"{name}.{suffix}"], findings)
            for kind, suffix in (("word", "WRD"), ("phone", "PHN"))
        }
        phones = _folded(files[f"{name}.PHN"], aligned["phone"], options.phones, findings)
        words = " ".join(" ".join(read_text(files[f"{name}.TXT"], findings)).split()[2:])
        part.utterances[key] = Utterance(
            audio,
            speaker,
            " ".join(phone for _, _, phone in phones if phone),
            gender="male" if speaker.startswith("M") else "female",
            aligned={"word": aligned["word"], "phone": phones},
            custom={"words": words},
            used=options.keep_sa or not name.startswith("SA"),
        )


def _units(path: Path, findings: Findings) -> list[tuple[int, int, str]]:
    """Return (first sample, sample after the last, unit) of a file's lines."""
    units = []
    for number, line in enumerate(read_text(path, findings), 1):
        start, end, unit, *more = [*line.split(), "", "", ""][: max(3, len(line.split()))]
        if more or not (start.isdigit() and end.isdigit() and unit and int(start) <= int(end)):
            findings.add("'FIRST LAST UNIT' is expected, in samples", f"{path}:{number} {line!r}")
        else:
            units.append((int(start), int(end), unit))
    return units


def _folded(
    path: Path, phones: list[tuple[int, int, str]], size: int, findings: Findings
) -> list[tuple[int, int, str]]:
    """Return the phones in a set; those that it leaves out, as ''."""
    table, folded = PHONE_SETS[size], []
    for start, end, phone in phones:
        if phone not in table:
            findings.add("is none of TIMIT's 61 phones", f"{path} {phone!r}")
        folded.append((start, end, table.get(phone, phone)))
    return folded
