"""The interface of a folder layout."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import soundfile

from tools.synth.audio import SAMPLE_RATE, Conditions, Recording
from tools.synth.corpus import Plan, Request, Split, Utterance
from tools.synth.espeak import Speech
from tools.synth.voices import Speaker
from tools.synth.workspace import write_whole

NOTICE = (
    "This corpus is SYNTHETIC. Its audio was made by the speech synthesiser espeak-ng from\n"
    "machine-written sentences. It copies the folder layout of a public corpus so that tools\n"
    "for that corpus can read it; it holds nothing of that corpus, and no result on it says\n"
    "anything about human speech.\n"
)


class Layout(ABC):
    """A folder layout. Methods define what differs between layouts; defaults are the rule.

    Attributes:
        name: Its name.
        language: ``en`` or ``zh``.
        accents: espeak voice files to choose from; one may occur several times.
        rates: Slowest and fastest speaker in words per minute, by default.
        echo: Whether variants with an echo may be used.
        subsets: Whether splits have several names, and there is a second test set.
        numbers: Numbers of the speakers that each kind of split may have.
        speaker: Format of a speaker's name.
        audio: Split, speaker, index -> path of a speaker's utterance; its stem is the id.
    """

    name: str
    language: str
    accents: tuple[str, ...]
    rates: tuple[int, int]
    echo: bool = True
    subsets: bool = False
    numbers: Mapping[str, range]
    speaker: str
    audio: Callable[[Split, Speaker, int], str]

    def problems(self, request: Request) -> list[str]:
        """Return what this layout cannot satisfy of a request."""
        found = []
        options = {"subsets": request.subsets, "test-other": request.test_other}
        for option, value in (options | {"more": request.more}).items():
            if value and not self.subsets:
                found.append(f"--{option}: only for --layout librispeech, not {self.name}")
        for split in self.splits(request):
            most = len(self.numbers[split.kind])
            if split.first + split.speakers > most:
                found.append(
                    f"--speakers: --layout {self.name} has at most {most} {split.kind} speakers, "
                    f"got {split.first + split.speakers}"
                )
        return found

    def splits(self, request: Request) -> list[Split]:
        """Return train, dev and test, then any other."""
        return [
            Split(kind, kind, count, speakers, Conditions(request.snr, request.reverb))
            for kind, count, speakers in zip(
                ("train", "dev", "test"), request.utterances, request.speakers, strict=True
            )
        ]

    def speaker_names(self, split: Split, rng: random.Random) -> list[tuple[str, str]]:
        """Return name and gender (``F``/``M``) of each speaker in a split."""
        numbers = self.numbers[split.kind][split.first : split.first + split.speakers]
        return [
            (self.speaker.format(number), gender)
            for number, gender in zip(numbers, genders(split.speakers), strict=True)
        ]

    def utterances(
        self, split: Split, speakers: list[Speaker], draw: Callable[[], tuple[str, ...]]
    ) -> list[Utterance]:
        """Give a split's speakers their sentences; each ``draw()`` returns a new one."""
        result = []
        for speaker, count in zip(speakers, shares(split.count, len(speakers)), strict=True):
            for index in range(count):
                audio = self.audio(split, speaker, index)
                result.append(Utterance(Path(audio).stem, split.name, speaker, draw(), audio))
        return result

    def transcript(self, words: tuple[str, ...]) -> str:
        """Return the sentence as spelled in the layout's transcripts."""
        return " ".join(words)

    def spoken(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Return the sentence as espeak reads it."""
        return words

    def write(
        self, path: Path, utterance: Utterance, recording: Recording, speech: Speech
    ) -> tuple[Sequence[str], int]:
        """Write an utterance's audio and the files beside it.

        Returns:
            The units that a CTC model would output, e.g. characters; and how many phone
            boundaries are not espeak's own, see :mod:`tools.synth.phones`.
        """
        kind = {"format": path.suffix[1:].upper(), "subtype": "PCM_16"}
        write_whole(
            path, lambda file: soundfile.write(file, recording.samples, SAMPLE_RATE, **kind)
        )
        return self.transcript(utterance.words), 0

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
