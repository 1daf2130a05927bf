"""Turns corpora on disk into lhotse manifests, ESPnet data folders and NeMo manifests.

lhotse's ``prepare_*`` recipes do the reading, where there is one; this module adds splits,
customary exclusions and checks. A corpus is one function and one line in CORPORA.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lhotse
from lhotse import CutSet, RecordingSet, SupervisionSet
from lhotse.recipes import prepare_aishell, prepare_librispeech, prepare_timit
from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH
from lhotse.utils import fastcopy

from nas_encoder.common.documents import write_lines
from nas_encoder.data.export import write_espnet_dir, write_nemo_manifest
from nas_encoder.data.manifests import PREPARED, open_cuts, speaker_of
from nas_encoder.data.prompts import read_prompts
from nas_encoder.data.resampling import write_resampled
from nas_encoder.errors import ConfigError, DataError
from nas_encoder.registry import Registry

logger = logging.getLogger(__name__)

WRITTEN = ("lhotse", "espnet", "nemo")
MARK = ".nas_encoder"  # in a folder that these are written to, from the beginning on

Manifests = Mapping[str, Mapping[str, Any]]  # part -> {"recordings": ..., "supervisions": ...}


@dataclass(frozen=True)
class PrepareOptions:
    """How a corpus is prepared.

    Attributes:
        jobs: Processes or threads for lhotse's recipe, if it takes any.
        phones: TIMIT's phone set: 60 (as transcribed), 48 or 39 (Lee and Hon 1989).
        keep_sa: TIMIT: keep the two SA sentences that every speaker reads; by custom they are
            left out, because training and test would share them.
        subsets: LibriSpeech: split -> subsets, instead of the default (train = all train-*,
            dev = all dev-*, test = all test-*).
        sampling_rate: Hz at which all audio is written again, to ``audio/{split}/``. None: the
            manifests name the corpus's own files.
    """

    jobs: int = 1
    phones: int = 48
    keep_sa: bool = False
    subsets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sampling_rate: int | None = None


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
    """

    corpus: str
    output_dir: Path
    splits: dict[str, SplitSummary]

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {**asdict(self), "output_dir": str(self.output_dir)}


def prepare_corpus(
    corpus: str,
    corpus_dir: str | Path,
    output_dir: str | Path,
    options: PrepareOptions | None = None,
) -> PreparedCorpus:
    """Read a corpus with lhotse's recipe and write it for lhotse, ESPnet and NeMo.

    Args:
        corpus: ``aishell``, ``librispeech``, ``prompts`` or ``timit``.
        corpus_dir: Where it was unpacked.
        output_dir: Receives ``lhotse/{split}/{recordings,supervisions,cuts}.jsonl.gz``,
            ``espnet/{split}/`` and ``nemo/{split}.json``, then ``prepared.json``.
        options: See :class:`PrepareOptions`.

    Raises:
        RegistryError: Unknown corpus.
        ConfigError: Options are out of range.
        DataError: The folder does not have the corpus's layout; audio or texts are unusable; the
            output folder holds the like from somewhere else.
    """
    options = options or PrepareOptions()
    reader = CORPORA[corpus]
    problems = _option_problems(options)
    if problems:
        raise ConfigError(f"preparing {corpus}", problems)
    # Absolute, but with links kept: a user's /data link outlives the disk that it points to.
    root, output = Path(os.path.abspath(corpus_dir)), Path(output_dir)
    if not root.is_dir():
        raise DataError(f"corpus {corpus}", [f"{corpus_dir}: no such folder"])
    read = reader(root, options)
    _take(output, WRITTEN if options.sampling_rate is None else (*WRITTEN, "audio"))
    splits = {}
    for split, (recordings, supervisions) in read.items():
        splits[split] = _write_split(output, split, recordings, supervisions, options.sampling_rate)
    prepared = PreparedCorpus(corpus, output, splits)
    write_lines(output / PREPARED, [json.dumps(prepared.to_dict(), indent=2)])
    return prepared


def _take(output: Path, written: Iterable[str]) -> None:
    """Mark a folder as one of ours, unless it holds files that others have written.

    Empty folders may be there: workflows make those of what they expect.
    """
    if not (output / PREPARED).exists() and not (output / MARK).exists():
        there = [f"{name}/" for name in written if _has_files(output / name)]
        if there:
            raise DataError(
                f"folder {output}",
                [f"holds {', '.join(there)} that this did not write; choose another folder"],
            )
    output.mkdir(parents=True, exist_ok=True)
    write_lines(output / MARK, ["Written by nas-encoder data prepare, which may replace it."])
    (output / PREPARED).unlink(missing_ok=True)


def _has_files(folder: Path) -> bool:
    return any(path.is_file() for path in (folder, *folder.rglob("*")))


def _option_problems(options: PrepareOptions) -> list[str]:
    problems = []
    if options.jobs < 1:
        problems.append(f"jobs: must be at least 1, got {options.jobs}")
    if options.phones not in (60, 48, 39):
        problems.append(f"phones: must be 60, 48 or 39, got {options.phones}")
    if options.subsets and not options.subsets.get("train"):
        problems.append("subsets: a split 'train' is needed")
    if options.sampling_rate is not None and options.sampling_rate < 1:
        problems.append(f"sampling_rate: must be at least 1 Hz, got {options.sampling_rate}")
    return problems


def _write_split(
    output: Path,
    split: str,
    recordings: RecordingSet,
    supervisions: SupervisionSet,
    sampling_rate: int | None,
) -> SplitSummary:
    # The recipes list files in file system order, which differs between machines.
    supervisions = SupervisionSet.from_segments(sorted(supervisions, key=lambda s: s.id))
    by_id = {recording.id: recording for recording in recordings}
    recordings = RecordingSet.from_recordings(by_id[s.recording_id] for s in supervisions)
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
    cuts = open_cuts(CutSet.from_cuts(cut.with_id(cut.supervisions[0].id) for cut in cuts))
    if sampling_rate is not None:
        cuts = write_resampled(cuts, output / "audio" / split, sampling_rate)
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


# -- the corpora --------------------------------------------------------------------------------

Split = tuple[RecordingSet, SupervisionSet]
Reader = Callable[[Path, PrepareOptions], dict[str, Split]]


def _read_aishell(root: Path, options: PrepareOptions) -> dict[str, Split]:
    """AISHELL-1: ``data_aishell/{wav/{train,dev,test}/SPEAKER/*.wav,transcript/...}``."""
    if root.name == "data_aishell":
        root = root.parent
    data = root / "data_aishell"
    _require(
        "aishell",
        [data / "transcript" / "aishell_transcript_v0.8.txt"],
        {part: (data / "wav" / part, "**/*.wav") for part in ("train", "dev", "test")},
    )
    with _recipe("aishell"):
        manifests = prepare_aishell(root)
    for part in ("train", "dev", "test"):
        found = sum(1 for _ in (data / "wav" / part).rglob("*.wav"))
        _report_skipped("aishell", part, found, manifests[part]["supervisions"])
    # Hanzi are written without spaces: lhotse's recipe removes those of the transcript.
    return {part: _pair(manifests, [part]) for part in ("train", "dev", "test")}


def _read_librispeech(root: Path, options: PrepareOptions) -> dict[str, Split]:
    """LibriSpeech: ``SUBSET/READER/CHAPTER/{*.flac,*.trans.txt}``; subsets present are found."""
    known = (*LIBRISPEECH, *MINI_LIBRISPEECH)
    if not any((root / name).is_dir() for name in known) and (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    present = sorted(name for name in known if (root / name).is_dir())
    if not present:
        raise DataError(
            "corpus librispeech", [f"{root}: none of the subsets {', '.join(sorted(known))} here"]
        )
    splits = _librispeech_splits(present, options.subsets)
    wanted = sorted({name for names in splits.values() for name in names})
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(
            "corpus librispeech",
            [f"{root}: no subset '{name}'; present: {', '.join(present)}" for name in missing],
        )
    _require("librispeech", [], {name: (root / name, "**/*.trans.txt") for name in wanted})
    with _recipe("librispeech"):
        manifests = prepare_librispeech(root, dataset_parts=wanted, num_jobs=options.jobs)
    for name in wanted:
        transcripts = [path.read_bytes() for path in (root / name).rglob("*.trans.txt")]
        lines = sum(bool(line.strip()) for text in transcripts for line in text.splitlines())
        _report_skipped("librispeech", name, lines, manifests[name]["supervisions"])
    return {split: _pair(manifests, names) for split, names in splits.items()}


def _librispeech_splits(
    present: Sequence[str], asked: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
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


def _read_timit(root: Path, options: PrepareOptions) -> dict[str, Split]:
    """TIMIT: ``[data/]{TRAIN,TEST}/DR?/SPEAKER/*.{WAV,PHN,WRD,TXT}``; texts become phones."""
    base = next((p for p in (root, root / "data", root / "TIMIT") if (p / "TRAIN").is_dir()), root)
    pattern = "*/*/*.WAV"
    _require("timit", [], {part: (base / part, pattern) for part in ("TRAIN", "TEST")})
    with tempfile.TemporaryDirectory() as scratch:
        # The recipe expects a folder 'data', which only some copies of the corpus have.
        link = Path(scratch) / "data"
        link.symlink_to(base, target_is_directory=True)
        with _recipe("timit"):
            manifests = prepare_timit(scratch, num_phones=options.phones, num_jobs=options.jobs)
    found = sum(1 for _ in (base / "TRAIN").glob(pattern))
    _report_skipped("timit", "TRAIN", found, manifests["TRAIN"]["supervisions"])
    splits = {}
    for split in ("train", "dev", "test"):
        recordings, supervisions = _pair(manifests, [split.upper()])
        kept = [
            _phone_text(segment)
            for segment in supervisions
            if options.keep_sa or not segment.id.rsplit("-", 1)[-1].upper().startswith("SA")
        ]
        if not kept:
            raise DataError("corpus timit", [f"split {split}: nothing but SA sentences"])
        moved = [_moved(recording, str(link), str(base)) for recording in recordings]
        splits[split] = (
            RecordingSet.from_recordings(moved),
            SupervisionSet.from_segments(kept),
        )
    return splits


def _read_prompts(root: Path, options: PrepareOptions) -> dict[str, Split]:
    """Asterisk's prompts: ``usr/share/{asterisk/sounds/VOICE,doc/asterisk-core-sounds-*}``."""
    return read_prompts(root)


def _phone_text(segment: Any) -> Any:
    """Replace the words of a text by the aligned phones; keep the words as custom data."""
    phones = [item.symbol for item in segment.alignment["phone"] if item.symbol]
    custom = {**(segment.custom or {}), "words": segment.text}
    return fastcopy(segment, text=" ".join(phones), custom=custom)


def _moved(recording: Any, old: str, new: str) -> Any:
    moved = [fastcopy(s, source=s.source.replace(old, new, 1)) for s in recording.sources]
    return fastcopy(recording, sources=moved)


def _require(corpus: str, files: Iterable[Path], folders: Mapping[str, tuple[Path, str]]) -> None:
    """Check a corpus's layout before the recipe fails deep inside."""
    problems = [f"{path}: no such file" for path in files if not path.is_file()]
    for part, (folder, pattern) in folders.items():
        if not folder.is_dir():
            problems.append(f"{folder}: no such folder (part '{part}')")
        elif next(folder.glob(pattern), None) is None:
            problems.append(f"{folder}: holds no {pattern} (part '{part}')")
    if problems:
        layout = (CORPORA[corpus].__doc__ or "").splitlines()[0]
        raise DataError(f"corpus {corpus}", [*problems, f"expected layout: {layout}"])


def _pair(manifests: Manifests, parts: Sequence[str]) -> Split:
    recordings = [r for part in parts for r in manifests[part]["recordings"]]
    supervisions = [s for part in parts for s in manifests[part]["supervisions"]]
    return RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions)


def _report_skipped(corpus: str, part: str, found: int, supervisions: SupervisionSet) -> None:
    missing = found - len(supervisions)
    if missing > 0:
        text = "%s: %d of %d utterances of '%s' lack audio or transcript and are left out"
        logger.warning(text, corpus, missing, found, part)


@contextlib.contextmanager
def _recipe(corpus: str) -> Iterator[None]:
    """Keep a recipe's prints off our standard output, and turn its failures into ours."""
    logger.info("%s: reading with lhotse %s", corpus, lhotse.__version__)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    # The recipes fail by assertion or index error where a corpus is malformed.
    except Exception as error:
        raise DataError(
            f"corpus {corpus}",
            [f"lhotse's recipe cannot read it ({type(error).__name__}: {error})"],
        ) from error


CORPORA: Registry[Reader] = Registry("corpus")
CORPORA.add("aishell", _read_aishell)
CORPORA.add("librispeech", _read_librispeech)
CORPORA.add("prompts", _read_prompts)
CORPORA.add("timit", _read_timit)
