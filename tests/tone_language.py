"""A language of tones.

Each letter is a tone of its own frequency, a space is a longer pause; so what a model should say,
and when, is known exactly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RATE = 16000
FREQUENCIES = {"a": 400.0, "b": 900.0, "c": 1800.0, "d": 3600.0}
TONE, GAP, PAUSE = 0.16, 0.08, 0.32  # seconds


def text_of(generator: random.Random, words: int) -> str:
    """Return words of two or three letters; no letter follows itself."""
    found, last = [], ""
    for _ in range(words):
        word = ""
        for _ in range(generator.choice((2, 3))):
            last = generator.choice([letter for letter in FREQUENCIES if letter != last])
            word += last
        found.append(word)
    return " ".join(found)


@dataclass
class Recording:
    """A text as tones, with silence before and after it."""

    text: str
    before: float = GAP  # seconds
    after: float = 0.0
    times: list[tuple[str, float, float]] = field(default_factory=list)  # letter, start, end (s)

    def samples(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the audio, and note when each letter sounds."""
        parts: list[Any] = [np.zeros(int(self.before * RATE))]
        self.times = []
        for letter in self.text:
            if letter == " ":
                parts.append(np.zeros(int((PAUSE - GAP) * RATE)))
                continue
            start = sum(map(len, parts)) / RATE
            self.times.append((letter, start, start + TONE))
            time = np.arange(int(TONE * RATE)) / RATE
            parts.append(0.3 * np.sin(2 * np.pi * FREQUENCIES[letter] * time))
            parts.append(np.zeros(int(GAP * RATE)))
        parts.append(np.zeros(int(self.after * RATE)))
        return np.concatenate(parts).astype(np.float32)
