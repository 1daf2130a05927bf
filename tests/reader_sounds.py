"""Sounds of every kind, whole and damaged, that random folders and manifests refer to."""

from __future__ import annotations

import random
from pathlib import Path

import kaldiio
import numpy as np
import soundfile


class Pool:
    """Sounds of every kind that cases refer to: name -> (path, whether it can be read whole)."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        noise = np.random.default_rng(rng.randrange(2**32))
        self.sound: dict[str, Path] = {}
        self.broken: dict[str, Path] = {}
        self.archived: dict[str, str] = {}
        self.stereo: dict[str, Path] = {}
        for number, (suffix, subtype, rate, options) in enumerate(
            [
                ("wav", "PCM_16", 16000, {}),
                ("wav", "PCM_16", 8000, {}),
                ("wav", "PCM_24", 16000, {}),
                ("wav", "PCM_U8", 16000, {}),
                ("wav", "FLOAT", 16000, {}),
                ("wav", "ULAW", 8000, {}),
                ("flac", "PCM_16", 16000, {}),
                ("flac", "PCM_24", 44100, {}),
                ("sph", "PCM_16", 16000, {"format": "NIST"}),
                ("aiff", "PCM_16", 16000, {}),
                ("ogg", "VORBIS", 16000, {}),
                ("mp3", "MPEG_LAYER_III", 16000, {}),
            ]
        ):
            samples = noise.uniform(-0.5, 0.5, int(noise.integers(1200, 4000)))
            path = folder / f"s{number}.{suffix}"
            soundfile.write(path, samples, rate, subtype=subtype, **options)
            self.sound[path.name] = path
            data = path.read_bytes()
            self.broken[path.name] = folder / f"cut-{path.name}"
            self.broken[path.name].write_bytes(data[: int(len(data) * rng.uniform(0.5, 0.97))])
            if suffix == "mp3":  # without its first frame, which holds the frame count
                with soundfile.SoundFile(
                    folder / "v.mp3", "w", rate, 1, format="MP3", bitrate_mode="VARIABLE"
                ) as file:
                    file.write(np.concatenate([samples] * 8 + [samples * 1e-4] * 8))
                data = (folder / "v.mp3").read_bytes()
                self.broken["v.mp3"] = folder / "cut-v.mp3"
                self.broken["v.mp3"].write_bytes(data[data.find(data[:2], 2) :])
            stereo = folder / f"stereo{number}.wav"
            soundfile.write(stereo, np.stack([samples, -samples], 1), rate)
            self.stereo[stereo.name] = stereo
        shorts = {
            f"k{i}": (16000, (noise.uniform(-9000, 9000, 1000 + 7 * i)).astype(np.int16))
            for i in range(4)
        }
        for name, options in (
            ("raw_wav", {}),
            ("raw_flac", {"write_function": "soundfile", "write_kwargs": {"format": "flac"}}),
            ("ext_wav", {"write_function": "soundfile"}),
        ):
            kaldiio.save_ark(f"{folder}/{name}.ark", shorts, scp=f"{folder}/{name}.scp", **options)
            for line in Path(f"{folder}/{name}.scp").read_text().splitlines():
                key, place = line.split(maxsplit=1)
                self.archived[f"{name}-{key}"] = place
        kaldiio.save_ark(f"{folder}/feats.ark", {"f": np.zeros((3, 4), np.float32)})
