"""Writes utterances again at another sampling rate."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import CutSet, Recording
from lhotse.utils import fastcopy
from tqdm import tqdm

_FEW = 2000  # utterances up to which there is no bar


def write_resampled(
    cuts: CutSet, folder: Path, rate: int, *, jobs: int = 1, keep: bool = False
) -> CutSet:
    """Write each cut as ``FOLDER/ID.flac`` of 16 bits, resampled by lhotse to ``rate`` Hz.

    Toolkits differ in what they do with audio of another rate than their features': NeMo resamples
    it, ESPnet's trainer takes its samples as they are.

    Args:
        cuts: Mono cuts.
        folder: Where files go; each appears there when it is whole.
        rate: Hz.
        jobs: Threads.
        keep: Whether a file that is there, newer than its source and as long as it should be, is
            taken for this one: an interrupted run goes on.

    Returns:
        The cuts with these files as their recordings, all else as it was.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = list(cuts)
    with ThreadPoolExecutor(jobs) as pool:
        written = pool.map(lambda cut: _written(cut, folder, rate, keep), listed)
        bar = tqdm(
            written, total=len(listed), desc=folder.name, unit="utt", disable=len(listed) < _FEW
        )
        try:
            return CutSet.from_cuts(list(bar))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _written(cut: Any, folder: Path, rate: int, keep: bool) -> Any:
    path = folder / f"{cut.id}.flac"
    wanted = cut.resample(rate)
    if not (keep and _is_whole(path, cut, wanted.num_samples, rate)):
        samples = wanted.load_audio()[0]  # (N,)
        partial = folder / f".partial-{cut.id}.flac"
        # Band-limited interpolation may rise above full scale where the original touched it.
        _write(partial, np.clip(samples, -1, 1), rate)
        partial.replace(path)
    recording = Recording.from_file(path, recording_id=cut.id)
    said = [
        fastcopy(one, recording_id=cut.id, start=0.0, duration=recording.duration)
        for one in cut.supervisions
    ]
    return fastcopy(
        cut, start=0.0, duration=recording.duration, recording=recording, supervisions=said
    )


def _write(path: Path, samples: Any, rate: int) -> None:
    """Write samples (N,), or raise why they could not be: libsndfile does not say."""
    try:
        soundfile.write(path, samples, rate, subtype="PCM_16")
        # On a full disk, what it holds back until the end is lost without an error.
        if soundfile.info(path).frames == len(samples):
            return
        said = "the file is cut short"
    except soundfile.LibsndfileError as error:
        said = str(error)
    try:
        with path.open("ab") as file:
            file.write(bytes(1 << 16))
    finally:
        path.unlink(missing_ok=True)
    raise OSError(errno.EIO, f"libsndfile failed: {said}", str(path))


def _is_whole(path: Path, cut: Any, samples: int, rate: int) -> bool:
    try:
        header = soundfile.info(path)
        sources = [s.source for s in cut.recording.sources if s.type == "file"]
        newest = max((os.stat(source).st_mtime_ns for source in sources), default=0)
        newer = path.stat().st_mtime_ns >= newest
    except (OSError, soundfile.LibsndfileError):
        return False
    return newer and (header.samplerate, header.frames) == (rate, samples)
