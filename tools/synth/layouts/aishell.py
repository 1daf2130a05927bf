"""AISHELL-1: Mandarin, as unpacked from data_aishell.tgz.

``data_aishell/wav/{train,dev,test}/S0002/BAC009S0002W0122.wav`` and one transcript
file with the words of every utterance, separated by spaces.
"""

from __future__ import annotations

from pathlib import Path

from tools.synth import mandarin
from tools.synth.corpus import Plan, Request, Split
from tools.synth.layouts.base import NOTICE, Layout
from tools.synth.voices import Speaker

FIRST_UTTERANCE = 122
UTTERANCES = 9878
"""Most utterances of a speaker: the last one's number is 9999."""


class Aishell(Layout):
    """AISHELL-1's layout."""

    name = "aishell"
    language = "zh"
    accents = ("sit/cmn-Latn-pinyin",)
    rates = (140, 200)
    numbers = {"train": range(2, 724), "dev": range(724, 764), "test": range(764, 917)}
    speaker = "S{:04d}"

    def problems(self, request: Request) -> list[str]:
        """Return what this layout cannot satisfy of a request."""
        return super().problems(request) + [
            f"--{split.kind}: at most {UTTERANCES} utterances for each speaker, "
            f"got {split.count} for {split.speakers}"
            for split in self.splits(request)
            if split.count > UTTERANCES * split.speakers > 0
        ]

    def audio(self, split: Split, speaker: Speaker, index: int) -> str:
        """Return the path of a speaker's utterance, numbered from 0122."""
        name = f"BAC009{speaker.name}W{FIRST_UTTERANCE + index:04d}.wav"
        return f"data_aishell/wav/{split.name}/{speaker.name}/{name}"

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
