"""What an alignment becomes: data for ESPnet, NeMo and lhotse, TextGrids, CTM, a table.

================== ============================================================================
``espnet/``        Kaldi data folder: ``segments``, ``text``, ``wav.scp``, ``utt2spk``, ...
``nemo.json``      NeMo manifest with ``offset`` and ``duration``
``cuts.jsonl.gz``  lhotse cuts with alignments (``word``, ``token``) and ``confidence``
``textgrid/``      Praat, a file for each recording: utterances, words, tokens; ``/`` and ``%``
                   in its name become ``%2F`` and ``%25``
``words.ctm``      recording, channel, start, duration, word, confidence of its utterance
``tokens.ctm``     the same for tokens
``utterances.tsv`` all utterances with times and confidence, and whether they were kept
================== ============================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lhotse import CutSet
from lhotse.supervision import AlignmentItem
from lhotse.utils import fastcopy

from nas_encoder.alignment.align import AlignedUtterance
from nas_encoder.alignment.boundaries import Interval
from nas_encoder.alignment.recordings import Task
from nas_encoder.common.documents import write_lines
from nas_encoder.common.problems import show
from nas_encoder.data.audio import utterance
from nas_encoder.data.export import write_espnet_dir, write_nemo_manifest
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

Found = Sequence[tuple[Task, Sequence[AlignedUtterance]]]
_LONGEST = 200  # bytes of a file's name; file systems take 255, a temporary file's mark included


def check_outputs(tasks: Sequence[Task]) -> None:
    """Refuse what :func:`write_outputs` could not write, before anything is computed.

    Raises:
        DataError: Ids or speakers with white space or without Unicode, audio that an ESPnet folder
            or a NeMo manifest cannot name, ids too long for a file's name; all are listed.
    """
    problems = [
        f"a recording's id names a file, so it may have at most {_LONGEST} bytes: {show(task.id)}"
        for task in tasks
        if len(_grid_name(task.id).encode(errors="replace")) > _LONGEST
    ]
    cuts = [
        utterance(
            line.id,
            task.recording,
            (task.first, task.first + task.samples),
            " ".join(line.text.split()),
            line.speaker,
        )
        for task in tasks
        for line in task.lines
    ]
    with TemporaryDirectory() as folder:
        for write, name in ((write_espnet_dir, "espnet"), (write_nemo_manifest, "nemo.json")):
            try:
                write(cuts, Path(folder) / name)
            except DataError as error:
                problems += error.problems
    if problems:
        raise DataError("utterances", dict.fromkeys(problems))


def write_outputs(output: Path, found: Found, threshold: float | None) -> dict[str, Any]:
    """Write all files; return the counts.

    Args:
        output: The folder.
        found: The recordings with their utterances.
        threshold: Utterances of less confidence are kept out of all files but the last.

    Raises:
        DataError: A file cannot be written.
    """
    rows = ["utterance\trecording\tstart\tend\tconfidence\tkept\ttext"]
    cuts: list[Any] = []
    words: list[str] = []
    tokens: list[str] = []
    low: list[str] = []
    for task, utterances in found:
        kept = [one for one in utterances if threshold is None or one.confidence >= threshold]
        keys = {one.id for one in kept}
        for one in utterances:
            keeps = "yes" if one.id in keys else "no"
            text = " ".join(one.text.split())
            at = f"{one.start:.3f}\t{one.end:.3f}\t{one.confidence:.4f}"
            rows.append(f"{one.id}\t{task.id}\t{at}\t{keeps}\t{text}")
            low += [one.id] if keeps == "no" else []
        cuts += [_cut(task, one) for one in kept]
        for lines, name in ((words, "words"), (tokens, "tokens")):
            lines += [
                f"{task.id} 1 {unit.start:.3f} {unit.end - unit.start:.3f} {unit.label} "
                f"{one.confidence:.4f}"
                for one in kept
                for unit in getattr(one, name)
            ]
        _write_textgrid(output / "textgrid" / _grid_name(task.id), task.seconds, kept)
    write_lines(output / "utterances.tsv", rows)
    write_lines(output / "words.ctm", words)
    write_lines(output / "tokens.ctm", tokens)
    if cuts:
        write_espnet_dir(cuts, output / "espnet")
        write_nemo_manifest(cuts, output / "nemo.json")
        CutSet.from_cuts(cuts).to_file(output / "cuts.jsonl.gz")
    if low:
        logger.warning(
            "%d of %d utterances have less confidence than %g and are left out; utterances.tsv "
            "names them",
            len(low),
            len(rows) - 1,
            threshold,
        )
    scores = sorted(one.confidence for _, utterances in found for one in utterances)
    return {
        "recordings": len(found),
        "utterances": len(scores),
        "kept": len(cuts),
        "left_out": low,
        "confidence": {
            "least": scores[0],
            "median": scores[len(scores) // 2],
        },
    }


def _cut(task: Task, one: AlignedUtterance) -> Any:
    rate = task.recording.sampling_rate
    first, last = (task.first + round(time * rate) for time in (one.start, one.end))
    cut = utterance(one.id, task.recording, (first, last), one.text, one.speaker)
    begin = (first - task.first) / rate
    segment = cut.supervisions[0]
    for kind, units in (("word", one.words), ("token", one.tokens)):
        items = [
            AlignmentItem(unit.label, unit.start - begin, unit.end - unit.start) for unit in units
        ]
        segment = segment.with_alignment(kind, items)
    custom = {"confidence": round(one.confidence, 6)}
    return fastcopy(cut, supervisions=[fastcopy(segment, custom=custom)])


def _grid_name(key: str) -> str:
    """Return a file name that no other id has and that stays in its folder."""
    for letter in "%/\0":
        key = key.replace(letter, f"%{ord(letter):02X}")
    return f"{key}.TextGrid"


def _write_textgrid(path: Path, seconds: float, utterances: Sequence[AlignedUtterance]) -> None:
    """Write Praat's long text form; what lies between intervals is an empty interval."""
    tiers = {
        "utterances": [Interval(one.start, one.end, one.text) for one in utterances],
        "words": [unit for one in utterances for unit in one.words],
        "tokens": [unit for one in utterances for unit in one.tokens],
    }
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {seconds:.6f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, units) in enumerate(tiers.items(), 1):
        whole = _filled(units, seconds)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {seconds:.6f}",
            f"        intervals: size = {len(whole)}",
        ]
        for index, unit in enumerate(whole, 1):
            label = " ".join(unit.label.split()).replace('"', '""')
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {unit.start:.6f}",
                f"            xmax = {unit.end:.6f}",
                f'            text = "{label}"',
            ]
    write_lines(path, lines)


def _filled(units: Sequence[Interval], seconds: float) -> list[Interval]:
    whole, at = [], 0.0
    for unit in units:
        start, end = max(at, unit.start), max(at, unit.end)
        if end - start < 1e-6:  # Praat reads no empty interval, which a shift may make
            continue
        if start - at >= 1e-6:
            whole.append(Interval(at, start, ""))
        else:
            start = at
        whole.append(Interval(start, end, unit.label))
        at = end
    if seconds - at >= 1e-6 or not whole:
        whole.append(Interval(at, seconds, ""))
    return whole
