"""Corpora in their published layouts, through lhotse's recipes, to all three outputs."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from data_samples import aishell, librispeech, timit

from nas_encoder.cli.main import main
from nas_encoder.data import PrepareOptions, open_cuts, prepare_corpus, texts
from nas_encoder.data.corpora import MARK
from nas_encoder.errors import ConfigError, DataError, RegistryError

PART = PrepareOptions(partial=True)


def assert_outputs_agree(output, splits):
    """Every split is there in all forms, sorted, with the same utterances."""
    for split in splits:
        cuts = open_cuts(output, split=split)
        want = {c.id: (c.duration, c.supervisions[0].text) for c in cuts}
        assert list(want) == sorted(want)
        for source in (output / "espnet" / split, output / "nemo" / f"{split}.json"):
            got = {c.id: (c.duration, c.supervisions[0].text) for c in open_cuts(source)}
            assert got == want, source
        espnet = output / "espnet" / split
        files = {path.name for path in espnet.iterdir()}
        assert files == {"wav.scp", "text", "utt2spk", "spk2utt", "utt2dur"}
        for path in espnet.iterdir():
            lines = path.read_bytes().splitlines()
            assert lines == sorted(lines), path
        utt2spk = [line.split() for line in (espnet / "utt2spk").read_text().splitlines()]
        assert [s for _, s in utt2spk] == sorted(s for _, s in utt2spk)
        back = [line.split() for line in (espnet / "spk2utt").read_text().splitlines()]
        assert sorted((u, s) for s, *us in back for u in us) == sorted(map(tuple, utt2spk))
        for name in ("recordings", "supervisions", "cuts"):
            assert (output / "lhotse" / split / f"{name}.jsonl.gz").is_file()


def test_aishell(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        prepared = prepare_corpus("aishell", aishell(tmp_path / "c"), tmp_path / "out", PART)
    assert {name: s.utterances for name, s in prepared.splits.items()} == {
        "train": 4,
        "dev": 2,
        "test": 2,
    }
    assert prepared.splits["train"].speakers == 2
    assert "1 of 5 audio files of 'train' have no transcript and are left out" in caplog.text
    assert_outputs_agree(tmp_path / "out", prepared.splits)
    assert texts(open_cuts(tmp_path / "out" / "espnet" / "dev")) == [
        "今天天气好不好",
        "今天天气不好",
    ]
    row = json.loads((tmp_path / "out" / "nemo" / "test.json").read_text().splitlines()[0])
    assert row["text"] == "今天天气好不好" and row["duration"] == 1.0
    assert row["audio_filepath"].startswith("/") and set(row) == {
        "audio_filepath",
        "duration",
        "text",
        "utt_id",
        "speaker",
        "lang",
    }
    # The folder inside, as some unpack it, is the same corpus.
    again = prepare_corpus("aishell", tmp_path / "c" / "data_aishell", tmp_path / "out2", PART)
    assert again.splits == prepared.splits


def test_librispeech_finds_its_subsets(tmp_path):
    subsets = ["train-clean-100", "dev-clean", "dev-other", "test-clean"]
    root = librispeech(tmp_path / "LibriSpeech", subsets)
    prepared = prepare_corpus("librispeech", tmp_path, tmp_path / "out", replace(PART, jobs=2))
    assert {name: s.utterances for name, s in prepared.splits.items()} == {
        "train": 4,
        "dev": 8,
        "test": 4,
        "dev_clean": 4,
        "dev_other": 4,
    }
    assert_outputs_agree(tmp_path / "out", prepared.splits)
    wavs = (tmp_path / "out" / "espnet" / "train" / "wav.scp").read_text()
    assert "|" not in wavs and ".flac" in wavs
    chosen = replace(PART, subsets={"train": ["dev-clean"], "dev": ["dev-other"]})
    prepared = prepare_corpus("librispeech", root, tmp_path / "out3", chosen)
    assert list(prepared.splits) == ["train", "dev"]


def test_mini_librispeech_has_no_test_split(tmp_path, caplog):
    root = librispeech(tmp_path / "c", ["train-clean-5", "dev-clean-2"])
    with caplog.at_level(logging.WARNING):
        prepared = prepare_corpus("librispeech", root, tmp_path / "out", PART)
    assert list(prepared.splits) == ["train", "dev"]
    assert "no test-* subset" in caplog.text


@pytest.mark.parametrize(
    ("phones", "text"),
    [
        (60, "h# sh ix q hv ae dcl d h#"),
        (48, "sil sh ix hh ae vcl d sil"),
        (39, "sil sh ih hh ae sil d sil"),
    ],
)
def test_timit_texts_are_phones(tmp_path, phones, text):
    prepared = prepare_corpus(
        "timit", timit(tmp_path / "c"), tmp_path / "out", replace(PART, phones=phones)
    )
    assert {name: s.utterances for name, s in prepared.splits.items()} == {
        "train": 2,
        "dev": 1,
        "test": 1,
    }
    assert_outputs_agree(tmp_path / "out", prepared.splits)
    (cut,) = open_cuts(tmp_path / "out", split="dev")
    assert cut.id == "FADG0-SX100" and cut.supervisions[0].text == text
    assert cut.supervisions[0].custom["words"] == "She had."
    assert cut.supervisions[0].alignment["phone"][1].start == 0.125
    assert cut.recording.sources[0].source == f"{tmp_path}/c/TEST/DR1/FADG0/SX100.WAV"


def test_timit_keeps_sa_on_demand_and_takes_a_data_folder_and_jobs(tmp_path):
    timit(tmp_path / "c" / "data")
    prepared = prepare_corpus(
        "timit", tmp_path / "c", tmp_path / "out", replace(PART, keep_sa=True, jobs=2)
    )
    assert [s.utterances for s in prepared.splits.values()] == [4, 2, 2]


def test_wrong_folders_and_options(tmp_path):
    with pytest.raises(RegistryError, match="unknown corpus 'tedlium'; known: aishell, libri"):
        prepare_corpus("tedlium", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="absent: no such folder"):
        prepare_corpus("timit", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ConfigError) as caught:
        prepare_corpus(
            "timit", tmp_path, tmp_path, PrepareOptions(jobs=0, phones=62, subsets={"dev": ["x"]})
        )
    assert len(caught.value.problems) == 3
    for corpus, layout in (("aishell", "data_aishell"), ("timit", "TRAIN")):
        with pytest.raises(DataError) as data_error:
            prepare_corpus(corpus, tmp_path, tmp_path / "out")
        assert "expected layout: " in str(data_error.value) and layout in str(data_error.value)
        assert len(data_error.value.problems) >= 3
    with pytest.raises(DataError, match="none of the subsets"):
        prepare_corpus("librispeech", tmp_path, tmp_path / "out")
    librispeech(tmp_path / "ls", ["dev-clean"])
    with pytest.raises(DataError, match="no train-. subset; present: dev-clean"):
        prepare_corpus("librispeech", tmp_path / "ls", tmp_path / "out")
    with pytest.raises(DataError, match="no subset 'train-x'; present: dev-clean"):
        prepare_corpus(
            "librispeech",
            tmp_path / "ls",
            tmp_path / "out",
            PrepareOptions(subsets={"train": ["train-x"]}),
        )
    assert not (tmp_path / "out").exists()


def test_a_malformed_corpus_is_our_error(tmp_path):
    root = timit(tmp_path / "c")
    (root / "TRAIN" / "DR1" / "FCJF0" / "SX100.PHN").write_text("0 10 nonsense\n")
    with pytest.raises(DataError, match="SX100.PHN 'nonsense': is none of TIMIT's 61 phones"):
        prepare_corpus("timit", root, tmp_path / "out")


def test_an_output_without_its_last_file_is_not_taken_for_whole(tmp_path):
    root = librispeech(tmp_path / "c", ["train-clean-5", "dev-clean-2"])
    prepare_corpus("librispeech", root, tmp_path / "out", PART)
    with pytest.raises(DataError, match="which split is wanted. Open one of: .*espnet/dev"):
        open_cuts(tmp_path / "out")
    with pytest.raises(DataError, match="no split 'test'"):
        open_cuts(tmp_path / "out", split="test")
    (tmp_path / "out" / "prepared.json").unlink()
    with pytest.raises(DataError, match="neither wav.scp"):
        open_cuts(tmp_path / "out", split="train")


def test_other_phones_in_the_same_folder_are_told(tmp_path, caplog):
    root, output = timit(tmp_path / "c"), tmp_path / "out"
    for phones in (39, 39):
        prepare_corpus("timit", root, output, replace(PART, phones=phones))
    assert "held data" not in caplog.text
    assert json.loads((output / "prepared.json").read_text())["options"]["phones"] == 39
    prepare_corpus("timit", root, output, PART)
    assert f"{output} held data with phones 39; replaced by phones 48" in caplog.text
    path = output / "prepared.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "options": {**held["options"], "train": "a,b"}}))
    prepare_corpus("timit", root, output, PART)
    assert "held data with train a,b; replaced by train as usual" in caplog.text
    del held["options"]["phones"]
    path.write_text(json.dumps(held))
    prepare_corpus("timit", root, output, PART)
    assert "held data with phones as usual; replaced by phones 48" in caplog.text
    path.write_text("[]")
    prepare_corpus("timit", root, output, PART)


def test_what_others_wrote_is_not_replaced(tmp_path):
    root = librispeech(tmp_path / "c", ["train-clean-5", "dev-clean-2"])
    for split in ("train", "dev"):  # as Snakemake makes the folders of a rule's outputs
        (tmp_path / "made" / "espnet" / split).mkdir(parents=True)
    prepare_corpus("librispeech", root, tmp_path / "made", PART)
    theirs = tmp_path / "out" / "espnet" / "train" / "text"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("utt1 mine\n")
    with pytest.raises(DataError, match="holds espnet/ that this did not write; choose another"):
        prepare_corpus("librispeech", root, tmp_path / "out", PART)
    assert theirs.read_text() == "utt1 mine\n"
    theirs.unlink()  # empty folders are no obstacle: workflows make them
    prepare_corpus("librispeech", root, tmp_path / "out", PART)
    prepare_corpus("librispeech", root, tmp_path / "out", PART)  # its own it does replace
    (tmp_path / "out" / "prepared.json").unlink()  # as a kill leaves it, or a workflow
    assert (tmp_path / "out" / MARK).exists() and theirs.exists()
    prepare_corpus("librispeech", root, tmp_path / "out", PART)


def test_command_line(tmp_path, capsys):
    root = librispeech(tmp_path / "c", ["train-clean-5", "dev-clean-2"])
    out = tmp_path / "out"
    assert main(["data", "prepare", "librispeech", str(root), str(out), "--partial", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["utterances"] == 4
    asked = ["--train", "dev-clean-2", "--partial"]
    assert main(["data", "prepare", "librispeech", str(root), str(out), *asked]) == 0
    assert "train: 4 utterances, 0.00 h, 2 speakers" in capsys.readouterr().out
    assert main(["data", "prepare", "librispeech", str(root / "x"), str(out)]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["data", "prepare", "timit", str(root), str(out), "--dev", "x"]) == 2
    assert "--dev: LibriSpeech only" in capsys.readouterr().err
