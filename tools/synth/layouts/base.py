"""The interface of a folder layout."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from tools.synth.audio import SAMPLE_RATE, Recording
from tools.synth.corpus import Plan, Request, Split, Utterance
from tools.synth.espeak import Speech
from tools.synth.voices import Speaker

NOTICE = (
    "This corpus is SYNTHETIC. Its audio was made by the speech synthesiser espeak-ng from\n"
    "machine-written sentences. It copies the folder layout of a public corpus so that tools\n"
    "for that corpus can read it; it holds nothing of that corpus, and no result on it says\n"
    "anything about human speech.\n"
)


@dataclass(frozen=True)
class Written:
    """Facts about a written utterance.

    Attributes:
        tokens: The units that a CTC model would output, e.g. characters.
        halved: Phone boundaries that are not espeak's own; see :mod:`tools.synth.phones`.
    """

    tokens: Sequence[str]
    halved: int = 0


class Layout(ABC):
    """A folder layout. Methods define what differs between layouts; defaults are the rule."""

    name: str
    language: str
    accents: tuple[str, ...]
    rates: tuple[int, int]
    echo: bool = True

    def problems(self, request: Request) -> list[str]:
        """Return what this layout cannot satisfy of a request."""
        found = []
        if request.subsets is not None:
            found.append(f"--subsets: only for --layout librispeech, not {self.name}")
        if request.test_other:
            found.append(f"--test-other: only for --layout librispeech, not {self.name}")
        return found

    def splits(self, request: Request) -> list[Split]:
        """Return train, dev and test, then any other."""
        return [
            Split(kind, kind, count, speakers, request.conditions)
            for kind, count, speakers in zip(
                ("train", "dev", "test"), request.utterances, request.speakers, strict=True
            )
        ]

    @abstractmethod
    def speaker_names(self, split: Split, rng: random.Random) -> list[tuple[str, str]]:
        """Return name and gender (``F``/``M``) of each speaker in a split."""

    @abstractmethod
    def utterances(
        self, split: Split, speakers: list[Speaker], draw: Callable[[], tuple[str, ...]]
    ) -> list[Utterance]:
        """Give a split's speakers their sentences; each ``draw()`` returns a new one."""

    @abstractmethod
    def transcript(self, words: tuple[str, ...]) -> str:
        """Return the sentence as spelled in the layout's transcripts."""

    def spoken(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Return the sentence as espeak reads it."""
        return words

    def write(
        self, path: Path, utterance: Utterance, recording: Recording, speech: Speech
    ) -> Written:
        """Write an utterance's audio and the files beside it."""
        save(path, recording)
        return Written(self.transcript(utterance.words))

    @abstractmethod
    def finish(self, root: Path, plan: Plan, samples: dict[str, int]) -> None:
        """Write the files shared by many utterances; ``samples`` are their lengths by id."""


def genders(count: int) -> list[str]:
    """Alternate F and M, two of five female: the variants have few female voices."""
    return [("F", "M", "M", "F", "M")[index % 5] for index in range(count)]


def shares(count: int, speakers: int) -> list[int]:
    """Divide utterances among speakers as evenly as possible."""
    whole, rest = divmod(count, speakers)
    return [whole + (index < rest) for index in range(speakers)]


def save(path: Path, recording: Recording) -> None:
    """Write 16-bit audio in the format of the suffix (FLAC or WAV)."""
    temporary = path.with_name(f".{path.name}.writing")
    soundfile.write(
        temporary, recording.samples, SAMPLE_RATE, format=path.suffix[1:].upper(), subtype="PCM_16"
    )
    os.replace(temporary, path)
