"""Speech from espeak-ng (the library inside the wheel ``espeakng-loader``)."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from bisect import bisect_right
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas_encoder.errors import MissingDependencyError, NasEncoderError

SAMPLE_RATE = 22_050
"""espeak-ng's rate in Hz, for all voices used here."""

VOLUME = 20
"""On espeak's scale; at 100, the default, a third of the variants clip inside espeak."""


class SpeechError(NasEncoderError):
    """espeak-ng cannot be started or cannot speak a text."""


@dataclass(frozen=True)
class Phone:
    """One phone under espeak's name (without stress marks) and its start.

    Attributes:
        start: Start in samples at :data:`SAMPLE_RATE`.
        name: espeak's mnemonic; ``_``, ``_:`` and ``_|`` are pauses.
        word: Index of its word, -1 before the first one.
    """

    start: int
    name: str
    word: int

    @property
    def is_pause(self) -> bool:
        """Whether it is silence."""
        return self.name.startswith("_")


@dataclass(frozen=True)
class Speech:
    """espeak's speech for a text.

    Attributes:
        samples: Shape (N,), int16, at :data:`SAMPLE_RATE`.
        phones: Phones in order of time; the last one is a pause.
        words: Start of each word of the text, in samples.
    """

    samples: npt.NDArray[np.int16]
    phones: tuple[Phone, ...]
    words: tuple[int, ...]

    @property
    def first_sample(self) -> int:
        """Start of the first phone."""
        return next(phone.start for phone in self.phones if not phone.is_pause)


@dataclass(frozen=True)
class Voice:
    """espeak's voice file and its parameters.

    Attributes:
        name: Voice file, optionally with ``+variant``, e.g. ``gmw/en-US+f2``.
        rate: Words per minute.
        pitch: 0 to 99, 50 is the voice's own.
        range: Pitch range, 0 (monotone) to 99.
    """

    name: str
    rate: int
    pitch: int
    range: int


class Espeak(AbstractContextManager["Espeak"]):
    """A running espeak-ng that speaks one text at a time; a context manager.

    The samples depend only on the text, the voice and the seed (:mod:`tools.synth.espeak_server`).

    Raises:
        MissingDependencyError: ``espeakng-loader`` is not installed.
        SpeechError: The library does not start.
    """

    def __init__(self) -> None:
        try:
            loader = import_module("espeakng_loader")
        except ImportError as error:
            raise MissingDependencyError("espeakng-loader", "dev", "speech synthesis") from error
        self._variants = Path(loader.get_data_path()) / "voices" / "!v"
        server = Path(__file__).with_name("espeak_server.py")
        command = [sys.executable, "-I", "-S", str(server)]
        self._process = subprocess.Popen(
            [*command, str(loader.get_library_path()), str(loader.get_data_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        greeting = self._receive()
        if greeting["rate"] != SAMPLE_RATE:
            self.__exit__()
            raise SpeechError(
                f"espeak-ng started with sample rate {greeting['rate']}, expected {SAMPLE_RATE}"
            )
        self.version: str = greeting["version"]

    def say(self, words: tuple[str, ...], voice: Voice, seed: int) -> Speech:
        """Speak words.

        Args:
            words: What to say; a word contains no white space.
            voice: Who says it.
            seed: Seed of espeak's random parts, e.g. flutter; 0 to 2**31 - 1.

        Raises:
            SpeechError: espeak cannot say it, or reads the words differently from how
                they are written (joins two of them, or applies another language's rules).
        """
        # At a plain space espeak may join frequent pairs ("of the") into one word with an unknown
        # inner boundary; at a no-break space it never does.
        text = "\u00a0".join(words)
        variant = voice.name.partition("+")[2]
        if variant and not (self._variants / variant).is_file():
            # espeak would silently speak without the variant.
            raise SpeechError(f"espeak-ng {self.version} has no voice variant {variant!r}")
        request = {"text": text, **asdict(voice), "volume": VOLUME, "seed": seed}
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except OSError as error:
            raise SpeechError(f"espeak-ng's process is gone: {error}") from error
        answer = self._receive()
        if "error" in answer:
            raise SpeechError(f"cannot say {text!r} with {voice.name}: {answer['error']}")
        return _speech(words, answer)

    def __exit__(self, *error: object) -> None:
        self._requests.close()
        self._answers.close()
        self._process.wait()

    def _receive(self) -> Any:
        try:
            return pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            raise SpeechError(f"espeak-ng's process ended with status {status}") from error


def _speech(words: tuple[str, ...], answer: dict[str, Any]) -> Speech:
    """Check espeak's answer against the words and convert it."""
    expected, position = [], 1
    for spelling in words:
        expected.append((position, len(spelling)))
        position += len(spelling) + 1
    found = [(at, length) for _, at, length in answer["words"]]
    if found != expected:
        raise SpeechError(
            f"espeak-ng splits {' '.join(words)!r} into words at {found}, expected {expected}"
        )
    starts = [start for start, _, _ in answer["words"]]
    phones: list[Phone] = []
    for start, name in answer["phones"]:
        if name.startswith("("):
            raise SpeechError(
                f"espeak-ng read a part of {' '.join(words)!r} as language {name}, "
                "so its spelling is not one that the voice knows"
            )
        # A word event comes no later than the word's first phone (earlier where that phone
        # is a stop: the closure lies between), and after the last phone of the word before.
        phones.append(Phone(start, name.lstrip("',%="), bisect_right(starts, start) - 1))
    if not answer["samples"] or len(phones) < 2 or not phones[-1].is_pause:
        raise SpeechError(f"espeak-ng said nothing for {' '.join(words)!r}")
    samples = np.frombuffer(answer["samples"], dtype="<i2").astype(np.int16)
    return Speech(samples, tuple(phones), tuple(starts))
