"""TIMIT: American English with phone and word boundaries.

``data/{TRAIN,TEST}/DR1/FCJF0/SA1.WAV`` with ``.PHN``, ``.WRD`` and ``.TXT`` beside it. The folder
``data`` is what the LDC calls ``TIMIT``; lhotse looks for it under this name. As in TIMIT, the
``.WAV`` files are NIST SPHERE files, not RIFF: lhotse (through libsndfile) reads both, Kaldi's and
ESPnet's recipes (through sph2pipe) need SPHERE.

One difference is deliberate. In TIMIT all speakers, including test speakers, read the two SA
sentences, and lhotse does not leave them out. Here SA1 and SA2 are different sentences in each
split, so splits share no sentence.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.synth import english
from tools.synth.audio import SAMPLE_RATE, Recording
from tools.synth.corpus import Plan, Split, Utterance
from tools.synth.espeak import Speech
from tools.synth.layouts.base import NOTICE, Layout, genders, shares
from tools.synth.phones import Segment, phone_segments, word_segments
from tools.synth.voices import Speaker
from tools.synth.workspace import write_whole

CORE_TEST: dict[str, int] = {
    "FELC0": 1, "MDAB0": 1, "MWBT0": 1, "FPAS0": 2, "MTAS1": 2, "MWEW0": 2,
    "FPKT0": 3, "MJMP0": 3, "MLNT0": 3, "FJLM0": 4, "MLLL0": 4, "MTLS0": 4,
    "FNLP0": 5, "MBPM0": 5, "MKLT0": 5, "FMGD0": 6, "MCMJ0": 6, "MJDH0": 6,
    "FDHC0": 7, "MGRT0": 7, "MNJM0": 7, "FMLD0": 8, "MJLN0": 8, "MPAM0": 8,
}  # fmt: skip
"""TIMIT's 24 core test speakers and their dialect regions."""

DEV: tuple[str, ...] = (
    "FADG0", "FAKS0", "FCAL1", "FCMH0", "FDAC1", "FDMS0", "FDRW0", "FEDW0", "FGJD0", "FJEM0",
    "FJMG0", "FJSJ0", "FKMS0", "FMAH0", "FMML0", "FNMR0", "FREW0", "FSEM0", "MAJC0", "MBDG0",
    "MBNS0", "MBWM0", "MCSH0", "MDLF0", "MDLS0", "MDVC0", "MERS0", "MGJF0", "MGLB0", "MGWT0",
    "MJAR0", "MJFC0", "MJSW0", "MMDB1", "MMDM2", "MMJR0", "MMWH0", "MPDF0", "MRCS0", "MREB0",
    "MRJM4", "MRJR0", "MROA0", "MRTK0", "MRWS1", "MTAA0", "MTDT0", "MTEB0", "MTHC0", "MWJG0",
)  # fmt: skip
"""The usual 50 development speakers, taken from TIMIT's TEST folder."""

READERS_OF_SX = 7
"""As in TIMIT, each SX sentence has up to seven readers of one split, each SI has one."""

FIRST_SENTENCE: dict[str, int] = {"train": 1, "dev": 100001, "test": 200001}
SENTENCES = 50000
"""SX numbers begin at a split's first number, SI numbers that much later."""


class Timit(Layout):
    """TIMIT's layout."""

    name = "timit"
    language = "en"
    accents = ("gmw/en-US",)
    rates = (110, 150)
    echo = False
    numbers = {
        "train": range(462),
        "dev": range(len(DEV)),
        "test": range(len(CORE_TEST)),
    }

    def speaker_names(self, split: Split, rng: random.Random) -> list[tuple[str, str]]:
        """Return the official names of dev and test speakers, and new ones for train."""
        if split.kind == "test":
            return [(name, name[0]) for name in list(CORE_TEST)[: split.speakers]]
        if split.kind == "dev":
            female = [name for name in DEV if name[0] == "F"]
            male = [name for name in DEV if name[0] == "M"]
            mixed = [(female, male)[i % 3 > 0].pop(0) for i in range(48)] + female + male
            return [(name, name[0]) for name in mixed[: split.speakers]]
        names: dict[str, str] = {}
        for gender in genders(split.speakers):
            while True:
                name = gender + "".join(rng.choices(string.ascii_uppercase, k=3)) + "0"
                if name not in names and name not in CORE_TEST and name not in DEV:
                    break
            names[name] = gender
        return list(names.items())

    def utterances(
        self, split: Split, speakers: list[Speaker], draw: Callable[[], tuple[str, ...]]
    ) -> list[Utterance]:
        """Give each speaker SA1, SA2 and, of the rest, five SX for three SI sentences.

        Speakers with fewer than five utterances read no SA sentence.
        """
        counts = shares(split.count, len(speakers))
        dialects = (count - 2 if count >= 5 else count for count in counts)
        compact = [round(count * 5 / 8) for count in dialects]
        pool = [draw() for _ in range(max(-(-sum(compact) // READERS_OF_SX), *compact, 1))]
        shared = (draw(), draw())
        first = FIRST_SENTENCE[split.kind]
        result: list[Utterance] = []
        next_sx = next_si = 0
        for index, speaker in enumerate(speakers):
            said = [(f"SA{number}", words) for number, words in enumerate(shared, start=1)]
            said = said if counts[index] >= 5 else []
            for _ in range(compact[index]):
                number = next_sx % len(pool)
                said.append((f"SX{first + number}", pool[number]))
                next_sx += 1
            while len(said) < counts[index]:
                said.append((f"SI{first + SENTENCES + next_si}", draw()))
                next_si += 1
            folder = "TRAIN" if split.kind == "train" else "TEST"
            region = CORE_TEST.get(speaker.name, 1 + index % 8)
            for name, words in said:
                audio = f"data/{folder}/DR{region}/{speaker.name}/{name}.WAV"
                result.append(
                    Utterance(f"{speaker.name}-{name}", split.name, speaker, words, audio)
                )
        return result

    def transcript(self, words: tuple[str, ...]) -> str:
        """Return the sentence in ordinary spelling with its final mark."""
        return english.punctuated(words)

    def write(
        self, path: Path, utterance: Utterance, recording: Recording, speech: Speech
    ) -> tuple[Sequence[str], int]:
        """Write the SPHERE file, ``.PHN``, ``.WRD`` and ``.TXT``."""
        inner, halved = phone_segments(speech)
        words = word_segments(inner, utterance.words)
        length = len(recording.samples)

        def lines(segments: list[Segment]) -> str:
            rows = [
                (recording.position(segment.start), recording.position(segment.end), segment.label)
                for segment in segments
            ]
            return "".join(f"{start} {end} {label}\n" for start, end, label in rows if start < end)

        begin, end = recording.position(inner[0].start), recording.position(inner[-1].end)
        phones = f"0 {begin} h#\n{lines(inner)}{end} {length} h#\n"
        path.with_suffix(".PHN").write_text(phones, encoding="ascii")
        path.with_suffix(".WRD").write_text(lines(words), encoding="ascii")
        text = f"0 {length} {self.transcript(utterance.words)}\n"
        path.with_suffix(".TXT").write_text(text, encoding="ascii")
        # The audio comes last: where it exists, the rest does.
        sphere = sphere_header(utterance, recording) + recording.samples.astype("<i2").tobytes()
        write_whole(path, lambda file: file.write_bytes(sphere))
        return ["h#", *(segment.label for segment in inner), "h#"], halved

    def finish(self, root: Path, plan: Plan, samples: dict[str, int]) -> None:
        """Write a note and the table of speakers."""
        (root / "README.TXT").write_text(NOTICE, encoding="utf-8")
        folders = {utterance.speaker.name: utterance.audio for utterance in plan.utterances}
        lines = ["; ID  Sex DR Use  espeak-ng voice"]
        for speaker in plan.speakers:
            region = folders[speaker.name].split("/")[2][2:]
            use = "TRN" if speaker.split == "train" else "TST"
            name = speaker.name[1:]
            lines.append(f"{name}  {speaker.gender}   {region}  {use}  {speaker.voice.name}")
        folder = root / "data" / "DOC"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "SPKRINFO.TXT").write_text("\n".join(lines) + "\n", encoding="utf-8")


def sphere_header(utterance: Utterance, recording: Recording) -> bytes:
    """Return the 1024 bytes before the samples in a NIST SPHERE file, version 1A."""
    samples = recording.samples
    name = utterance.id.lower().replace("-", "_")
    fields: list[tuple[str, int | str]] = [
        ("database_id", "synthetic"),
        ("database_version", "1.0"),
        ("utterance_id", name),
        ("channel_count", 1),
        ("sample_count", len(samples)),
        ("sample_rate", SAMPLE_RATE),
        ("sample_min", int(samples.min())),
        ("sample_max", int(samples.max())),
        ("sample_n_bytes", 2),
        ("sample_byte_format", "01"),  # low byte first
        ("sample_sig_bits", 16),
    ]
    lines = ["NIST_1A", "   1024"]
    for key, value in fields:
        kind = "-i" if isinstance(value, int) else f"-s{len(value)}"
        lines.append(f"{key} {kind} {value}")
    return ("\n".join([*lines, "end_head"]) + "\n").encode("ascii").ljust(1024)
