"""Turns corpora on disk into lhotse manifests, ESPnet data folders and NeMo manifests.

A corpus is read by one function and has one line in CORPORA.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lhotse import CutSet, RecordingSet, SupervisionSet

from nas_encoder.common.documents import write_lines
from nas_encoder.data.corpora.aishell import read_aishell
from nas_encoder.data.corpora.counts import CountReport, compare
from nas_encoder.data.corpora.librispeech import read_librispeech
from nas_encoder.data.corpora.lm_text import write_lm_text
from nas_encoder.data.corpora.options import PrepareOptions
from nas_encoder.data.corpora.reading import Reader, Reading, Split
from nas_encoder.data.corpora.timit import read_timit
from nas_encoder.data.export import write_espnet_dir, write_nemo_manifest
from nas_encoder.data.manifests import PREPARED, open_cuts, speaker_of
from nas_encoder.data.prompts import read_prompts
from nas_encoder.data.resampling import write_resampled
from nas_encoder.errors import ConfigError, DataError
from nas_encoder.registry import Registry

logger = logging.getLogger(__name__)
WRITTEN = ("lhotse", "espnet", "nemo")
MARK = ".nas_encoder"  # in a folder that these are written to, from the beginning on
_NOTICE = "Written by nas-encoder data prepare, which may replace it."
_BYTES = 1.2  # of a sample written as flac; speech needs about that, noise 2


@dataclass(frozen=True)
class SplitSummary:
    """Size of one split."""

    utterances: int
    hours: float
    speakers: int


@dataclass(frozen=True)
class PreparedCorpus:
    """What :func:`prepare_corpus` wrote.

    Attributes:
        corpus: Its name in CORPORA.
        output_dir: Folder with ``lhotse/SPLIT/``, ``espnet/SPLIT/`` and ``nemo/SPLIT.json``, and
            ``audio/SPLIT/`` if audio was written.
        splits: Size of each split.
        counts: How the corpus compares with the published one.
        lm_lines: Lines of text for language models, if they were asked for.
        options: What utterances and texts were made by, :meth:`PrepareOptions.choices`.
    """

    corpus: str
    output_dir: Path
    splits: dict[str, SplitSummary]
    counts: CountReport
    lm_lines: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {**asdict(self), "output_dir": str(self.output_dir)}


def prepare_corpus(
    corpus: str,
    corpus_dir: str | Path,
    output_dir: str | Path,
    options: PrepareOptions | None = None,
) -> PreparedCorpus:
    """Read a corpus and write it for lhotse, ESPnet and NeMo.

    Nothing is written into the corpus's own folder. A run that was stopped, for want of disk too,
    is repeated with the same arguments; audio that it has written again is kept.

    Args:
        corpus: ``aishell``, ``librispeech``, ``prompts`` or ``timit``.
        corpus_dir: Where it was unpacked.
        output_dir: Receives ``lhotse/{split}/{recordings,supervisions,cuts}.jsonl.gz``,
            ``espnet/{split}/`` and ``nemo/{split}.json``, then ``prepared.json``.
        options: See :class:`PrepareOptions`.

    Raises:
        RegistryError: Unknown corpus.
        ConfigError: Options are out of range.
        DataError: The folder does not have the corpus's layout, or not all of the corpus; audio or
            texts are unusable; the output folder holds the like from somewhere else, cannot be
            written, or has too little room.
    """
    options = options or PrepareOptions()
    reader = CORPORA[corpus]
    problems = options.problems(corpus)
    if problems:
        raise ConfigError(f"preparing {corpus}", problems)
    # Absolute, but with links kept: a user's /data link outlives the disk that it points to.
    root, output = Path(os.path.abspath(corpus_dir)), Path(output_dir)
    if not root.is_dir():
        raise DataError(f"corpus {corpus}", [f"{corpus_dir}: no such folder"])
    reading = reader(root, options)
    counts = compare(corpus, root, reading, options.partial)
    _require_room(output, reading.splits.values(), options.sampling_rate)
    request = f"{corpus} {root} {options.sampling_rate or ''}"
    splits, lm_lines = {}, None
    with _writing(output):
        _tell_what_is_replaced(output, corpus, options)
        same = _take(output, request, options.sampling_rate is not None)
        for split, (recordings, supervisions) in reading.splits.items():
            splits[split] = _write_split(output, split, recordings, supervisions, options, same)
        if options.lm_text is not None:
            whole = counts.source == "published"
            lm_lines = write_lm_text(options.lm_text, output / "lm" / "text", whole)
        chosen = options.choices(corpus)
        prepared = PreparedCorpus(corpus, output, splits, counts, lm_lines, chosen)
        write_lines(output / PREPARED, [json.dumps(prepared.to_dict(), indent=2)])
    return prepared


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turn failures to write, also those inside libraries, into ours."""
    try:
        yield
    except OSError as error:
        again = "run the same command again"
        remedy = f"nothing there counts as prepared; {again}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"{_free(output) / 1e9:.1f} GB are free; make room and {again}"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            remedy = "choose another output folder"
        place = f"{error.filename}: " if error.filename else ""
        problem = f"cannot be written: {place}{error.strerror or error}; {remedy}"
        raise DataError(f"folder {output}", [problem]) from error


def _free(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    folder = Path(os.path.abspath(folder))
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _require_room(output: Path, splits: Iterable[Split], rate: int | None) -> None:
    if rate is None:
        return
    seconds = sum(recording.duration for recordings, _ in splits for recording in recordings)
    there = sum(path.stat().st_size for path in (output / "audio").glob("*/*.flac"))
    need, free = seconds * rate * _BYTES - there, _free(output)
    if need > free:
        problem = f"audio at {rate} Hz needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} are free"
        raise DataError(f"folder {output}", [problem])


def _tell_what_is_replaced(output: Path, corpus: str, options: PrepareOptions) -> None:
    """Warn if the folder holds another corpus, or other texts or utterances of this one."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        held = json.loads((output / PREPARED).read_text(encoding="utf-8"))
        known = held if isinstance(held, dict) else {}
        before = {"corpus": known.get("corpus"), **known.get("options", {})}
        now = {"corpus": corpus, **options.choices(corpus)}
        # Folders of earlier versions do not say all.
        names = {**before, **now} if "options" in known else before
        changed = [name for name in names if before.get(name) != now.get(name)]
        if changed:
            was = ", ".join(f"{name} {before.get(name, 'as usual')}" for name in changed)
            became = ", ".join(f"{name} {now.get(name, 'as usual')}" for name in changed)
            logger.warning("%s held data with %s; replaced by %s", output, was, became)


def _take(output: Path, request: str, audio: bool) -> bool:
    """Mark a folder as one of ours, unless it holds files that others have written.

    Empty folders may be there: workflows make those of what they expect.

    Returns:
        Whether it was written by the same request before, perhaps in part.
    """
    mark = output / MARK
    if not (output / PREPARED).exists() and not mark.exists():
        written = (*WRITTEN, "audio") if audio else WRITTEN
        there = [f"{name}/" for name in written if _has_files(output / name)]
        if there:
            raise DataError(
                f"folder {output}",
                [f"holds {', '.join(there)} that this did not write; choose another folder"],
            )
    lines = [_NOTICE, request]
    same = mark.is_file() and mark.read_text(encoding="utf-8").splitlines() == lines
    output.mkdir(parents=True, exist_ok=True)
    write_lines(mark, lines)
    (output / PREPARED).unlink(missing_ok=True)
    return same


def _has_files(folder: Path) -> bool:
    return any(path.is_file() for path in (folder, *folder.rglob("*")))


def _write_split(
    output: Path,
    split: str,
    recordings: RecordingSet,
    supervisions: SupervisionSet,
    options: PrepareOptions,
    same: bool,
) -> SplitSummary:
    supervisions = SupervisionSet.from_segments(sorted(supervisions, key=lambda s: s.id))
    by_id = {recording.id: recording for recording in recordings}
    recordings = RecordingSet.from_recordings(by_id[s.recording_id] for s in supervisions)
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
    cuts = open_cuts(CutSet.from_cuts(cut.with_id(cut.supervisions[0].id) for cut in cuts))
    if options.sampling_rate is not None:
        folder = output / "audio" / split
        cuts = write_resampled(cuts, folder, options.sampling_rate, jobs=options.jobs, keep=same)
        recordings = RecordingSet.from_recordings(cut.recording for cut in cuts)
        supervisions = SupervisionSet.from_segments(cut.supervisions[0] for cut in cuts)
    folder = output / "lhotse" / split
    contents = {"recordings": recordings, "supervisions": supervisions, "cuts": cuts}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        partial = folder / f".partial-{name}.jsonl.gz"  # lhotse infers the format from the suffix
        content.to_file(partial)
        partial.replace(folder / f"{name}.jsonl.gz")
    write_espnet_dir(cuts, output / "espnet" / split)
    write_nemo_manifest(cuts, output / "nemo" / f"{split}.json")
    return SplitSummary(
        utterances=len(cuts),
        hours=round(sum(cut.duration for cut in cuts) / 3600, 6),
        speakers=len({speaker_of(cut) for cut in cuts}),
    )


def _read_prompts(root: Path, options: PrepareOptions) -> Reading:
    return Reading(read_prompts(root))


CORPORA: Registry[Reader] = Registry("corpus")
CORPORA.add("aishell", read_aishell)
CORPORA.add("librispeech", read_librispeech)
CORPORA.add("prompts", _read_prompts)
CORPORA.add("timit", read_timit)
