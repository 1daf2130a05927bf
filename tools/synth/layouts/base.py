"""What a folder layout has to say about itself."""

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
    """What writing an utterance has shown.

    Attributes:
        tokens: The units that a CTC model would output, e.g. characters.
        halved: Phone boundaries that are not espeak's own, see :mod:`tools.synth.phones`.
    """

    tokens: Sequence[str]
    halved: int = 0


class Layout(ABC):
    """A folder layout. Methods say what differs between layouts; defaults are the rule."""

    name: str
    language: str
    accents: tuple[str, ...]
    rates: tuple[int, int]
    echo: bool = True

    def problems(self, request: Request) -> list[str]:
        """Lists what this layout cannot do of a request."""
        found = []
        if request.subsets is not None:
            found.append(f"--subsets: only for --layout librispeech, not {self.name}")
        if request.test_other:
            found.append(f"--test-other: only for --layout librispeech, not {self.name}")
        return found

    def splits(self, request: Request) -> list[Split]:
        """Returns train, dev and test, then any further one."""
        return [
            Split(kind, kind, count, speakers, request.conditions)
            for kind, count, speakers in zip(
                ("train", "dev", "test"), request.utterances, request.speakers, strict=True
            )
        ]

    @abstractmethod
    def speaker_names(self, split: Split, rng: random.Random) -> list[tuple[str, str]]:
        """Returns name and gender (``F``/``M``) of each speaker of a split."""

    @abstractmethod
    def utterances(
        self, split: Split, speakers: list[Speaker], draw: Callable[[], tuple[str, ...]]
    ) -> list[Utterance]:
        """Gives a split's speakers their sentences.

        Args:
            split: The split.
            speakers: Its speakers.
            draw: Returns a new sentence, different from all before, at every call.
        """

    @abstractmethod
    def transcript(self, words: tuple[str, ...]) -> str:
        """Returns the sentence as the layout's transcripts spell it."""

    def spoken(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the sentence as espeak reads it."""
        return words

    def write(
        self, path: Path, utterance: Utterance, recording: Recording, speech: Speech
    ) -> Written:
        """Writes the audio and whatever lies beside it for each utterance."""
        save(path, recording)
        return Written(self.transcript(utterance.words))

    @abstractmethod
    def finish(self, root: Path, plan: Plan, samples: dict[str, int]) -> None:
        """Writes the files that belong to many utterances.

        Args:
            root: The corpus folder.
            plan: All speakers and utterances.
            samples: Length of each utterance, by its id.
        """


def genders(count: int) -> list[str]:
    """Returns F and M in turn, two of five female: the variants hold few female voices."""
    return [("F", "M", "M", "F", "M")[index % 5] for index in range(count)]


def shares(count: int, speakers: int) -> list[int]:
    """Divides utterances among speakers as evenly as possible."""
    whole, rest = divmod(count, speakers)
    return [whole + (index < rest) for index in range(speakers)]


def save(path: Path, recording: Recording) -> None:
    """Writes 16-bit audio in the format that the name's end says (FLAC or WAV)."""
    temporary = path.with_name(f".{path.name}.writing")
    soundfile.write(
        temporary, recording.samples, SAMPLE_RATE, format=path.suffix[1:].upper(), subtype="PCM_16"
    )
    os.replace(temporary, path)
