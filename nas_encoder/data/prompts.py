"""Telephone prompts of Asterisk: real speech that Debian packages, with the texts that were read.

Six voices, five languages, 8 kHz: the packages ``asterisk-core-sounds-{en,es,fr,it,ru}`` (texts),
the same with ``-wav`` (audio) and ``asterisk-prompt-it-menardi-wav`` (a second Italian voice that
has no texts of its own). :func:`collect` reads their files where dpkg unpacks them to; it leaves
out, by name and reason, what is no speech or whose words are not certain.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from nas_encoder.data.audio import read_recordings
from nas_encoder.data.findings import Findings
from nas_encoder.data.prompt_texts import entries, spoken
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

SOUNDS = Path("usr/share/asterisk/sounds")
SPLITS = {"test": 0.2, "dev": 0.1, "train": 0.7}
"""Split -> its share of the texts."""

NO_LINE = "no line in the list of texts"
NO_FILE = "no recording"
TWICE = "two lines with this name"
UNFIT = "a length that does not fit the text"
HELD_OUT = "a text of dev or test, in a voice for training only"
OTHERWISE = "other words than are written"

# Found by a network trained on all: what it recognizes are plainly other words. For the voice
# without texts of its own, these are 16 of 455.
_HEARD_OTHERWISE = {
    "es_MX_f_Allison": "followme/options letters/exclaimation-point vm-invalid-password "
    "vm-record-prepend",
    "fr_CA_f_June": "digits/h-80 please-try-call-later vm-review-urgent",
    "it_IT_m_Carlo": "conf-muted digits/hundred digits/thousands please-try-call-later",
    "it_IT_f_Menardi": "conf-muted conf-userswilljoin conf-userwilljoin conf-waitforleader "
    "confbridge-mute-in confbridge-mute-out confbridge-only-one dictate/both_help followme/options "
    "letters/ascii34 letters/ascii63 vm-incorrect vm-nobox vm-passchanged vm-tmpexists vm-tooshort",
}

_LIKE = 0.8  # share of common words from which two texts are in the same split
_PAUSE = 0.35  # seconds of a prompt that do not depend on its text
_FIT = (0.55, 2.0)  # length of a prompt, as a multiple of what its voice usually needs
_SHORT = 10  # characters up to which a text says little about a voice's pace


@dataclass(frozen=True)
class Voice:
    """A folder of prompts by one speaker.

    Attributes:
        folder: Its name below SOUNDS, also the speaker's.
        language: Whose texts it reads.
        own_texts: Whether the texts are this voice's. Another's are known to fit only by name and
            length, so that they serve for training alone.
    """

    folder: str
    language: str
    own_texts: bool = True


VOICES = (
    Voice("en_US_f_Allison", "en"),
    Voice("es_MX_f_Allison", "es"),
    Voice("fr_CA_f_June", "fr"),
    Voice("it_IT_m_Carlo", "it"),
    Voice("it_IT_f_Menardi", "it", own_texts=False),
    Voice("ru_RU_f_IvrvoiceRU", "ru"),
)


@dataclass(frozen=True)
class Prompt:
    """A prompt that is used: ``written`` is its line, ``text`` what is said."""

    name: str
    voice: Voice
    written: str
    text: str
    recording: Recording


@dataclass(frozen=True)
class Prompts:
    """What :func:`collect` found.

    Attributes:
        splits: Split -> prompts.
        left_out: Voice's folder -> reason -> names of prompts.
    """

    splits: Mapping[str, list[Prompt]]
    left_out: Mapping[str, Mapping[str, list[str]]]


def read_prompts(root: Path) -> dict[str, tuple[RecordingSet, SupervisionSet]]:
    """Return the recordings and supervisions of each split, and log what is left out.

    Raises:
        DataError: See :func:`collect`.
    """
    found = collect(root)
    for folder, reasons in found.left_out.items():
        for reason, names in reasons.items():
            logger.info("prompts: %s: %d with %s: %s", folder, len(names), reason, " ".join(names))
    read = {}
    for split, prompts in found.splits.items():
        recordings = RecordingSet.from_recordings(prompt.recording for prompt in prompts)
        read[split] = recordings, SupervisionSet.from_segments(map(_supervision, prompts))
    return read


def collect(root: Path) -> Prompts:
    """Read the prompts below the folder that the packages were unpacked to, or ``/``.

    A text and all that have four of five words in common with it are in the same split, whoever
    reads them; which one depends only on the texts. Languages that are not there are logged.

    Raises:
        DataError: The folder does not have the packages' layout, or holds damaged audio.
    """
    left_out: dict[str, dict[str, list[str]]] = {}
    prompts: list[Prompt] = []
    for voice in _voices(root):
        reasons = left_out.setdefault(voice.folder, {})
        prompts += _read_voice(root, voice, reasons)
    splits: dict[str, list[Prompt]] = {"train": [], "dev": [], "test": []}
    split_of = assign_splits(prompt.text for prompt in prompts)
    for prompt in prompts:
        split = split_of[prompt.text]
        if split == "train" or prompt.voice.own_texts:
            splits[split].append(prompt)
        else:
            reasons = left_out[prompt.voice.folder]
            reasons.setdefault(HELD_OUT, []).append(prompt.name)
    for split, members in splits.items():
        if not members:
            raise DataError(
                "corpus prompts", [f"{root}: too few prompts, split '{split}' is empty"]
            )
    return Prompts(splits, left_out)


def assign_splits(texts: Iterable[str]) -> dict[str, str]:
    """Return text -> split, the same one for all texts that are alike."""
    # Words with their number, so that sets count repetitions.
    words = {text: _counted(text.split()) for text in sorted(set(texts))}
    by_size = sorted(words, key=lambda text: (len(words[text]), text))
    leader = {text: text for text in by_size}

    def leader_of(text: str) -> str:
        while leader[text] != text:
            text = leader[text]
        return text

    for place, text in enumerate(by_size):
        mine = words[text]
        for other in by_size[place + 1 :]:
            total = len(mine) + len(words[other])
            if 2 * len(mine) < _LIKE * total:
                break  # this one and all that follow are too long
            if 2 * len(mine & words[other]) >= _LIKE * total:
                first, second = sorted((leader_of(text), leader_of(other)))
                leader[second] = first
    return {text: _split_of(leader_of(text)) for text in by_size}


def _counted(words: list[str]) -> frozenset[tuple[str, int]]:
    seen: dict[str, int] = {}
    for word in words:
        seen[word] = seen.get(word, 0) + 1
    return frozenset((word, k) for word, count in seen.items() for k in range(count))


def _split_of(text: str) -> str:
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    return "train"


def _texts_path(root: Path, language: str) -> Path:
    package = f"asterisk-core-sounds-{language}"
    return root / "usr/share/doc" / package / f"core-sounds-{language}.txt.gz"


def _voices(root: Path) -> list[Voice]:
    """Return the voices that are there."""
    present, problems = [], []
    for voice in VOICES:
        folder, texts = root / SOUNDS / voice.folder, _texts_path(root, voice.language)
        package = texts.parent.name
        if next(folder.rglob("*.wav"), None) is not None:
            present.append(voice)
            if not texts.is_file():
                problems.append(
                    f"{texts}: no such file, but recordings. Unpack {package} with 'dpkg -x': "
                    "where it is installed, documentation may be left out"
                )
        elif voice.own_texts and texts.is_file():
            problems.append(f"{folder}: no .wav files, but texts; they are in {package}-wav")
    if not present and not problems:
        problems = [
            f"{root / SOUNDS}: no prompts here",
            f"expected layout: {SOUNDS}/VOICE/**/*.wav and "
            f"{_texts_path(Path(), 'LANGUAGE')}, as dpkg -x unpacks them",
        ]
    if problems:
        raise DataError("corpus prompts", problems)
    if absent := [voice.folder for voice in VOICES if voice not in present]:
        logger.warning("prompts: not below %s: %s", root, ", ".join(absent))
    return present


def _read_voice(root: Path, voice: Voice, left_out: dict[str, list[str]]) -> list[Prompt]:
    """Return a voice's prompts; add to ``left_out`` the others' names by reason."""
    folder = root / SOUNDS / voice.folder
    files = {
        path.relative_to(folder).with_suffix("").as_posix(): str(path)
        for path in sorted(folder.rglob("*.wav"))
    }
    by_name = {name.casefold(): name for name in files} | {name: name for name in files}
    written: dict[str, tuple[str, str]] = {}  # name of a file -> its line, what is said
    seen = set()
    for name, texts in _read_texts(_texts_path(root, voice.language)).items():
        file = by_name.get(name) or by_name.get(name.casefold())
        seen.add(file)
        text, reason = spoken(name, texts[0], voice.language)
        if len(texts) > 1:
            reason = TWICE
        if file is None or reason:
            left_out.setdefault(reason if file else NO_FILE, []).append(name)
        else:
            written[file] = texts[0], text
    if unknown := [name for name in files if name not in seen]:
        left_out[NO_LINE] = unknown
    findings = Findings("corpus prompts")
    places = {name: (files[name], files[name]) for name in sorted(written)}
    recordings = read_recordings(places, findings, plain=True)
    findings.raise_any()
    prompts = [
        Prompt(name, voice, *written[name], _renamed(recording, voice, name))
        for name, recording in recordings.items()
    ]
    heard = set(_HEARD_OTHERWISE.get(voice.folder, "").split()) & recordings.keys()
    unfit = _unfit(prompts) - heard
    left_out |= {
        reason: sorted(names) for reason, names in ((OTHERWISE, heard), (UNFIT, unfit)) if names
    }
    return [prompt for prompt in prompts if prompt.name not in unfit | heard]


def _read_texts(path: Path) -> dict[str, list[str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return entries(lines)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError("corpus prompts", [f"{path}: cannot be read ({error})"]) from error


def _unfit(prompts: list[Prompt]) -> set[str]:
    """Return the names of those that are far shorter or longer than their texts let expect."""
    paces = [
        (prompt.recording.duration - _PAUSE) / len(prompt.text)
        for prompt in prompts
        if len(prompt.text) > _SHORT
    ]
    if not paces:
        return set()
    pace = statistics.median(paces)
    least, most = _FIT
    return {
        prompt.name
        for prompt in prompts
        if not least <= prompt.recording.duration / (_PAUSE + pace * len(prompt.text)) <= most
    }


def _renamed(recording: Any, voice: Voice, name: str) -> Any:
    recording.id = f"{voice.folder}-{name.replace('/', '_')}"
    return recording


def _supervision(prompt: Prompt) -> Any:
    recording = prompt.recording
    return SupervisionSegment(
        id=recording.id,
        recording_id=recording.id,
        start=0.0,
        duration=recording.duration,
        text=prompt.text,
        speaker=prompt.voice.folder,
        language=prompt.voice.language,
        custom={"prompt": prompt.name, "written": prompt.written},
    )
