"""Decides who says what: speakers and sentences of each split, before any audio exists."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from nas_encoder.errors import DataError
from tools.synth import english, mandarin
from tools.synth.audio import Conditions
from tools.synth.espeak import Voice
from tools.synth.layouts.base import Layout, Split, Utterance
from tools.synth.voices import Speaker, draw_speakers

GENERATOR_VERSION = 1
"""Raised whenever the same arguments would give other audio or text."""

DRAWERS: dict[str, Callable[[random.Random], tuple[str, ...]]] = {
    "en": english.draw_sentence,
    "zh": mandarin.draw_sentence,
}


@dataclass(frozen=True)
class Request:
    """Everything that determines a corpus.

    Attributes:
        layout: Name of the folder layout.
        utterances: Number of utterances in train, dev and test.
        speakers: Number of speakers in train, dev and test.
        seed: Seed of all randomness.
        rates: Slowest and fastest speaker in words a minute.
        snr: Range of the signal-to-noise ratio in dB, None for no added noise.
        reverb: Whether rooms reverberate.
        subsets: The layout's folder names for train, dev and test, None for its own choice.
        test_other: Utterances in LibriSpeech's second, noisy test set; 0 for none.
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

    def to_dict(self) -> dict[str, Any]:
        """Returns the request in plain types, equal for equal corpora."""
        fields = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        return {"generator_version": GENERATOR_VERSION, **fields}

    @property
    def conditions(self) -> Conditions:
        """How the recordings are made."""
        return Conditions(self.snr, self.reverb)

    def problems(self) -> list[str]:
        """Lists every value that breaks a rule, empty where all is well."""
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
            found.append(
                f"--snr: -20 <= LO <= HI <= 80 must hold, got {self.snr[0]:g} {self.snr[1]:g}"
            )
        if not 0 <= self.seed < 2**63:
            found.append(f"--seed: must be between 0 and 2**63 - 1, got {self.seed}")
        if self.test_other < 0:
            found.append(f"--test-other: must not be negative, got {self.test_other}")
        return found


@dataclass(frozen=True)
class Plan:
    """A corpus before it is spoken.

    Attributes:
        splits: In the order train, dev, test and any further test set.
        speakers: Of all splits, in the order of the splits.
        utterances: Of all splits, in the order of the splits.
    """

    splits: tuple[Split, ...]
    speakers: tuple[Speaker, ...]
    utterances: tuple[Utterance, ...]


def make_plan(request: Request, layout: Layout) -> Plan:
    """Draws speakers and sentences.

    No speaker, espeak variant (except in a second test set) or sentence occurs in two
    splits. Test is drawn first, then dev, then train, so that the test set of a seed stays
    the same whatever the size of the training set.

    Args:
        request: What is wanted.
        layout: The folder layout that it names.

    Returns:
        The plan, which depends on the request alone.

    Raises:
        DataError: Values out of range, more speakers than the layout can name, or more
            sentences than the grammar has.
    """
    problems = request.problems() + layout.problems(request)
    if problems:
        raise DataError("corpus arguments", problems)
    splits = layout.splits(request)
    seen: set[tuple[str, ...]] = set()
    voices: set[Voice] = set()
    used: Counter[tuple[str, str]] = Counter()
    speakers: dict[str, list[Speaker]] = {}
    utterances: dict[str, list[Utterance]] = {}
    order = ("test", "dev", "other", "train")
    for split in sorted(splits, key=lambda split: order.index(split.kind)):
        speakers[split.name] = draw_speakers(
            layout.speaker_names(split, random.Random(f"{request.seed}/names/{split.kind}")),
            split=split.name,
            pool_of="test" if split.kind == "other" else split.kind,
            accents=layout.accents,
            rates=request.rates,
            seed=request.seed,
            echo=layout.echo,
            taken=voices,
            used=used,
        )
        draw = _new_sentences(layout.language, f"{request.seed}/sentences/{split.kind}", seen)
        utterances[split.name] = layout.utterances(split, speakers[split.name], draw)
    return Plan(
        tuple(splits),
        tuple(speaker for split in splits for speaker in speakers[split.name]),
        tuple(utterance for split in splits for utterance in utterances[split.name]),
    )


def _new_sentences(
    language: str, seed: str, seen: set[tuple[str, ...]]
) -> Callable[[], tuple[str, ...]]:
    """Returns a function that draws a sentence never drawn before."""
    rng = random.Random(seed)

    def draw() -> tuple[str, ...]:
        for _ in range(2000):
            words = DRAWERS[language](rng)
            if words not in seen:
                seen.add(words)
                return words
        raise DataError(
            "corpus arguments",
            [f"the grammar has no further sentence after {len(seen)}; ask for fewer utterances"],
        )

    return draw
