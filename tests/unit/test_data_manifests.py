"""Opening data in every form, and the errors that name file, line and utterance."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from data_samples import kaldi_dir, nemo_manifest, write_tone
from lhotse import CutSet

from nas_encoder.data import open_cuts, split_half, texts, write_espnet_dir, write_nemo_manifest
from nas_encoder.errors import DataError, MissingDependencyError


def problems_of(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_cuts(source, **options)
    return str(caught.value)


def replace_line(path, number, new):
    lines = path.read_text().splitlines()
    lines[number - 1 : number] = [] if new is None else [new]
    path.write_text("".join(f"{line}\n" for line in lines))


# -- what works -----------------------------------------------------------------------------


def test_kaldi_folder(tmp_path):
    cuts = open_cuts(kaldi_dir(tmp_path))
    assert [cut.id for cut in cuts] == ["spk00-u000", "spk00-u001", "spk01-u002"]
    assert texts(cuts) == ["ab ba", "abc", "cab a"]
    assert [cut.num_samples for cut in cuts] == [16000, 24000, 12800]
    assert [cut.supervisions[0].speaker for cut in cuts] == ["spk00", "spk00", "spk01"]


def test_kaldi_segments_and_pipes(tmp_path):
    folder = kaldi_dir(tmp_path)
    scp = folder / "wav.scp"
    first = scp.read_text().splitlines()[0].split()[1]
    replace_line(scp, 1, f"rec cat {first} |")
    replace_line(scp, 2, f"run dd if={first} |")
    (folder / "segments").write_text("a rec 0.25 0.75\nb run 0.5 -1\n")
    (folder / "text").write_text("a one\nb two\n")
    (folder / "utt2spk").unlink()
    cuts = list(open_cuts(folder))
    assert [(c.id, c.start, c.duration) for c in cuts] == [("a", 0.25, 0.5), ("b", 0.5, 0.5)]
    assert cuts[0].recording.sources[0].type == "file"
    assert cuts[1].recording.sources[0].type == "command"
    assert cuts[0].load_audio().shape == (1, 8000)
    piece = cuts[1].load_audio()
    assert (piece == cuts[1].recording.load_audio()[:, 8000:]).all()


def test_nemo_manifest_with_offsets_and_relative_paths(tmp_path):
    write_tone(tmp_path / "wav" / "x.wav", 2.0)
    rows = [
        {"audio_filepath": "wav/x.wav", "duration": 0.5, "offset": 1.0, "text": "b"},
        {"audio_filepath": "wav/x.wav", "duration": 2.0, "text": "a", "speaker": 7},
    ]
    cuts = list(open_cuts(nemo_manifest(tmp_path / "train.json", rows)))
    assert [(c.id, c.start, c.num_samples) for c in cuts] == [
        ("x-000001", 1.0, 8000),
        ("x-000002", 0.0, 32000),
    ]
    assert cuts[1].supervisions[0].speaker == "7"
    assert cuts[0].load_audio().shape == (1, 8000)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_every_form_gives_the_same_utterances(tmp_path, suffix):
    cuts = open_cuts(kaldi_dir(tmp_path / "in"))
    cuts.to_file(tmp_path / f"cuts.{suffix}")
    write_espnet_dir(cuts, tmp_path / "espnet")
    write_nemo_manifest(cuts, tmp_path / "nemo.json")
    want = [(c.id, c.duration, c.supervisions[0].text, c.supervisions[0].speaker) for c in cuts]
    for source in (cuts, tmp_path / f"cuts.{suffix}", tmp_path / "espnet", tmp_path / "nemo.json"):
        got = open_cuts(source)
        assert [
            (c.id, c.duration, c.supervisions[0].text, c.supervisions[0].speaker) for c in got
        ] == want, source
    assert not (tmp_path / "espnet" / "segments").exists()


def test_a_cut_of_several_supervisions_becomes_several_cuts(tmp_path):
    (cut, *_) = open_cuts(kaldi_dir(tmp_path))
    (whole,) = cut.supervisions
    cut.supervisions = [
        whole.trim(0.4),
        type(whole)(id="late", recording_id=whole.recording_id, start=0.5, duration=0.5, text="x"),
    ]
    got = list(open_cuts(CutSet.from_cuts([cut])))
    assert [(c.id, c.start, c.duration) for c in got] == [
        ("spk00-u000", 0.0, 0.4),
        ("late", 0.5, 0.5),
    ]


def test_segments_survive_the_export(tmp_path):
    whole = open_cuts(kaldi_dir(tmp_path / "in"))
    cuts = CutSet.from_cuts(cut.truncate(duration=0.5, preserve_id=True) for cut in whole)
    write_espnet_dir(cuts, tmp_path / "out")
    assert (tmp_path / "out" / "segments").read_text().splitlines()[0] == (
        "spk00-u000 spk00-u000 0.000000 0.500000"
    )
    assert [c.duration for c in open_cuts(tmp_path / "out")] == [0.5] * 3
    write_espnet_dir(open_cuts(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out" / "segments").exists()


def test_export_puts_speakers_in_front_where_sorting_needs_it(tmp_path, caplog):
    folder = kaldi_dir(tmp_path / "in")
    (folder / "utt2spk").write_text("spk00-u000 z\nspk00-u001 a\nspk01-u002 a\n")
    with caplog.at_level(logging.INFO):
        write_espnet_dir(open_cuts(folder), tmp_path / "out")
    assert "speaker in front" in caplog.text
    assert (tmp_path / "out" / "utt2spk").read_text().splitlines() == [
        "a-spk00-u001 a",
        "a-spk01-u002 a",
        "z-spk00-u000 z",
    ]
    assert (tmp_path / "out" / "spk2utt").read_text().splitlines() == [
        "a a-spk00-u001 a-spk01-u002",
        "z z-spk00-u000",
    ]


# -- what is refused ------------------------------------------------------------------------


def test_nothing_there(tmp_path):
    assert "no such file or folder" in problems_of(tmp_path / "absent")
    assert "neither wav.scp" in problems_of(tmp_path)
    (tmp_path / "empty.json").write_text("\n")
    assert "empty.json: the manifest is empty" in problems_of(tmp_path / "empty.json")
    (tmp_path / "x.jsonl").write_text("hello\n")
    place = "x.jsonl:1 (Expecting value: line 1 column 1 (char 0))"
    assert f"{place}: not JSON; a NeMo manifest" in problems_of(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl.gz").write_text("no gzip\n")
    assert "cannot be read" in problems_of(tmp_path / "x.jsonl.gz")
    assert "set of cuts is empty" in problems_of(CutSet.from_cuts([]))


def test_all_problems_of_a_kaldi_folder_come_at_once(tmp_path):
    folder = kaldi_dir(tmp_path, [1.0] * 12)
    (folder / "wav" / "spk00-u000.wav").unlink()
    for number in range(5, 11):
        (folder / "wav" / f"spk{number // 2:02d}-u{number:03d}.wav").unlink()
    (folder / "wav" / "spk00-u001.wav").write_bytes(b"RIFF nonsense")
    replace_line(folder / "text", 3, None)
    replace_line(folder / "text", 4, "spk02-u004")
    with (folder / "wav.scp").open("a") as stream:
        stream.write(f"spk01-u003 {folder}/wav/spk01-u003.wav\n")
    text = problems_of(folder)
    assert f"{folder}/wav.scp:1 'spk00-u000': the audio file does not exist (7 such" in text
    assert "and 4 more" in text
    assert f"{folder}/wav.scp:2 'spk00-u001': the audio header cannot be read" in text
    assert f"{folder}/wav.scp:3 'spk01-u002': the utterance has no line in" in text
    assert "'spk02-u004': no text" in text
    assert f"{folder}/wav.scp:13 'spk01-u003' (first on line 4): duplicate id" in text


def test_kaldi_folder_without_text_or_with_bad_segments(tmp_path):
    folder = kaldi_dir(tmp_path)
    (folder / "segments").write_text(
        "a spk00-u000 0.5 0.5\nb nowhere 0 1\nc spk00-u000 0\nd spk00-u000 0 3\n"
        "e spk00-u000 nan 1\nf spk00-u000 0 1\n"
    )
    (folder / "text").write_text("".join(f"{key} x\n" for key in "abcdef"))
    text = problems_of(folder)
    assert f"{folder}/segments:1 'a' [0.5, 0.5] of 1.000 s: segment must lie inside" in text
    assert "(2 such; also " in text and "segments:4 'd'" in text
    assert f"{folder}/segments:2 'b': its recording has no line in wav.scp" in text
    assert f"{folder}/segments:3 'c': expected 'utterance recording start end'" in text
    (folder / "text").unlink()
    assert f"{folder}/text: the file does not exist" in problems_of(folder)
    (folder / "segments").unlink()
    assert len(open_cuts(folder, require_text=False)) == 3


def test_stereo_empty_and_archive_audio(tmp_path):
    import numpy as np
    import soundfile

    folder = kaldi_dir(tmp_path)
    soundfile.write(folder / "wav" / "spk00-u000.wav", np.zeros((100, 2)), 16000)
    soundfile.write(folder / "wav" / "spk00-u001.wav", np.zeros(0), 16000)
    replace_line(folder / "wav.scp", 3, "spk01-u002 raw.ark:1234")
    text = problems_of(folder)
    assert "'spk00-u000': audio must be mono, it has 2 channels" in text
    assert "'spk00-u001': the audio file holds no samples" in text
    assert "'spk01-u002': the audio file does not exist" in text
    replace_line(folder / "wav.scp", 3, "spk01-u002 false |")
    assert "its command failed with status 1" in problems_of(folder)


def test_all_problems_of_a_nemo_manifest_come_at_once(tmp_path):
    path = str(write_tone(tmp_path / "x.wav", 1.0))
    manifest = nemo_manifest(
        tmp_path / "m.json",
        [
            {"audio_filepath": path, "duration": 1.0, "text": "fine"},
            {"audio_filepath": path, "duration": 1.0, "text": "again"},
            {"audio_filepath": path, "duration": float("nan"), "text": "a"},
            {"audio_filepath": path, "duration": 0, "text": "a"},
            {"audio_filepath": path, "duration": 10**400, "text": "a"},
            {"audio_filepath": path, "duration": 0.5, "text": "  "},
            {"audio_filepath": str(tmp_path / "y.wav"), "duration": 0.5, "text": "a"},
            {"audio_filepath": path, "offset": 0.7, "duration": 0.5, "text": "a"},
            {"audio_filepath": None, "duration": 0.5, "text": "a"},
        ],
    )
    with manifest.open("a") as stream:
        stream.write("{broken\n[]\n")
    text = problems_of(manifest)
    assert f"{manifest}:2 '{path}' (line 1): same audio and offset" in text
    assert f"{manifest}:3 (got nan): 'duration' must be a number above 0 (seconds) (3 such" in text
    assert f"{manifest}:6: no text" in text
    assert f"{manifest}:7 '{tmp_path}/y.wav': the audio file does not exist" in text
    assert f"{manifest}:8 '{path}' (0.7 + 0.5 s of 1.000 s): offset + duration" in text
    assert f"{manifest}:9 (got None): 'audio_filepath' must be a path" in text
    assert f"{manifest}:10" in text and f"{manifest}:11" in text


def test_all_problems_of_lhotse_cuts_come_at_once(tmp_path):
    source = open_cuts(kaldi_dir(tmp_path / "in", [1.0] * 7))
    rows = [cut.to_dict() for cut in source]
    rows[1]["id"] = rows[0]["id"]
    rows[2]["duration"] = float("nan")
    rows[3]["supervisions"][0]["text"] = ""
    rows[4]["recording"]["sources"][0]["source"] = str(tmp_path / "absent.wav")
    rows[5].pop("recording")
    path = tmp_path / "cuts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"id": 3}\n17\n')
    text = problems_of(path)
    assert f"{path}:2 'spk00-u000': duplicate id" in text
    assert f"{path}:3 'spk01-u002' (got nan): duration must be above 0" in text
    assert f"{path}:4 'spk01-u003': no text" in text
    assert f"{tmp_path}/absent.wav of utterance 'spk02-u004': the audio file" in text
    assert f"{path}:6 'spk02-u005': no recording" in text
    assert f"{path}:8" in text and f"{path}:9" in text


def test_a_list_of_recordings_is_no_list_of_cuts(tmp_path):
    cuts = open_cuts(kaldi_dir(tmp_path / "in"))
    path = tmp_path / "recordings.jsonl"
    path.write_text("\n".join(json.dumps(c.recording.to_dict()) for c in cuts))
    assert f"{path}:1 (a Recording; write cuts" in problems_of(path)


# -- halves and imports ---------------------------------------------------------------------


def test_halves_are_disjoint_complete_and_repeatable(tmp_path):
    cuts = open_cuts(kaldi_dir(tmp_path, [0.1] * 11))
    first, second = split_half(cuts, seed=3)
    again = split_half(cuts, seed=3)
    other = split_half(cuts, seed=4)
    ids = [[c.id for c in half] for half in (first, second)]
    assert (len(ids[0]), len(ids[1])) == (6, 5)
    assert sorted(ids[0] + ids[1]) == [c.id for c in cuts]
    assert ids == [[c.id for c in half] for half in again]
    assert ids[0] != [c.id for c in other[0]]
    assert ids[0] == sorted(ids[0])
    with pytest.raises(DataError, match="two halves need 2 utterances, got 1"):
        split_half(CutSet.from_cuts([next(iter(cuts))]), seed=0)


def test_without_lhotse_the_extra_is_named():
    code = (
        "import sys; sys.modules['lhotse'] = None\n"
        "from nas_encoder.errors import MissingDependencyError\n"
        "try:\n    import nas_encoder.data\n"
        "except MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nas_encoder[search]" in done.stdout and "lhotse" in done.stdout
    assert issubclass(MissingDependencyError, ImportError)


def test_manifests_as_nemos_scripts_write_them(tmp_path):
    """get_librispeech_data.py and get_aishell_data.py: three keys, soxi's durations, full paths."""
    for folder, stem, text in (
        ("LibriSpeech/train-clean-5-processed", "1088-134315-0000", "as you know"),
        ("data_aishell/wav/dev/S0724", "BAC009S0724W0121", "广州市房地产ｋ"),
    ):
        path = write_tone(tmp_path / folder / f"{stem}.wav", 16001 / 16000)
        row = {"audio_filepath": str(path), "duration": 1.000063, "text": text}
        manifest = nemo_manifest(tmp_path / f"{path.parts[-3]}.json", [row])
        (cut,) = open_cuts(manifest)
        assert (cut.id, cut.supervisions[0].text, cut.num_samples) == (stem, text, 16001)
        row["audio_filepath"] = str(path.relative_to(tmp_path))  # of the manifest's folder
        (relative,) = open_cuts(nemo_manifest(manifest, [row]))
        assert relative.recording.sources[0].source == str(path)


def test_ids_of_a_nemo_manifest_that_has_none(tmp_path):
    rows = []
    for folder, name in (("a", "x"), ("b", "x"), ("b", "y")):
        path = write_tone(tmp_path / folder / f"{name}.wav", 0.5)
        rows.append({"audio_filepath": str(path), "duration": 0.5, "text": "t"})
    manifest = nemo_manifest(tmp_path / "m.json", rows)
    assert [cut.id for cut in open_cuts(manifest)] == ["a-x", "b-x", "y"]
    rows[0]["utt_id"] = "y"
    nemo_manifest(manifest, rows)
    assert f"{manifest}:3 'y': duplicate id" in problems_of(manifest)
