"""The pre-flight check reports everything at once."""

from __future__ import annotations

import gc
import json
import logging
import time

import numpy as np
import pytest
import soundfile
import torch
from data_samples import kaldi_dir
from lhotse import CutSet

from nas_encoder.cli.main import main
from nas_encoder.data import (
    AsrLoader,
    FeatureConfig,
    FeatureExtractor,
    LoaderConfig,
    TokenSet,
    check_data,
    open_cuts,
    texts,
)
from nas_encoder.data.listening import listen
from nas_encoder.errors import ConfigError, DataError

CONFIG = FeatureConfig()


@pytest.fixture
def folders(tmp_path):
    train = kaldi_dir(tmp_path / "train", [1.0, 1.5, 0.5, 0.9])
    valid = kaldi_dir(tmp_path / "valid", [1.0, 0.7], ["ab", "c a"], prefix="val")
    return train, valid


def test_good_data(folders):
    train, valid = (open_cuts(folder) for folder in folders)
    tokens = TokenSet.build(texts(train))
    report = check_data(train, valid, tokens, CONFIG)
    assert report.ok and not report.warnings
    assert (report.train.utterances, report.train.used, report.train.speakers) == (4, 4, 2)
    assert report.train.hours == pytest.approx(3.9 / 3600)
    assert report.valid.sampling_rates == {16000: 2}
    assert report.tokens == len(tokens)
    json.dumps(report.to_dict())
    assert "valid: 2 utterances" in str(report)


def test_all_errors_of_both_splits_come_together(folders):
    train_dir, valid_dir = folders
    train, valid = (open_cuts(folder) for folder in folders)
    samples = np.full(16000, np.nan, dtype=np.float32)
    soundfile.write(train_dir / "wav" / "spk00-u000.wav", samples, 16000, subtype="FLOAT")
    (valid_dir / "wav" / "val00-u001.wav").unlink()
    tokens = TokenSet.build(["a b"])
    with pytest.raises(DataError) as caught:
        check_data(train, valid, tokens, CONFIG, subsampling_factor=40)
    problems = "\n".join(caught.value.problems)
    assert "train: not in the token set: 2 of 18 tokens (11.11%), 1 different: 'c' (2" in problems
    assert "valid: not in the token set: 1 of 5" in problems and "in 'val00-u001')" in problems
    assert "train: 3 of 4 utterances of allowed length have more tokens" in problems
    assert "train: utterance 'spk00-u000': 16000 of 16000 audio samples are NaN" in problems
    assert "valid: utterance 'val00-u001': its audio" in problems


def test_what_is_left_out_is_what_the_loader_leaves_out(folders, caplog):
    train, valid = (open_cuts(folder) for folder in folders)
    tokens = TokenSet.build(texts(train))
    features = FeatureExtractor.fit(CONFIG, train)
    limits = {"subsampling_factor": 24}
    with caplog.at_level(logging.INFO):
        report = check_data(train, valid, tokens, features, max_frames=120, min_frames=60, **limits)
    options = LoaderConfig(max_cuts=2, max_length=120, min_length=60, **limits)
    loader = AsrLoader(train, tokens, features, options)
    selection = loader.selection
    assert (report.train.too_long, report.train.too_short) == (1, 1)
    assert report.train.too_long == len(selection.too_long)
    assert report.train.too_short == len(selection.too_short)
    assert report.train.infeasible == len(selection.infeasible)
    assert report.train.used == len(selection.kept)
    assert "left out: 1 too short, 1 too long" in caplog.text
    warning = "train: 1 of 4 utterances are left out, as they are longer than 120 frames (1.2 s)"
    assert any(text.startswith(warning) for text in report.warnings) and warning in caplog.text


def test_warnings(tmp_path, folders, caplog):
    train, _ = (open_cuts(folder) for folder in folders)
    eight = open_cuts(kaldi_dir(tmp_path / "8k", [1.0], ["ab?"], rate=8000))
    tokens = TokenSet.build(texts(train), unk=True)
    with caplog.at_level(logging.WARNING):
        report = check_data(train, eight, tokens, CONFIG)
    text = "\n".join(report.warnings)
    assert "valid: read as <unk>: 1 of 3 tokens (33.33%), 1 different: '?' (1, first in" in text
    assert "1 speakers are in both train and valid (spk00" in text
    assert "1 utterance ids are in both" in text
    assert "the data has 8000 Hz, 16000 Hz; all is resampled to 16000 Hz" in text
    assert text.splitlines()[0] in caplog.text
    for cut in train:
        cut.supervisions[0].speaker = None
    assert "names no speakers" in "\n".join(check_data(train, eight, tokens, CONFIG).warnings)


def test_empty_data_and_bad_settings(folders):
    train, valid = (open_cuts(folder) for folder in folders)
    tokens = TokenSet.build(texts(train))
    report = check_data(train, CutSet.from_cuts([]), tokens, CONFIG, raise_errors=False)
    assert report.errors == ["valid: no utterance at all"] and not report.ok
    with pytest.raises(ConfigError, match="num_mel_bins"):
        check_data(train, valid, tokens, FeatureConfig(num_mel_bins=1))


def test_command_line(folders, capsys, tmp_path):
    train, valid = (str(folder) for folder in folders)
    assert main(["data", "check", "--train", train, "--valid", valid]) == 0
    assert "train: 4 utterances" in capsys.readouterr().out
    assert main(["data", "check", "--train", train, "--valid", valid, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    (tmp_path / "tokens.txt").write_text("a\nb\n")
    tokens = str(tmp_path / "tokens.txt")
    assert main(["data", "check", "--train", train, "--valid", valid, "--tokens", tokens]) == 1
    out = capsys.readouterr().out
    assert "error: train: not in the token set: 5 of 18 tokens" in out and "'<space>' (3" in out
    wrong = ["--jobs", "-1", "--subsampling-factor", "0", "--max-frames", "0"]
    assert main(["data", "check", "--train", train, "--valid", valid, *wrong]) == 2
    assert capsys.readouterr().err.count("must be at least 1, got") == 3
    assert main(["data", "check", "--train", train, "--valid", valid + "x"]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_the_command_says_what_it_sampled_and_full_reads_everything(tmp_path, capsys):
    """Two NaN files among 30, which a probe of 8 may miss, and each other fault."""
    train = kaldi_dir(tmp_path / "train", [0.5] * 30, ["ab"] * 30)
    valid = kaldi_dir(tmp_path / "valid", [0.5] * 12, ["ba"] * 12, prefix="val")
    files = sorted((train / "wav").iterdir())
    command = ["data", "check", "--train", str(train), "--valid", str(valid)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "; audio: probed 8 of 30" in out and "; audio: probed 8 of 12" in out
    assert main([*command, "--full"]) == 0
    found = capsys.readouterr()
    assert "; audio: all 30 read" in found.out and "; audio: all 12 read" in found.out
    assert "audio of train: 100%" in found.err and "00:00<00:00" in found.err  # with the time left
    wave = np.sin(np.arange(8000) / 7).astype(np.float32)
    faulty = {
        files[3]: np.where(np.arange(8000) == 77, np.nan, wave),
        files[17]: np.full(8000, np.nan),
        files[5]: np.clip(3 * wave, -1, 1),
        files[6]: np.zeros(8000),
        files[7]: wave * 1e-4,
        files[8]: np.full(8000, 0.1),
        files[9]: wave,  # at full scale, but whole
    }
    for file, samples in faulty.items():
        soundfile.write(file, samples, 16000, subtype="FLOAT")
    assert main([*command, "--full", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["train"]["listened"] == 30
    assert report["errors"] == [
        f"train: utterance '{files[3].stem}': 1 of 8000 audio samples are NaN or infinite",
        f"train: utterance '{files[17].stem}': 8000 of 8000 audio samples are NaN or infinite",
    ]
    warnings = "\n".join(report["warnings"])
    for number, rule in (
        (5, "the audio is clipped"),
        (6, "the audio is silent"),
        (7, "the audio is silent: no sample above -70 dB of full scale"),
        (8, "all samples are equal"),
    ):
        assert f"train: utterance '{files[number].stem}': {rule}" in warnings
    assert files[9].stem not in warnings


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_full_finds_files_that_changed_since_their_manifest(tmp_path, capsys):
    folder = kaldi_dir(tmp_path / "train", [0.5] * 20, ["ab"] * 20)
    cuts = open_cuts(folder)
    cuts.to_file(tmp_path / "train.jsonl")
    files = sorted((folder / "wav").iterdir())
    samples, _ = soundfile.read(files[2])
    soundfile.write(files[2], samples, 8000)  # another rate
    soundfile.write(files[4], samples[:3000], 16000)  # truncated
    files[6].write_bytes(b"RIFF")
    valid = kaldi_dir(tmp_path / "valid", [0.5], ["ba"], prefix="val")
    command = ["data", "check", "--train", str(tmp_path / "train.jsonl"), "--valid", str(valid)]
    assert main([*command, "--full", "--json"]) == 1
    errors = "\n".join(json.loads(capsys.readouterr().out)["errors"])
    assert f"'{files[2].stem}'" in errors and "8000 Hz" in errors
    assert f"'{files[4].stem}'" in errors and "3000" in errors
    assert f"'{files[6].stem}'" in errors
    gc.collect()  # lhotse leaves files open that it cannot read; here, where it is known


def test_phones_as_characters_are_told_to_be_phones(tmp_path):
    phones = "sil sh ix hv ae dcl d y er dcl d aa r kcl k s uw dx ih ng gcl g r iy s iy w aa"
    cuts = open_cuts(kaldi_dir(tmp_path, [1.5] * 4, [phones] * 4))
    tokens = TokenSet.build(texts(cuts))
    remedy = "they are spelled letter by letter: for phones, use --tokens phone"
    report = check_data(cuts, cuts, tokens, CONFIG, raise_errors=False)
    assert len(report.errors) == 2 and all(remedy in error for error in report.errors)
    features = FeatureExtractor.fit(CONFIG, cuts)
    options = LoaderConfig(max_cuts=2, subsampling_factor=4)
    with pytest.raises(DataError, match=remedy):
        AsrLoader(cuts, tokens, features, options)
    assert len(AsrLoader(cuts, TokenSet.build(texts(cuts), "phone"), features, options)) == 2
    # Where phones would not fit either, nothing of the kind is said.
    report = check_data(cuts, cuts, tokens, CONFIG, subsampling_factor=40, raise_errors=False)
    assert "use coarser tokens" in report.errors[0] and "--tokens" not in report.errors[0]


def test_ctrl_c_does_not_wait_for_all_audio(tmp_path, monkeypatch):
    train = open_cuts(kaldi_dir(tmp_path / "train", [0.5] * 40, ["ab"] * 40))
    features = FeatureExtractor.fit(FeatureConfig(normalization="none"), train)
    heard = []

    def interrupted(self, cut, native=False):
        heard.append(cut.id)
        if len(heard) == 3:
            raise KeyboardInterrupt
        time.sleep(0.05)
        return torch.zeros(1, 8000)

    monkeypatch.setattr(FeatureExtractor, "audio", interrupted)
    with pytest.raises(KeyboardInterrupt):
        listen("train", list(train), features, jobs=1)
    assert len(heard) < 40
