"""What kaldiio, ESPnet and NeMo read from a folder or a manifest."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path

import kaldiio
import numpy as np
from kaldiio.matio import SegmentsExtractor


def _float32(array: np.ndarray) -> np.ndarray:
    scale = {"i": np.iinfo(array.dtype).max + 1 if array.dtype.kind == "i" else 1}
    return (array / scale.get(array.dtype.kind, 1)).astype(np.float32)


class KaldiReference:
    """kaldiio and ESPnet's readers on a folder."""

    def __init__(self, folder: Path) -> None:
        from espnet2.fileio.read_text import read_2columns_text
        from espnet2.fileio.sound_scp import SoundScpReader

        self.texts = read_2columns_text(folder / "text")
        self.plain = SoundScpReader(str(folder / "wav.scp"), dtype="float32")
        self.kaldi = kaldiio.load_scp(str(folder / "wav.scp"))
        self.segments = None
        if (folder / "segments").exists():
            self.segments = SegmentsExtractor(
                str(folder / "wav.scp"), segments=str(folder / "segments")
            )
            self.segments.wav_loader = self  # the recordings as read below
        self.ids = list(self.kaldi if self.segments is None else self.segments)

    def __getitem__(self, recording: str) -> tuple[int, np.ndarray]:
        """(rate, samples) as every one of the readers that can read it gives it."""
        from espnet2.fileio.sound_scp import soundfile_read
        from kaldiio.utils import open_like_kaldi

        where, found = self.plain.data[recording], []
        if where.endswith("|"):  # as ESPnet's format_wav_scp.py reads it
            with open_like_kaldi(where, "rb") as stream:
                array, rate = soundfile_read([io.BytesIO(stream.read())], dtype="float32")
            found.append((rate, array))
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rate, array = self.kaldi[recording]
            if array.dtype != np.uint8:  # kaldiio leaves those as they are, around 128
                found.append((rate, _float32(array)))
        if os.path.isfile(where):
            found.append(self.plain[recording])
        first = found[0]
        for rate, array in found[1:]:
            assert rate == first[0] and np.array_equal(array, first[1]), where
        return first

    def read(self, key: str) -> tuple[int, np.ndarray]:
        return self[key] if self.segments is None else self.segments[key]

    def text(self, key: str) -> str:
        return self.texts[key]


class NemoReference:
    """NeMo's own manifest reader and its loader of audio."""

    def __init__(self, folder: Path) -> None:
        from nemo.collections.common.parts.preprocessing.collections import ASRAudioText

        manifest = str(folder / "manifest.json")
        self.entries = list(ASRAudioText(manifest, parser=lambda text: [0]))
        self.ids = list(range(len(self.entries)))

    def read(self, key: int) -> tuple[int, np.ndarray]:
        from nemo.collections.asr.parts.preprocessing.segment import AudioSegment

        entry = self.entries[key]
        audio = AudioSegment.from_file(
            entry.audio_file, offset=entry.offset or 0, duration=entry.duration
        )
        return audio.sample_rate, audio.samples

    def text(self, key: int) -> str:
        return str(self.entries[key].text_raw)
