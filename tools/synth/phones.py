"""TIMIT phone and word segments from espeak's phone events (American English).

An event gives, to the sample, the start of a phone, so most boundaries are exact by construction.
Three cases need more than the event:

* Before a voiceless stop (and some voiced ones) espeak is silent, exactly zero; the event comes
  with the release. The silence becomes the closure (``tcl`` ...).
* Inside other voiced stops the voicing bar and the release are one event; the release is found in
  the waveform, at the onset of high-frequency energy.
* An r-coloured vowel not followed by r is one event and two TIMIT phones (``where``: ``eh r``),
  and an l that ends a syllable may be spoken with the vowel before it, its event having no length
  (``bell``: ``eh l``). These are cut in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tools.synth.espeak import SAMPLE_RATE, Speech, SpeechError

STOPS: dict[str, tuple[str, str]] = {
    "p": ("pcl", "p"), "t": ("tcl", "t"), "k": ("kcl", "k"), "tS": ("tcl", "ch"),
    "b": ("bcl", "b"), "d": ("dcl", "d"), "g": ("gcl", "g"), "dZ": ("dcl", "jh"),
}  # fmt: skip
"""espeak's stops and affricates: closure and release in TIMIT's set."""

PHONES: dict[str, tuple[str, ...]] = {
    # Vowels.
    "i:": ("iy",), "i": ("iy",), "I": ("ih",), "I2": ("ix",), "I#": ("ix",), "E": ("eh",),
    "a": ("ae",), "aa": ("ae",), "V": ("ah",), "0": ("aa",), "A:": ("aa",), "O:": ("ao",),
    "O2": ("ao",), "U": ("uh",), "u:": ("uw",), "3:": ("er",), "3": ("axr",), "@": ("ax",),
    "@2": ("ax",), "a#": ("ax",), "eI": ("ey",), "aI": ("ay",), "OI": ("oy",), "aU": ("aw",),
    "oU": ("ow",),
    # Vowels coloured by r.
    "A@": ("aa", "r"), "O@": ("ao", "r"), "o@": ("ao", "r"), "e@": ("eh", "r"),
    "i@3": ("ih", "r"), "U@": ("uh", "r"), "aI3": ("ay", "axr"), "aI@": ("ay", "ax"),
    # Consonants.
    "f": ("f",), "v": ("v",), "T": ("th",), "D": ("dh",), "s": ("s",), "z": ("z",),
    "S": ("sh",), "h": ("hh",), "m": ("m",), "n": ("n",), "N": ("ng",), "l": ("l",),
    "@L": ("el",), "r": ("r",), "r-": ("r",), "w": ("w",), "j": ("y",), ";": ("y",),
    "t#": ("dx",),
}  # fmt: skip
"""espeak's other American English phones in TIMIT's set."""

_QUIET = 4  # of 32768: below this espeak is silent
_SHORTEST_CLOSURE = SAMPLE_RATE // 125  # 8 ms


@dataclass(frozen=True)
class Segment:
    """A phone or word.

    Attributes:
        start: First sample.
        end: Sample after the last one.
        label: TIMIT phone, or word.
        word: Index of the word, -1 for silence.
    """

    start: int
    end: int
    label: str
    word: int


def phone_segments(speech: Speech) -> tuple[list[Segment], int]:
    """Label speech from its first to its last phone.

    Args:
        speech: American English; its voice must have no echo.

    Returns:
        Contiguous segments in espeak samples, inner pauses labelled ``pau``; and the number of
        boundaries in the middle of an event.

    Raises:
        SpeechError: A phone has no counterpart in TIMIT's set.
    """
    segments: list[Segment] = []
    halved = 0
    spoken = [phone for phone in speech.phones if not phone.is_pause]
    for index, phone in enumerate(speech.phones[:-1]):
        start, end = phone.start, speech.phones[index + 1].start
        if phone is not spoken[0] and not segments:
            continue
        if phone.is_pause:
            if phone.start < spoken[-1].start:
                _add_pause(segments, start, end)
            continue
        if phone.name in STOPS:
            closure, release = STOPS[phone.name]
            _take_closure(segments, speech, start, closure, phone.word)
            burst = _release(speech.samples[start:end])
            if burst and segments and segments[-1].end == start and segments[-1].label != closure:
                segments.append(Segment(start, start + burst, closure, phone.word))
                start += burst
            labels: tuple[str, ...] = (release,)
        elif phone.name in PHONES:
            labels = PHONES[phone.name]
            if len(labels) == 2 and speech.phones[index + 1].name in ("r", "r-"):
                labels = labels[:1]
        else:
            raise SpeechError(
                f"espeak-ng's phone {phone.name!r} has no counterpart in TIMIT's phone set"
            )
        if start == end:
            if not segments or segments[-1].word != phone.word or len(labels) > 1:
                raise SpeechError(f"espeak-ng gave no time to phone {phone.name!r}")
            before = segments.pop()
            start, labels = before.start, (before.label, *labels)
        middle = (start + end) // 2
        cuts = (start, end) if len(labels) == 1 else (start, middle, end)
        halved += len(labels) - 1
        for label, left, right in zip(labels, cuts[:-1], cuts[1:], strict=True):
            segments.append(Segment(left, right, label, phone.word))
    return segments, halved


def word_segments(phones: list[Segment], words: tuple[str, ...]) -> list[Segment]:
    """Join phone segments into words; a stop's closure belongs to the stop's word."""
    result: list[Segment] = []
    for index, word in enumerate(words):
        own = [phone for phone in phones if phone.word == index]
        if not own:
            raise SpeechError(f"espeak-ng spoke no phone of {word!r} in {' '.join(words)!r}")
        result.append(Segment(own[0].start, own[-1].end, word, index))
    return result


def _add_pause(segments: list[Segment], start: int, end: int) -> None:
    if start == end:
        return
    if segments[-1].label == "pau":
        segments[-1] = replace(segments[-1], end=end)
    else:
        segments.append(Segment(start, end, "pau", -1))


def _take_closure(
    segments: list[Segment], speech: Speech, start: int, label: str, word: int
) -> None:
    """Cut the silence before a stop's event at ``start`` off the preceding phone."""
    if not segments or segments[-1].label == "pau":
        return  # TIMIT marks no closure after silence
    before = segments[-1]
    sounding = np.flatnonzero(np.abs(speech.samples[before.start : start]) > _QUIET)
    begin = before.start + (int(sounding[-1]) + 1 if len(sounding) else 0)
    if start - begin >= _SHORTEST_CLOSURE and begin > before.start:
        segments[-1] = replace(before, end=begin)
        segments.append(Segment(begin, start, label, word))


def _release(samples: npt.NDArray[np.int16]) -> int:
    """Return the offset of a voiced stop's release in its samples (N,), 0 without voicing bar."""
    hop = SAMPLE_RATE // 1000
    # The second difference lifts high frequencies by 12 dB per octave; a voicing bar has none.
    edges = np.diff(samples.astype(np.float64), n=2) ** 2
    count = len(edges) // hop
    if count < 20:
        return 0
    energy = np.log(edges[: count * hop].reshape(count, hop).sum(axis=1) + 1.0)
    # The first 4 ms contain the end of the sound before; a bar lasts at least 10 ms.
    rises = [
        (float(energy[at : at + 6].mean() - np.percentile(energy[at - 10 : at], 90)), at)
        for at in range(14, count - 4)
    ]
    rise, at = max(rises, default=(0.0, 0))
    return at * hop if rise > 1.5 else 0
