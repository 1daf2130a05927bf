"""Random data folders and manifests, read by our reader and by the toolkits' own, side by side.

    python tests/reader_cases.py --count 5000 --seed 1      # prints how many of each outcome

Wherever ours accepts, ids, texts and samples must be those of kaldiio and ESPnet's readers, or of
NeMo's ``ASRAudioText`` and ``AudioSegment``. Wherever it refuses, the error must be ours; what is
sound must not be refused, and what is known to be cut short must be.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from reader_references import KaldiReference, NemoReference
from reader_sounds import Pool

from nas_encoder.data import open_cuts
from nas_encoder.data.sound import UnusableSoundError
from nas_encoder.errors import DataError

IDS = [
    "utt1",
    "utt-2",
    "Ütt3",
    "e\u0301",
    "\u00e9",
    "话语4",
    "a'b",
    "#5",
    "x:6",
    "-7",
    "[8]",
    "a,b",
]
TEXTS = ["a b c", "HELLO", "你好 世界", "e\u0301t\u00e9", "  two  spaces  in ", "\u00a0nbsp\u00a0",
         "<noise> x", "x" * 300, "tab\there", "quote\"s' \\ back", "1"]  # fmt: skip
NAMES = ["a.wav", "with space.wav", "quo'te.wav", "ünï.wav", "b[1].wav", "c:d.wav", "e#f.wav",
         "g$h.wav", "i;j.wav", "k*.wav", "l?.wav", "(m).wav", "n&o.wav", "~p.wav", "q,r.wav",
         "-s.wav"]  # fmt: skip


class Case:
    """One folder or manifest, and what is known of it beforehand."""

    def __init__(self, pool: Pool, folder: Path, rng: random.Random) -> None:
        self.pool, self.folder, self.rng = pool, folder, rng
        self.sound = True  # nothing was done that a reader may refuse
        self.cut_short = False  # something was done that must be refused

    def maybe(self, probability: float) -> bool:
        return self.rng.random() < probability

    def spoil(self) -> None:
        self.sound = False

    def file(self) -> Path:
        """A whole file of the pool, perhaps under a name that is hard to write."""
        path = self.pool.sound[self.rng.choice(list(self.pool.sound))]
        if self.maybe(0.3):
            odd = self.folder / self.rng.choice(NAMES)
            odd = odd.with_suffix(path.suffix)
            if not odd.exists():
                os.link(path, odd)
                other = Path(odd.name)  # in the working directory, where another reader may look
                if not other.exists():
                    os.link(self.pool.sound["s1.wav"], other)
            return odd
        return path

    def audio(self) -> str:
        """A path, sound or not."""
        kind = self.rng.random()
        if kind < 0.94:
            return str(self.file())
        self.spoil()
        if kind < 0.96:
            self.cut_short = True
            return str(self.pool.broken[self.rng.choice(list(self.pool.broken))])
        if kind < 0.975:
            return str(self.pool.stereo[self.rng.choice(list(self.pool.stereo))])
        if kind < 0.99:
            return str(self.folder / "absent.wav")
        empty = self.folder / "empty.wav"
        empty.write_bytes(b"")
        return str(empty)

    def mangled(self, lines: list[str], encoding: str = "utf-8") -> bytes:
        """Lines as a file, with what editors and other systems do to files."""
        end, text = "\n", ""
        if self.maybe(0.1):
            end = "\r\n"
        lines = list(lines)
        if self.maybe(0.03) and lines:
            self.spoil()
            lines.insert(self.rng.randrange(len(lines) + 1), self.rng.choice(["", "  ", "\t"]))
        if self.maybe(0.03) and lines:
            self.spoil()
            lines.append(self.rng.choice(lines))
        if self.maybe(0.02):
            self.spoil()
            text = "\ufeff"
        text += end.join(lines)
        if self.maybe(0.9):
            text += end
        if self.maybe(0.02):
            self.spoil()
            return text.encode("utf-16")
        return text.encode(encoding)


# -- Kaldi and ESPnet ---------------------------------------------------------------------------


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"


def _location(case: Case) -> str:
    rng, kind = case.rng, case.rng.random()
    if kind < 0.45:
        path = case.audio()
        if path.startswith(os.getcwd()) and case.maybe(0.5):
            return os.path.relpath(path)
        return path
    if kind < 0.68:
        return case.pool.archived[rng.choice(list(case.pool.archived))]
    if kind < 0.7:
        case.spoil()
        place = case.pool.archived[rng.choice(list(case.pool.archived))]
        file, offset = place.rsplit(":", 1)
        feats = f"{case.pool.folder}/feats.ark:2"
        return rng.choice([f"{file}:{int(offset) + 1}", file, f"{place}9", feats, f"{place}[0:9]"])
    path = str(case.file())
    if kind < 0.96:
        plain = not re.search(r"[^\w./-]", path)
        if plain and case.maybe(0.5):
            return rng.choice([f"cat {path} |", f"cat {path}|", f"cat  {path}  | "])
        command = rng.choice(["cat {} |", "cat < {} |", "cat {} | cat |", "true; cat {} |"])
        return command.format(_quoted(path))
    case.spoil()
    size = max(os.path.getsize(path) // 2, 60)
    case.cut_short = True
    return rng.choice(
        [
            f"head -c {size} {_quoted(path)} |",
            f"head -c {size} {_quoted(path)}; exit 7 |",
            f"cat {_quoted(path)} /absent |" if path.endswith("wav") else "false |",
            f"head -c {size} {_quoted(path)} | cat |",
        ]
    )


def make_kaldi(case: Case) -> None:
    """Write ``wav.scp``, ``text`` and perhaps ``segments``."""
    rng = case.rng
    ids = rng.sample(IDS, rng.randint(1, 5))
    scp, utterances, short = [], list(ids), set()
    for key in ids:
        gap = rng.choice([" ", " ", "  ", "\t"])
        scp.append(f"{key}{gap}{_location(case)}{rng.choice(['', '', ' ', '  '])}")
        if case.cut_short:
            short.add(key)
            case.cut_short = False
    if case.maybe(0.35):
        utterances, lines = [], []
        for key in ids:
            for part in range(rng.randint(0, 2)):
                start = round(rng.uniform(0, 0.024), rng.randint(3, 8))
                end = rng.choice([-1, round(start + rng.uniform(0.005, 0.08), rng.randint(2, 8))])
                if end != -1 and end > 0.025:
                    case.spoil()  # may lie outside of the shortest recordings
                if case.maybe(0.03):
                    case.spoil()
                    start, end = rng.choice(
                        [
                            (-0.01, 0.05),
                            (0.5, 0.4),
                            (0.1, 99.0),
                            ("x", 1.0),
                            (0, 1e308),
                            (1e308, -1),
                        ]
                    )
                utterances.append(f"{key}-{part}")
                lines.append(f"{key}-{part} {key} {start} {end}")
                if case.maybe(0.02):
                    case.spoil()
                    lines[-1] += " A"
        if not lines:
            case.spoil()
        (case.folder / "segments").write_bytes(case.mangled(lines))
    case.cut_short = any(key.removesuffix("-0").removesuffix("-1") in short for key in utterances)
    texts = [f"{key} {rng.choice(TEXTS)}" for key in utterances]
    if case.maybe(0.05) and texts:
        case.spoil()
        texts.pop(rng.randrange(len(texts)))
    if case.maybe(0.03) and texts:
        case.spoil()
        texts[-1] = utterances[-1]
    if case.maybe(0.1):
        texts.append("unheard text that nobody says")
    rng.shuffle(texts)
    (case.folder / "text").write_bytes(case.mangled(texts))
    (case.folder / "wav.scp").write_bytes(case.mangled(scp))


# -- NeMo ---------------------------------------------------------------------------------------


def make_nemo(case: Case) -> None:
    """Write ``manifest.json``."""
    rng, rows = case.rng, []
    for _ in range(rng.randint(1, 5)):
        path = case.audio()
        if os.path.dirname(path) == str(case.folder) and case.maybe(0.6):
            path = os.path.basename(path)
        elif case.maybe(0.2):
            path = os.path.relpath(path)
        row: dict[str, Any] = {rng.choice(["audio_filepath"] * 8 + ["audio_filename"]): path}
        inside = os.path.join(case.folder, path)
        try:
            info = soundfile.info(inside if os.path.isfile(inside) else path)
            length, rate = info.frames / info.samplerate, info.samplerate
        except soundfile.LibsndfileError:
            length, rate = 0.1, 16000
        row["duration"] = rng.choice([length, round(length, 2), round(length, 6)])
        if case.maybe(0.4):
            row["offset"] = round(rng.uniform(0, length * 0.8), rng.randint(1, 9))
            row["duration"] = round(length - row["offset"], rng.randint(2, 9))
            if case.maybe(0.5):
                row["duration"] *= rng.random()
            if row["duration"] * rate < 2 or row["offset"] >= length:
                case.spoil()
        elif case.maybe(0.2):
            row["offset"] = rng.choice([None, 0, 0.0])
        if row["duration"] <= 0 or int(row["duration"] * rate) < 1:
            case.spoil()
        _give_text(case, row)
        if case.maybe(0.1):
            row["speaker"] = rng.choice(["s", 3, None])
        if case.maybe(0.06):
            _damage(case, row)
        if case.maybe(0.03):
            case.spoil()
            archived = case.pool.archived[rng.choice(list(case.pool.archived))]
            other = rng.choice([archived, f"cat {path} |", f"{path} ", f" {path}", f"{path}[0:9]"])
            row["audio_filepath"] = other
        rows.append(row)
    audio = [row.get("audio_filename", row.get("audio_filepath")) for row in rows]
    if len({os.path.basename(str(path)) for path in audio}) < len(rows):
        case.spoil()  # perhaps the same audio twice
    ascii_only = rng.choice([True, False])
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    if case.maybe(0.03):
        case.spoil()
        lines[-1] = lines[-1][: rng.randrange(len(lines[-1]))]
    (case.folder / "manifest.json").write_bytes(case.mangled(lines))


def _give_text(case: Case, row: dict[str, Any]) -> None:
    text, kind = case.rng.choice(TEXTS), case.rng.random()
    if kind < 0.85:
        row["text"] = text
    elif kind < 0.9:
        row["normalized_text"] = text
    elif kind < 0.97:
        path = case.folder / f"text{case.rng.randrange(9)}.txt"
        path.write_text(f"{text}\nand more\n", encoding="utf-8")
        row["text_filepath"] = str(path)
    else:
        case.spoil()
        row |= case.rng.choice([{}, {"text": ""}, {"text": None}, {"text_filepath": "absent.txt"}])


def _damage(case: Case, row: dict[str, Any]) -> None:
    case.spoil()
    key = case.rng.choice(list(row))
    if case.maybe(0.4):
        del row[key]
    else:
        row[key] = case.rng.choice(
            [None, -1, 0, "", "x", float("nan"), [], True, 1e9, 1e308, 10**400]
        )


# -- side by side -------------------------------------------------------------------------------


def check(case: Case, form: str) -> str:
    """Read one case with both readers; return what came out of it."""
    source = case.folder if form == "kaldi" else case.folder / "manifest.json"
    try:
        cuts = list(open_cuts(source, jobs=1))
        ours = [cut.load_audio() for cut in cuts]
    except (DataError, UnusableSoundError) as error:
        assert str(error)
        assert not case.sound, f"refused, but nothing is wrong with it: {error}"
        return "refused"
    reference = (KaldiReference if form == "kaldi" else NemoReference)(case.folder)
    keys = reference.ids
    if form == "kaldi":
        assert [cut.id for cut in cuts] == keys
    assert len(cuts) == len(keys) == len({cut.id for cut in cuts})
    for cut, audio, key in zip(cuts, ours, keys, strict=True):
        rate, samples = reference.read(key)
        assert cut.sampling_rate == rate, key
        assert audio.shape == (1, len(samples)) == (1, cut.num_samples), (key, audio.shape)
        assert np.array_equal(audio[0], samples), key
        assert cut.supervisions[0].text == reference.text(key), key
    assert not case.cut_short, "accepted, but some of its audio is cut short"
    return "the same"


def cases(seed: int, count: int) -> Counter[str]:
    """Try ``count`` folders and manifests; return how many had which outcome.

    Raises:
        AssertionError: The readers differ; the folder is kept, and named.
    """
    outcomes: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NeMo's imports, of other libraries
        import nemo.collections.asr.parts.preprocessing.segment
        import nemo.collections.common.parts.preprocessing.collections  # noqa: F401
    loggers = [logging.getLogger(name) for name in ("nemo_logger", "nas_encoder")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    root = Path(tempfile.mkdtemp(prefix="readers-"))
    rng = random.Random(seed)
    (root / "pool").mkdir()
    before = os.getcwd()
    os.chdir(root)  # relative paths start here
    try:
        pool = Pool(root / "pool", rng)
        for number in range(count):
            folder = root / f"case{number}"
            folder.mkdir()
            form = rng.choice(["kaldi", "nemo"])
            case = Case(pool, folder, random.Random(rng.randrange(2**60)))
            (make_kaldi if form == "kaldi" else make_nemo)(case)
            try:
                outcomes[f"{form}: {check(case, form)}"] += 1
            except Exception as error:
                raise AssertionError(f"case {number} of seed {seed}, in {folder}") from error
            shutil.rmtree(folder)
    finally:
        os.chdir(before)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    shutil.rmtree(root)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for outcome, number in sorted(cases(args.seed, args.count).items()):
        print(f"{number:6} {outcome}")


if __name__ == "__main__":
    main()
