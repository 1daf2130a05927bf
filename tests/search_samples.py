"""A small speech-like corpus for the tests of the search: each letter is a tone of its own."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
TONES = {"a": 400.0, "b": 900.0, "c": 1600.0, "d": 2700.0}  # Hz


def speak(text: str, rng: np.random.Generator, seconds: float = 1.0) -> np.ndarray:
    """Return samples (N,): for each letter a tone with harmonics, silence for a space."""
    size = round(seconds * RATE) // len(text)
    pieces = []
    for letter in text:
        time = np.arange(size) / RATE
        pitch = TONES.get(letter, 0.0) * rng.uniform(0.97, 1.03)
        tone = np.sin(2 * np.pi * pitch * time) + 0.3 * np.sin(4 * np.pi * pitch * time)
        pieces.append(0.3 * tone * np.hanning(size))
    samples = np.concatenate(pieces)
    return samples + 0.003 * rng.standard_normal(len(samples))


def tone_corpus(
    folder: Path,
    utterances: int = 24,
    *,
    seed: int = 0,
    seconds: float = 1.0,
    letters: str = "abcd",
) -> Path:
    """Write a Kaldi data folder; the same arguments give the same files."""
    chosen = random.Random(seed)
    rng = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True)
    lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for number in range(utterances):
        key = f"spk{seed}{number % 4}-u{number:03d}"
        # Every letter occurs in the first utterances, so that the token set is complete.
        text = "".join(chosen.choice(letters) for _ in range(5)) + letters[number % len(letters)]
        path = folder / "wav" / f"{key}.wav"
        length = seconds * chosen.uniform(0.8, 1.2)
        soundfile.write(path, speak(text, rng, length), RATE)
        lines["wav.scp"].append(f"{key} {path}")
        lines["text"].append(f"{key} {text}")
        lines["utt2spk"].append(f"{key} {key.split('-')[0]}")
    for name, content in lines.items():
        (folder / name).write_text("\n".join(sorted(content)) + "\n", encoding="utf-8")
    return folder
