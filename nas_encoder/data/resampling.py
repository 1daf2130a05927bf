"""Writes utterances again at another sampling rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import CutSet, Recording
from lhotse.utils import fastcopy


def write_resampled(cuts: CutSet, folder: Path, rate: int) -> CutSet:
    """Write each cut as ``FOLDER/ID.flac`` of 16 bits, resampled by lhotse to ``rate`` Hz.

    Toolkits differ in what they do with audio of another rate than their features': NeMo resamples
    it, ESPnet's trainer takes its samples as they are.

    Returns:
        The cuts with these files as their recordings, all else as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return CutSet.from_cuts(_written(cut, folder, rate) for cut in cuts)


def _written(cut: Any, folder: Path, rate: int) -> Any:
    path = folder / f"{cut.id}.flac"
    samples = cut.resample(rate).load_audio()[0]  # (N,)
    # Band-limited interpolation may rise above full scale where the original touched it.
    soundfile.write(path, np.clip(samples, -1, 1), rate, subtype="PCM_16")
    recording = Recording.from_file(path, recording_id=cut.id)
    said = [
        fastcopy(one, recording_id=cut.id, start=0.0, duration=recording.duration)
        for one in cut.supervisions
    ]
    return fastcopy(
        cut, start=0.0, duration=recording.duration, recording=recording, supervisions=said
    )
