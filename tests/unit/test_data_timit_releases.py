"""TIMIT as it is really found: releases, copies, missing files, phone sets."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from data_samples import PART, SPACED, refused, timit, write_tone

from nas_encoder.data import open_cuts, prepare_corpus, texts


def recased(root, case, audio="{}"):
    """Rename everything below a folder; ``audio`` is the form of audio files' names."""
    for path in sorted(root.rglob("*"), key=lambda path: -len(path.parts)):
        name = audio.format(path.name) if path.suffix.upper() == ".WAV" else path.name
        path.rename(path.with_name(case(name)))


def contents(output, splits=("train", "dev", "test")):
    return {
        cut.id: (cut.duration, cut.supervisions[0].text, cut.supervisions[0].speaker)
        for split in splits
        for cut in open_cuts(output, split=split)
    }


def as_riff(root):
    """Write all audio again as RIFF, under the same names."""
    for path in root.rglob("*.WAV"):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples, rate, format="WAV")


@pytest.mark.parametrize("release", ["upper", "lower", "riff", "beside"])
def test_releases_of_timit(tmp_path, release):
    prepare_corpus("timit", timit(tmp_path / "ldc"), tmp_path / "want", PART)
    root = timit(tmp_path / SPACED / "timit" / "TIMIT")
    if release == "lower":  # timit/train/dr1/fcjf0/sx100.wav
        recased(root, str.lower)
    elif release == "riff":
        as_riff(root)
    elif release == "beside":  # SX100.WAV of NIST, and SX100.WAV.wav of RIFF
        for path in list(root.rglob("*.WAV")):
            write_tone(path.with_name(f"{path.name}.wav"), 1.0)
    prepare_corpus("timit", tmp_path / SPACED, tmp_path / "out", PART)
    assert contents(tmp_path / "out") == contents(tmp_path / "want")
    assert len(contents(tmp_path / "out")) == 4
    cut = next(iter(open_cuts(tmp_path / "out", split="test")))
    assert cut.supervisions[0].speaker == "MDAB0"  # one of the core test set's
    source = Path(cut.recording.sources[0].source)
    assert source.read_bytes()[:4] == (b"RIFF" if release == "riff" else b"NIST")


def test_timit_with_only_riff_copies(tmp_path):
    root = timit(tmp_path / "c")
    as_riff(root)
    recased(root, str, "{}.wav")
    prepare_corpus("timit", root, tmp_path / "out", PART)
    assert len(contents(tmp_path / "out")) == 4


def test_timit_counts_files_and_speakers(tmp_path, caplog):
    root = timit(tmp_path / "c")
    write_tone(root / "TEST" / "DR2" / "MXYZ0" / "SX3.WAV", 0.1, format="NIST")  # unused
    (root / "TRAIN" / "DR1" / "MDAC0" / "SX100.PHN").unlink()
    with caplog.at_level(logging.INFO):
        said = refused("timit", root, tmp_path / "out")
    assert "1 speakers of TEST are in neither dev nor core test" in caplog.text
    assert "train: 4,620 utterances expected, 3 found (4,617 lack); FCJF0 reads 2 of 10" in said
    assert "test: 24 speakers expected, 1 found; FDHC0, FELC0, FJLM0 and 20 more" in said
    assert "dev: 50 speakers expected, 1 found; FAKS0, FCAL1" in said
    assert "train: 'MDAC0-SX100': has no .PHN" in said
    phones = root / "TRAIN" / "DR1" / "FCJF0" / "SX100.PHN"
    phones.write_text("0 10\n30 20 sh\n")
    said = refused("timit", root, tmp_path / "out", PART)
    assert f"{phones}:1 '0 10': 'FIRST LAST UNIT' is expected, in samples (2 such" in said
    shutil.copytree(root / "TEST" / "DR1" / "MDAB0", root / "TEST" / "DR1" / "mdab0")
    assert "names differ in case, or two folders of a speaker" in refused(
        "timit", root, tmp_path / "out", PART
    )


def test_sizes_of_timits_phone_sets(tmp_path):
    root = timit(tmp_path / "c")
    for phones, text in (
        (61, "h# sh ix q hv ae dcl d h#"),
        (60, "h# sh ix q hv ae dcl d h#"),  # lhotse's name for the same
    ):
        prepare_corpus("timit", root, tmp_path / "out", replace(PART, phones=phones))
        assert set(texts(open_cuts(tmp_path / "out", split="dev"))) == {text}
