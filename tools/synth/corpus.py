"""The request for a corpus and what it consists of, before any audio exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nas_encoder.common.documents import plain
from tools.synth.audio import Conditions
from tools.synth.voices import Speaker

GENERATOR_VERSION = 1
"""Raised whenever the same arguments would give other audio or text."""


@dataclass(frozen=True)
class Request:
    """Everything that determines a corpus.

    Attributes:
        layout: Name of the folder layout.
        utterances: Number of utterances in train, dev and test.
        speakers: Number of speakers in train, dev and test.
        seed: Seed of all randomness.
        rates: Slowest and fastest speaker in words per minute.
        snr: Range of the signal-to-noise ratio in dB, None for no added noise.
        reverb: Whether rooms reverberate.
        subsets: The layout's folder names for train, dev and test, None for its own choice.
        test_other: Utterances in LibriSpeech's second, noisy test set; 0 for none.
        more: Names and utterances of LibriSpeech's further subsets.
    """

    layout: str
    utterances: tuple[int, int, int]
    speakers: tuple[int, int, int]
    seed: int
    rates: tuple[int, int]
    snr: tuple[float, float] | None = None
    reverb: bool = False
    subsets: tuple[str, str, str] | None = None
    test_other: int = 0
    more: tuple[tuple[str, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the request in plain types, equal for equal corpora."""
        request = {"generator_version": GENERATOR_VERSION, **plain(self)}
        if not self.more:  # corpora from before there were any stay the same
            del request["more"]
        return request

    def problems(self) -> list[str]:
        """Return every value that breaks a rule."""
        found = []
        for name, count, speakers in zip(
            ("train", "dev", "test"), self.utterances, self.speakers, strict=True
        ):
            if count < 1:
                found.append(f"--{name}: must be at least 1, got {count}")
            if speakers < 1:
                found.append(f"--speakers: must be at least 1 for {name}, got {speakers}")
            elif count < speakers:
                found.append(f"--{name}: {count} utterances are fewer than its {speakers} speakers")
        slow, fast = self.rates
        if not 80 <= slow <= fast <= 300:
            found.append(f"--rate: 80 <= LO <= HI <= 300 must hold, got {slow} {fast}")
        if self.snr is not None and not -20 <= self.snr[0] <= self.snr[1] <= 80:
            low, high = self.snr
            found.append(f"--snr: -20 <= LO <= HI <= 80 must hold, got {low:g} {high:g}")
        if not 0 <= self.seed < 2**63:
            found.append(f"--seed: must be between 0 and 2**63 - 1, got {self.seed}")
        if self.test_other < 0:
            found.append(f"--test-other: must not be negative, got {self.test_other}")
        found += [
            f"--more: must be at least 1, got {count} for {name}"
            for name, count in self.more
            if count < 1
        ]
        return found


@dataclass(frozen=True)
class Split:
    """A part of the corpus.

    Attributes:
        kind: ``train``, ``dev``, ``test``, or ``other`` for a second test set.
        name: The layout's own name, e.g. ``dev-clean``.
        count: Number of utterances.
        speakers: Number of speakers.
        conditions: Noise and reverberation of its recordings.
        first: Place of its first speaker among those of its kind; above 0, it is a further split.
    """

    kind: str
    name: str
    count: int
    speakers: int
    conditions: Conditions
    first: int = 0


@dataclass(frozen=True)
class Utterance:
    """One sentence by one speaker.

    Attributes:
        id: The layout's name for it, unique in the corpus.
        split: Name of its split.
        speaker: Who says it.
        words: The sentence.
        audio: Path of the audio file below the corpus folder, with ``/``.
    """

    id: str
    split: str
    speaker: Speaker
    words: tuple[str, ...]
    audio: str


@dataclass(frozen=True)
class Plan:
    """A corpus before it is spoken, in the order of its splits: train, dev, test, other."""

    splits: tuple[Split, ...]
    speakers: tuple[Speaker, ...]
    utterances: tuple[Utterance, ...]
