"""LibriSpeech: English, as unpacked from its subset archives.

``LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac``,
upper-case transcripts for each chapter, and the tables of speakers, chapters and
books that Kaldi's and ESPnet's data preparation reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tools.synth.audio import SAMPLE_RATE, Conditions
from tools.synth.corpus import Plan, Request, Split, Utterance
from tools.synth.layouts.base import NOTICE, Layout
from tools.synth.voices import Speaker

SUBSETS: tuple[str, ...] = (
    "train-clean-100", "train-clean-360", "train-other-500", "train-clean-5",
    "dev-clean", "dev-other", "dev-clean-2", "test-clean", "test-other",
)  # fmt: skip
"""Names of LibriSpeech's and Mini LibriSpeech's subsets."""

CHAPTER = 40
"""Most utterances in a chapter."""

OTHER = Conditions(snr=(5.0, 15.0), reverb=True)
"""How the additional subset test-other is recorded by default."""


class LibriSpeech(Layout):
    """LibriSpeech's layout."""

    name = "librispeech"
    language = "en"
    # Half of the speakers American.
    accents = (
        "gmw/en-US", "gmw/en-US", "gmw/en-US",
        "gmw/en-GB-x-rp", "gmw/en-GB-scotland", "gmw/en-029",
    )  # fmt: skip
    rates = (110, 150)
    subsets = True
    numbers = {
        "train": range(1001, 7001),
        "dev": range(7001, 8001),
        "test": range(8001, 9001),
        "other": range(9001, 10001),
    }
    speaker = "{}"

    def problems(self, request: Request) -> list[str]:
        """Return what this layout cannot satisfy of a request."""
        found = super().problems(request)
        names = self._names(request)
        for kind, name in zip(("train", "dev", "test"), names, strict=True):
            known = [subset for subset in SUBSETS if subset.startswith(kind)]
            if name not in known:
                found.append(f"--subsets: {kind} must be one of {', '.join(known)}, got {name!r}")
        if request.test_other and "test-other" in names:
            found.append("--test-other: the test set itself is test-other; use --subsets")
        taken = [*names, *(["test-other"] if request.test_other else [])]
        for name, _ in request.more:
            if name not in SUBSETS or name in taken:
                left = ", ".join(subset for subset in SUBSETS if subset not in taken)
                found.append(f"--more: must be one of {left}, got {name!r}")
            taken.append(name)
        return found

    def splits(self, request: Request) -> list[Split]:
        """Return the three subsets, test-other and any more, no speaker in two of them."""
        result = [
            replace(split, name=name)
            for split, name in zip(super().splits(request), self._names(request), strict=True)
        ]
        if request.test_other:
            conditions = Conditions(request.snr or OTHER.snr, reverb=True)
            speakers = min(request.speakers[2], request.test_other)
            result.append(Split("other", "test-other", request.test_other, speakers, conditions))
        for name, count in request.more:
            kind = name.partition("-")[0]
            place = ("train", "dev", "test").index(kind) if name in SUBSETS else 0
            same = [split for split in result if split.kind == result[place].kind]
            conditions = Conditions(request.snr, request.reverb)
            if "-other" in name:
                conditions = Conditions(request.snr or OTHER.snr, reverb=True)
            speakers = max(1, min(request.speakers[place], count))
            first = sum(split.speakers for split in same)
            result.append(Split(result[place].kind, name, count, speakers, conditions, first))
        return result

    def audio(self, split: Split, speaker: Speaker, index: int) -> str:
        """Return the path of a speaker's utterance, in one of the speaker's chapters."""
        # Unique in the corpus, and sorted as the speakers are.
        chapter = f"{speaker.name}{index // CHAPTER:03d}"
        name = f"{speaker.name}-{chapter}-{index % CHAPTER:04d}.flac"
        return f"LibriSpeech/{split.name}/{speaker.name}/{chapter}/{name}"

    def transcript(self, words: tuple[str, ...]) -> str:
        """Return the words in upper case."""
        return " ".join(words).upper()

    def finish(self, root: Path, plan: Plan, samples: dict[str, int]) -> None:
        """Write the chapters' transcripts and the tables."""
        chapters: defaultdict[str, list[Utterance]] = defaultdict(list)
        readings: defaultdict[str, list[Utterance]] = defaultdict(list)
        for utterance in plan.utterances:
            chapters[utterance.audio.rpartition("/")[0]].append(utterance)
            readings[utterance.speaker.name].append(utterance)
        for folder, members in chapters.items():
            stem = members[0].id.rpartition("-")[0]
            lines = [f"{member.id} {self.transcript(member.words)}\n" for member in members]
            (root / folder / f"{stem}.trans.txt").write_text("".join(lines), encoding="utf-8")

        def minutes(members: Iterable[Utterance]) -> float:
            return sum(samples[member.id] for member in members) / SAMPLE_RATE / 60.0

        speaker_lines = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
        for speaker in plan.speakers:
            own = minutes(readings[speaker.name])
            speaker_lines.append(
                f"{speaker.name:<5}| {speaker.gender} | {speaker.split:<17}| {own:<6.2f}"
                f"| espeak-ng {speaker.voice.name}"
            )
        chapter_lines = [
            ";ID      |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"
        ]
        for folder, members in chapters.items():
            _, subset, reader, chapter = folder.split("/")
            chapter_lines.append(
                f"{chapter:<9}| {reader:<5}| {minutes(members):<6.2f}| {subset:<17}| 0    "
                f"| 1     | Chapter {chapter} | Synthetic sentences"
            )
        tables = {
            "SPEAKERS.TXT": speaker_lines,
            "CHAPTERS.TXT": chapter_lines,
            "BOOKS.TXT": [";ID | BOOK TITLE | AUTHOR", "1 | Synthetic sentences | a grammar"],
            "README.TXT": NOTICE.splitlines(),
            "LICENSE.TXT": ["Machine-made audio and text, see README.TXT."],
        }
        for name, rows in tables.items():
            (root / "LibriSpeech" / name).write_text("\n".join(rows) + "\n", encoding="utf-8")

    @staticmethod
    def _names(request: Request) -> tuple[str, str, str]:
        if request.subsets is not None:
            return request.subsets
        if request.snr is not None or request.reverb:
            return "train-other-500", "dev-other", "test-other"
        return "train-clean-100", "dev-clean", "test-clean"
