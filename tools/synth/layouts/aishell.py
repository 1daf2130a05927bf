"""AISHELL-1: Mandarin, as unpacked from data_aishell.tgz.

``data_aishell/wav/{train,dev,test}/S0002/BAC009S0002W0122.wav`` and one transcript
file with the words of every utterance, separated by spaces.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from tools.synth import mandarin
from tools.synth.corpus import Plan, Request, Split, Utterance
from tools.synth.layouts.base import NOTICE, Layout, genders, shares
from tools.synth.voices import Speaker

SPEAKERS: dict[str, tuple[int, int]] = {
    "train": (2, 723),
    "dev": (724, 763),
    "test": (764, 916),
}
"""First and last speaker number of each split in AISHELL-1."""

FIRST_UTTERANCE = 122
LAST_UTTERANCE = 9999


class Aishell(Layout):
    """AISHELL-1's layout."""

    name = "aishell"
    language = "zh"
    accents = ("sit/cmn-Latn-pinyin",)
    rates = (140, 200)

    def problems(self, request: Request) -> list[str]:
        """Return what this layout cannot satisfy of a request."""
        found = super().problems(request)
        for split in self.splits(request):
            first, last = SPEAKERS[split.kind]
            if split.speakers > last - first + 1:
                found.append(
                    f"--speakers: AISHELL-1 numbers at most {last - first + 1} {split.kind} "
                    f"speakers, got {split.speakers}"
                )
            room = LAST_UTTERANCE - FIRST_UTTERANCE + 1
            if split.speakers > 0 and split.count > room * split.speakers:
                found.append(
                    f"--{split.kind}: at most {room} utterances for each speaker, "
                    f"got {split.count} for {split.speakers}"
                )
        return found

    def speaker_names(self, split: Split, rng: random.Random) -> list[tuple[str, str]]:
        """Return names from S0002 on, in the split's range of numbers."""
        first, _ = SPEAKERS[split.kind]
        return [
            (f"S{first + index:04d}", gender)
            for index, gender in enumerate(genders(split.speakers))
        ]

    def utterances(
        self, split: Split, speakers: list[Speaker], draw: Callable[[], tuple[str, ...]]
    ) -> list[Utterance]:
        """Number each speaker's utterances from 0122."""
        result = []
        for speaker, count in zip(speakers, shares(split.count, len(speakers)), strict=True):
            for number in range(FIRST_UTTERANCE, FIRST_UTTERANCE + count):
                name = f"BAC009{speaker.name}W{number:04d}"
                audio = f"data_aishell/wav/{split.name}/{speaker.name}/{name}.wav"
                result.append(Utterance(name, split.name, speaker, draw(), audio))
        return result

    def transcript(self, words: tuple[str, ...]) -> str:
        """Return the words in characters, separated by spaces."""
        return " ".join(words)

    def spoken(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Return tone-numbered pinyin."""
        return mandarin.pinyin(words)

    def finish(self, root: Path, plan: Plan, samples: dict[str, int]) -> None:
        """Write the transcript of all splits, sorted by utterance.

        For ESPnet's and Kaldi's recipes, ``.complete`` means that no download is needed.
        """
        lines = [
            f"{utterance.id} {self.transcript(utterance.words)}\n"
            for utterance in sorted(plan.utterances, key=lambda utterance: utterance.id)
        ]
        folder = root / "data_aishell" / "transcript"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "aishell_transcript_v0.8.txt").write_text("".join(lines), encoding="utf-8")
        for part in ("data_aishell", "resource_aishell"):
            (root / part).mkdir(exist_ok=True)
            (root / part / "README.txt").write_text(NOTICE, encoding="utf-8")
            (root / part / ".complete").touch()
