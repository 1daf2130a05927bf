"""Tiny corpora for the data tests: tones and noise, laid out as the real ones are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nas_encoder.data import PrepareOptions, prepare_corpus
from nas_encoder.errors import DataError

RATE = 16000
PART = PrepareOptions(partial=True, jobs=2)
SPACED = "my corpora (2nd copy), 2020"  # as people name folders


def write_tone(path: Path, seconds: float, *, seed: int = 0, rate: int = RATE, **options) -> Path:
    """Write a noisy tone; the same arguments give the same samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 2000) * time)
    soundfile.write(path, tone + 0.01 * rng.standard_normal(len(time)), rate, **options)
    return path


def kaldi_dir(
    folder: Path,
    seconds: Sequence[float] = (1.0, 1.5, 0.8),
    texts: Sequence[str] | None = None,
    *,
    rate: int = RATE,
    prefix: str = "spk",
) -> Path:
    """Write a data folder of one utterance per duration, two utterances to a speaker."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = texts or [("ab ba", "abc", "cab a")[i % 3] for i in range(len(seconds))]
    wavs, transcripts, speakers = [], [], []
    for number, (length, text) in enumerate(zip(seconds, texts, strict=True)):
        key = f"{prefix}{number // 2:02d}-u{number:03d}"
        path = write_tone(folder / "wav" / f"{key}.wav", length, seed=number, rate=rate)
        wavs.append(f"{key} {path}")
        transcripts.append(f"{key} {text}")
        speakers.append(f"{key} {key.split('-')[0]}")
    for name, lines in (("wav.scp", wavs), ("text", transcripts), ("utt2spk", speakers)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def nemo_manifest(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def aishell(root: Path) -> Path:
    """AISHELL-1's layout with two utterances in each part, one without a transcript in train."""
    lines = []
    for number, (part, speaker) in enumerate(
        [("train", "S0002"), ("train", "S0003"), ("dev", "S0724"), ("test", "S0764")]
    ):
        for take in range(2):
            key = f"BAC009{speaker}W{number:02d}{take:02d}"
            write_tone(
                root / "data_aishell" / "wav" / part / speaker / f"{key}.wav",
                1.0 + 0.1 * take,
                seed=number * 10 + take,
            )
            lines.append(f"{key} 今天 天气 {'好 不好'[take * 2 :]}")
    write_tone(root / "data_aishell/wav/train/S0002/BAC009S0002W9999.wav", 1.0)
    transcript = root / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt"
    transcript.parent.mkdir(parents=True)
    transcript.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def librispeech(root: Path, subsets: Sequence[str]) -> Path:
    """LibriSpeech's layout; reader ids 103 and 1034 sort differently alone and in ids."""
    for number, subset in enumerate(subsets):
        for reader in (f"10{number}", f"10{number}4"):
            chapter = root / subset / reader / "1240"
            lines = []
            for take in range(2):
                key = f"{reader}-1240-{take:04d}"
                write_tone(chapter / f"{key}.flac", 1.0 + take, seed=number + take)
                lines.append(f"{key} HELLO WORLD {'AGAIN' * take}".strip())
            (chapter / f"{reader}-1240.trans.txt").write_text("\n".join(lines) + "\n")
    return root


TIMIT_SPEAKERS = {"TRAIN": ["FCJF0", "MDAC0"], "TEST": ["FADG0", "MDAB0"]}  # dev, core test


def timit(root: Path) -> Path:
    """TIMIT's layout with NIST files, an SA and an SX sentence for each speaker."""
    for part, speakers in TIMIT_SPEAKERS.items():
        for number, speaker in enumerate(speakers):
            for name in ("SA1", "SX100"):
                base = root / part / "DR1" / speaker / name
                write_tone(base.with_suffix(".WAV"), 1.0, seed=number, format="NIST")
                end = RATE
                base.with_suffix(".TXT").write_text(f"0 {end} She had.\n")
                base.with_suffix(".WRD").write_text(f"2000 8000 she\n8000 {end - 2000} had\n")
                base.with_suffix(".PHN").write_text(
                    "0 2000 h#\n2000 5000 sh\n5000 8000 ix\n8000 9000 q\n9000 10000 hv\n"
                    f"10000 12000 ae\n12000 13000 dcl\n13000 14000 d\n14000 {end} h#\n"
                )
    return root


PROMPT_VOICES = {"en": ["en_US_f_Allison"], "it": ["it_IT_m_Carlo", "it_IT_f_Menardi"]}
PACE = 0.06  # seconds a letter


def prompt_lines(language: str) -> dict[str, str]:
    """Return name -> text of 40 prompts that have few words in common, and of some to leave out."""
    verbs = {"en": ["press", "enter", "dial"], "it": ["premere", "digitare", "più"]}[language]
    syllables = [f"{consonant}{vowel}" for consonant in "bdlmrt" for vowel in "aeio"]
    lines = {
        f"vm-{number:02d}": f"{verbs[number % 3].title()} {syllables[number % 24] * 2} "
        f"{syllables[number // 24 + number % 20]}{syllables[number % 17]}n."
        for number in range(40)
    }
    return lines | {
        "digits/1": {"en": "one", "it": "uno"}[language],
        "conf-2": {"en": "Press 1, or 2.", "it": "Premere 1, o 2."}[language],
        "beep": "[this is a simple beep tone]",
        "silence/1": "(1 second of silence)",
        "letters/b": "b",
        "spy-iax": "IAX",
        "vm-lost": "Il tempo sar? ora" if language == "it" else "",
        "vm-unread": "No recording.",
    }


def prompts(root: Path, languages: Sequence[str] = ("en", "it")) -> Path:
    """Prompts as Debian's packages lay them out; Menardi lacks some and has others."""
    for language in languages:
        lines = prompt_lines(language)
        folder = root / "usr/share/doc" / f"asterisk-core-sounds-{language}"
        folder.mkdir(parents=True)
        text = "\ufeff; Core Asterisk Sounds\n\n"
        text += "".join(f"{name}: {line}\n" for name, line in lines.items())
        with gzip.open(folder / f"core-sounds-{language}.txt.gz", "wt", encoding="utf-8") as file:
            file.write(text)
        for speaker, voice in enumerate(PROMPT_VOICES[language]):
            sounds = root / "usr/share/asterisk/sounds" / voice
            for number, (name, line) in enumerate(lines.items()):
                if name != "vm-unread" and not (speaker and name == "vm-03"):
                    seconds = 0.35 + PACE * (1 + 0.1 * speaker) * len(line)
                    seed = 1000 * speaker + number
                    write_tone(sounds / f"{name}.wav", seconds, seed=seed, rate=8000)
            # Whose length is not that of its text, and one without a text.
            write_tone(sounds / "vm-00.wav", 9.0, rate=8000)
            write_tone(sounds / "phonetic/ICAO/a_p.wav", 1.0, rate=8000)
    return root


def refused(corpus: str, root: Path, output: Path, options: PrepareOptions | None = None) -> str:
    """Prepare what must be refused; return the problems, a line each."""
    with pytest.raises(DataError) as caught:
        prepare_corpus(corpus, root, output, options)
    assert not (output / "prepared.json").exists()
    return "\n".join(caught.value.problems)
