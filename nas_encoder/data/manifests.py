"""Opens speech data of every form: Kaldi/ESPnet folder, NeMo manifest, lhotse cuts."""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy

from nas_encoder.common.problems import is_number, one_line
from nas_encoder.common.seeding import derive_seed
from nas_encoder.data.findings import Findings
from nas_encoder.data.kaldi import read_kaldi_dir
from nas_encoder.data.nemo_manifest import looks_like_nemo, read_nemo_manifest
from nas_encoder.data.sound import ARCHIVE, Sound
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

_ROUNDING = 0.05  # seconds that times in a manifest may be off
PREPARED = "prepared.json"  # written last by `data prepare`; names the splits


def open_cuts(
    source: str | Path | CutSet,
    *,
    split: str | None = None,
    jobs: int | None = None,
    require_text: bool = True,
) -> CutSet:
    """Open speech data of any form and check that it is usable.

    Args:
        source: A Kaldi or ESPnet data folder (has ``wav.scp``), a NeMo manifest (``.json`` or
            ``.jsonl`` with ``audio_filepath``), lhotse cuts (``.jsonl`` or ``.jsonl.gz``), a
            folder with ``cuts.jsonl.gz``, the output folder of ``nas-encoder data prepare``
            (then give ``split``), or a CutSet.
        split: Which part of a prepared folder: ``train``, ``dev``, ``test``.
        jobs: Threads for reading audio headers.
        require_text: Whether an utterance without text is an error.

    Returns:
        An eager CutSet of mono cuts in the order of the source, each with one supervision over
        its whole length (longer cuts are trimmed to their supervisions).

    Raises:
        DataError: Lists all problems with file and line: no such path, an empty manifest, audio
            that is missing or unreadable, no text, duplicate ids, a duration that is zero or
            not a number.
    """
    if isinstance(source, CutSet):
        findings = Findings("cuts")
        pairs = [(f"cut '{cut.id}'", cut) for cut in source]
        if not pairs:
            findings.add("the set of cuts is empty", "cuts")
    else:
        path = Path(os.path.expanduser(source))
        findings = Findings(f"data {path}")
        pairs = _read(path, split, findings, jobs, require_text)
    cuts = _checked(pairs, findings, require_text)
    findings.raise_any()
    if not cuts:
        raise DataError(findings.subject, ["no utterance at all"])
    return CutSet.from_cuts(cuts)


def _read(
    path: Path, split: str | None, findings: Findings, jobs: int | None, require_text: bool
) -> list[tuple[str, Any]]:
    """Return (where, cut) for all cuts of any kind of source on disk."""
    if not path.exists():
        several = "," in path.name or "_OP_" in path.name
        remedy = "; several manifests are not read: join them into one" if several else ""
        raise DataError(f"data {path}", [f"no such file or folder{remedy}"])
    if path.name == "wav.scp":
        raise DataError(f"data {path}", [f"give the folder, {path.parent}"])
    if path.suffix == ".tar":
        raise DataError(f"data {path}", ["tarred data is not read: unpack it"])
    if path.is_dir():
        path = _inside_folder(path, split)
    if path.is_dir():
        dropped = Findings(f"data {path}")
        options: Any = {"jobs": jobs, "require_text": require_text}
        kaldi = list(read_kaldi_dir(path, findings, dropped, **options))
        for line in dropped.problems() if not findings else ():
            logger.warning("%s: %s", dropped.subject, line)
        return kaldi
    rows = _json_lines(path, findings)
    first = next(rows, None)
    if first is None:
        findings.raise_any()
        raise DataError(f"data {path}", ["the manifest is empty"])
    rows = chain([first], rows)
    if looks_like_nemo(first[1]):
        return list(read_nemo_manifest(rows, path, findings, jobs=jobs, require_text=require_text))
    return list(_lhotse_cuts(rows, findings))


def _inside_folder(path: Path, split: str | None) -> Path:
    """Return the Kaldi folder or the cuts file that a folder means."""
    if (path / "wav.scp").is_file():
        return path
    for name in ("cuts.jsonl.gz", "cuts.jsonl"):
        if (path / name).is_file():
            return path / name
    if (path / PREPARED).is_file():
        have = sorted(folder.name for folder in (path / "lhotse").glob("*") if folder.is_dir())
        if split not in have:
            problem = "which split is wanted?" if split is None else f"no split '{split}'"
            choices = ", ".join(str(path / "espnet" / name) for name in have)
            raise DataError(f"data {path}", [f"{problem} Open one of: {choices}"])
        return path / "lhotse" / split / "cuts.jsonl.gz"
    problem = "the folder has neither wav.scp (Kaldi, ESPnet) nor cuts.jsonl.gz (lhotse)"
    if any(path.glob("cuts.*.jsonl*")):
        problem = (
            "lhotse Shar data is not read: store its audio in files "
            "(CutSet.from_shar(in_dir=...).save_audios(...)) and write cuts.jsonl.gz"
        )
    raise DataError(f"data {path}", [problem])


def _json_lines(path: Path, findings: Findings) -> Iterator[tuple[str, Any]]:
    """Yield (``file:line``, decoded line) of a text file, gzipped or not, without blank lines."""
    try:
        with path.open("rb") as start:
            zipped = start.read(2) == b"\x1f\x8b"
        if zipped and path.suffix != ".gz":
            raise DataError(f"data {path}", ["is gzipped: its name must end in .gz"])
        opened: Any = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else None
        with opened or path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    item = json.loads(line)
                except (ValueError, RecursionError) as error:
                    rule = "not JSON; a NeMo manifest and lhotse cuts have one object in a line"
                    findings.add(rule, f"{path}:{number} ({str(error)[:80]})")
                else:
                    yield f"{path}:{number}", item
    except UnicodeDecodeError as error:
        problem = f"is not a manifest, which is UTF-8 text ({error})"
        raise DataError(f"data {path}", [problem]) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"data {path}", [f"cannot be read: {error}"]) from error


def _lhotse_cuts(rows: Iterable[tuple[str, Any]], findings: Findings) -> Iterator[tuple[str, Any]]:
    for where, item in rows:
        try:
            cut = deserialize_item(item) if isinstance(item, dict) else None
        # A malformed object may fail anywhere in lhotse's constructors, with any error type.
        except Exception as error:
            findings.add("not a lhotse cut", f"{where} ({type(error).__name__}: {one_line(error)})")
            continue
        if not hasattr(cut, "supervisions"):
            kind = type(cut).__name__
            findings.add("not a lhotse cut", f"{where} (a {kind}; write cuts, or open the folder)")
            continue
        yield where, cut


def _checked(pairs: list[tuple[str, Any]], findings: Findings, require_text: bool) -> list[Any]:
    """Return usable cuts, one supervision each; report all others."""
    cuts: list[Any] = []
    seen: set[str] = set()
    for where, cut in pairs:
        # lhotse's classes accept values of any type and fail later, when used.
        try:
            pieces = [
                (piece, _where(piece, where), _broken_rules(piece, require_text))
                for piece in _pieces(cut, findings, where)
            ]
        except Exception as error:
            findings.add("malformed cut", f"{where} ({type(error).__name__}: {one_line(error)})")
            continue
        for piece, place, broken in pieces:
            for rule in broken:
                findings.add(rule, place)
            if str(piece.id) in seen:
                findings.add("duplicate id", place)
            elif not broken:
                cuts.append(piece)
            seen.add(str(piece.id))
    return [_with_sounds(cut, findings) for cut in cuts]


def _with_sounds(cut: Any, findings: Findings) -> Any:
    """Return a cut whose commands and archives are read strictly, as in a Kaldi folder."""
    recording = cut.recording
    plain = len(recording.sources) == 1 and not recording.transforms
    expected = (recording.sampling_rate, recording.num_samples) if plain else (0, 0)
    sources = []
    for source in recording.sources:
        path = source.source
        if source.type == "file" and not os.path.isfile(path):
            archive = ARCHIVE.fullmatch(path)
            path = archive[1] if archive else path
            if not os.path.isfile(path):
                place = f"{source.source} of utterance '{cut.id}'"
                findings.add("the audio file does not exist", place)
        elif source.type == "shar":
            findings.add("lhotse Shar data is not read: store its audio in files", f"'{cut.id}'")
        if not isinstance(source, Sound) and (source.type == "command" or path != source.source):
            source = Sound(source.type, source.channels, source.source, None, *expected)
        sources.append(source)
    if sources == recording.sources:
        return cut
    return fastcopy(cut, recording=fastcopy(recording, sources=sources))


def _pieces(cut: Any, findings: Findings, where: str) -> list[Any]:
    """Return a cut as cuts of one supervision each."""
    if not isinstance(cut, MonoCut):
        findings.add(f"only mono cuts can be used, got a {type(cut).__name__}", where)
        return []
    if not _positive(cut.duration):  # before lhotse computes with it
        findings.add("duration must be above 0", f"{where} '{cut.id}' (got {cut.duration})")
        return []
    if not cut.supervisions or (len(cut.supervisions) == 1 and _spans(cut)):
        return [cut]
    for said in cut.supervisions:
        if said.start < -_ROUNDING or said.end > cut.duration + _ROUNDING:
            rule = (
                "the supervision reaches outside its cut, so that its text is not what is heard: "
                "cut at supervisions (CutSet.trim_to_supervisions), not into windows"
            )
            times = f"[{said.start:g}, {said.end:g}] of {cut.duration:g} s"
            findings.add(rule, f"{where} '{cut.id}' ({times})")
            return []
    cut = fastcopy(cut, supervisions=[said.trim(cut.duration) for said in cut.supervisions])
    trimmed = list(cut.trim_to_supervisions(keep_overlapping=False))
    if len(trimmed) == 1:
        return [trimmed[0].with_id(cut.id)]
    return [piece.with_id(piece.supervisions[0].id) for piece in trimmed]


def _spans(cut: Any) -> bool:
    """Whether the one supervision covers the cut, up to rounding."""
    supervision = cut.supervisions[0]
    return bool(
        abs(supervision.start) <= _ROUNDING and abs(supervision.end - cut.duration) <= _ROUNDING
    )


def _where(cut: Any, where: str) -> str:
    return where if f"'{cut.id}'" in where else f"{where} '{cut.id}'"


def _broken_rules(cut: Any, require_text: bool) -> list[str]:
    supervision = cut.supervisions[0] if cut.supervisions else None
    text = supervision.text if supervision is not None else None
    recording = cut.recording
    checks = [
        ("the id must be a non-empty text", isinstance(cut.id, str) and bool(cut.id.strip())),
        ("duration must be above 0", _positive(cut.duration)),
        ("no text", not require_text or (isinstance(text, str) and bool(text.strip()))),
        ("no recording: features without audio cannot be used", recording is not None),
        (
            "the recording must have samples and a sampling rate",
            recording is None
            or (_positive(recording.num_samples) and _positive(recording.sampling_rate)),
        ),
        (
            "the recording must name its audio",
            recording is None
            or (bool(recording.sources) and all(_named(s) for s in recording.sources)),
        ),
        (
            "the speaker must be a text",
            supervision is None
            or supervision.speaker is None
            or isinstance(supervision.speaker, str),
        ),
        ("must lie inside its recording", recording is None or _inside(cut, recording)),
    ]
    return [rule for rule, holds in checks if not holds]


def _positive(value: Any) -> bool:
    return is_number(value, 0) and value > 0


def _named(source: Any) -> bool:
    named = isinstance(source.source, str) and bool(source.source)
    return named or source.type in ("memory", "shar")


def _inside(cut: Any, recording: Any) -> bool:
    if not (is_number(cut.start) and is_number(recording.duration)):
        return False
    return bool(0 <= cut.start and cut.start + cut.duration <= recording.duration + _ROUNDING)


def text_of(cut: Any) -> str:
    """Return a cut's transcript ('' if it has none)."""
    supervision = cut.supervisions[0] if cut.supervisions else None
    return (supervision.text or "") if supervision is not None else ""


def speaker_of(cut: Any) -> str | None:
    """Return a cut's speaker, or None if unknown."""
    return cut.supervisions[0].speaker if cut.supervisions else None


def language_of(cut: Any) -> str | None:
    """Return a cut's language, or None if unknown."""
    return cut.supervisions[0].language if cut.supervisions else None


def texts(cuts: Iterable[Any]) -> list[str]:
    """Return the transcripts of cuts, in order; as :func:`transcripts`."""
    return [text for _, text in transcripts(cuts)]


def transcripts(cuts: Iterable[Any]) -> list[tuple[str, str]]:
    """Return (utterance id, transcript) of cuts, in order.

    As ESPnet and NeMo hand texts to their tokenizers: without white space at both ends.
    """
    return [(cut.id, text_of(cut).strip()) for cut in cuts]


def split_half(cuts: CutSet, seed: int) -> tuple[CutSet, CutSet]:
    """Split a training set at random into two halves, one for weights, one for architecture.

    He et al. 2020, section 4.3, search on such halves. Each half keeps the order of ``cuts``; the
    first gets the odd one.

    Raises:
        DataError: Fewer than two utterances.
    """
    listed = list(cuts)
    if len(listed) < 2:
        raise DataError("training data", [f"two halves need 2 utterances, got {len(listed)}"])
    positions = list(range(len(listed)))
    random.Random(derive_seed(seed)).shuffle(positions)
    middle = (len(listed) + 1) // 2
    halves = sorted(positions[:middle]), sorted(positions[middle:])
    first, second = (CutSet.from_cuts(listed[place] for place in half) for half in halves)
    return first, second
