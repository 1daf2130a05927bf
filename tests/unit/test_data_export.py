"""What the writers of ESPnet folders and NeMo manifests keep, and what they refuse."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from nas_encoder.data import open_cuts, write_espnet_dir, write_nemo_manifest
from nas_encoder.data.export import seconds_of
from nas_encoder.errors import DataError

RATE = 16000


def sound(path: Path, samples: int = 8000, channels: int = 1, rate: int = RATE) -> Path:
    """Write noise whose 16-bit samples are all different from their neighbours'."""
    rng = np.random.default_rng(len(str(path)) + samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = rng.integers(-30000, 30000, (samples, channels), dtype=np.int16)
    soundfile.write(path, noise, rate)
    return path


def cut_of(
    path: Path | str,
    key: str = "utt",
    *,
    text: str = "a b",
    speaker: str | None = "spk",
    first: int = 0,
    count: int | None = None,
    recording: str | None = None,
    channel: int = 0,
) -> Any:
    found = Recording.from_file(path, recording_id=recording or key)
    count = found.num_samples - first if count is None else count
    length = count / found.sampling_rate
    supervision = SupervisionSegment(key, found.id, 0.0, length, channel, text, speaker=speaker)
    return MonoCut(key, first / found.sampling_rate, length, channel, [supervision], None, found)


def problems(write: Any, cuts: Any, target: Path) -> str:
    with pytest.raises(DataError) as caught:
        write(cuts, target)
    assert not target.exists()
    return "; ".join(caught.value.problems)


BOTH = pytest.mark.parametrize("write", [write_espnet_dir, write_nemo_manifest])


@BOTH
@pytest.mark.parametrize("channel", [0, 1])
def test_a_channel_of_a_stereo_file_is_refused_with_a_remedy(
    tmp_path: Path, write: Any, channel: int
) -> None:
    cut = cut_of(sound(tmp_path / "s.wav", channels=2), channel=channel)
    found = problems(write, [cut], tmp_path / "out")
    assert "one of several channels cannot be named" in found and "save_audios" in found
    assert f"(channel {channel})" in found


@BOTH
def test_the_file_of_a_channel_is_named(tmp_path: Path, write: Any) -> None:
    """A recording of two mono files, of which the cut takes the second."""
    left, right = (sound(tmp_path / f"{side}.wav") for side in ("left", "right"))
    recording = Recording.from_file(left, recording_id="call")
    recording.sources.append(AudioSource("file", [1], str(right)))
    recording.channel_ids = [0, 1]
    cut = cut_of(left, channel=1)
    cut.recording = recording
    write([cut], tmp_path / "out")
    out = tmp_path / "out"
    text = (out / "wav.scp").read_text() if out.is_dir() else out.read_text()
    assert "right.wav" in text and "left.wav" not in text


def test_two_recordings_of_one_id_are_both_kept(tmp_path: Path) -> None:
    paths = [sound(tmp_path / side / "rec 1.wav") for side in "ab"]
    cuts = [
        cut_of(path, f"utt{number}", first=160, count=1600, recording="rec 1")
        for number, path in enumerate(paths)
    ]
    write_espnet_dir(cuts, tmp_path / "out")
    names = (tmp_path / "out" / "wav.scp").read_text().splitlines()
    assert names == [f"rec_1 {paths[0]}", f"rec_1-2 {paths[1]}"]
    loaded = kaldiio.load_scp(
        str(tmp_path / "out" / "wav.scp"), segments=str(tmp_path / "out" / "segments")
    )
    for cut, path in zip(cuts, paths, strict=True):
        rate, samples = loaded[cut.id]
        assert rate == RATE
        assert (samples == soundfile.read(path, dtype="int16")[0][160:1760]).all()


@BOTH
def test_two_utterances_of_one_id_are_refused(tmp_path: Path, write: Any) -> None:
    cuts = [cut_of(sound(tmp_path / f"{name}.wav"), "utt") for name in "ab"]
    assert "an id may occur once" in problems(write, cuts, tmp_path / "out")


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_times_select_the_very_samples(rate: int) -> None:
    for samples in (*range(1, 3000), *range(10**6, 10**6 + 3000), *range(10**9, 10**9 + 500)):
        assert int(seconds_of(samples, rate) * rate) == samples
        assert int(json.loads(json.dumps(seconds_of(samples, rate))) * rate) == samples


def test_segments_and_offsets_select_the_very_samples(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", 44100, rate=44100)
    whole = soundfile.read(path, dtype="int16")[0]
    rng = np.random.default_rng(0)
    spans = [tuple(map(int, sorted(rng.choice(44100, 2, replace=False)))) for _ in range(300)]
    cuts = [
        cut_of(path, f"u{number:03d}", first=a, count=b - a, recording="rec")
        for number, (a, b) in enumerate(spans)
    ]
    write_espnet_dir(cuts, tmp_path / "out")
    write_nemo_manifest(cuts, tmp_path / "nemo.json")
    rows = map(json.loads, (tmp_path / "nemo.json").read_text().splitlines())
    loaded = kaldiio.load_scp(
        str(tmp_path / "out" / "wav.scp"), segments=str(tmp_path / "out" / "segments")
    )
    for (first, last), row in zip(spans, rows, strict=True):
        assert (loaded[row["utt_id"]][1] == whole[first:last]).all()
        # As NeMo's AudioSegment.from_file.
        start = int(row.get("offset", 0) * 44100)
        assert (start, start + int(row["duration"] * 44100)) == (first, last)


def test_almost_whole_cuts_are_segments(tmp_path: Path) -> None:
    """Ten samples less than the file are no rounding error."""
    write_espnet_dir([cut_of(sound(tmp_path / "a.wav"), count=7990)], tmp_path / "out")
    assert (tmp_path / "out" / "segments").read_text() == "utt utt 0.000000 0.499375\n"


def test_texts_that_a_line_cannot_hold(tmp_path: Path, caplog: Any) -> None:
    texts = ["a  b", " a\n b\r\n", "\u3000a\u2028b", "", "x\ty"]
    cuts = [
        cut_of(sound(tmp_path / f"{number}.wav"), f"u{number}", text=text, speaker=None)
        for number, text in enumerate(texts)
    ]
    with caplog.at_level(logging.WARNING):
        write_espnet_dir(cuts, tmp_path / "out")
    lines = (tmp_path / "out" / "text").read_text(encoding="utf-8").split("\n")
    assert lines == ["u0 a  b", "u1 a b", "u2 a\u2028b", "u3", "u4 x\ty", ""]
    assert "2 texts lose line breaks or white space at their ends" in caplog.text
    write_nemo_manifest(cuts, tmp_path / "nemo.json")
    rows = (tmp_path / "nemo.json").read_text(encoding="utf-8").split("\n")
    assert [json.loads(row)["text"] for row in rows if row] == texts


@pytest.mark.parametrize(
    ("speakers", "keys", "ids"),
    [
        (["a", "b"], ["1", "2"], ["1", "2"]),
        (["b", "a"], ["1", "2"], ["b-1", "a-2"]),
        # '-' sorts a-b before a, so utterances and speakers would be in different orders.
        (["a", "a-b"], ["x", "c"], ["a+x", "a-b+c"]),
        (["a", "a+b", "a-b"], ["x", "c", "b"], ["a!x", "a+b!c", "a-b!b"]),
    ],
)
def test_speakers_and_utterances_are_sorted_alike(
    tmp_path: Path, speakers: list[str], keys: list[str], ids: list[str]
) -> None:
    path = sound(tmp_path / "a.wav")
    cuts = [cut_of(path, key, speaker=own) for key, own in zip(keys, speakers, strict=True)]
    write_espnet_dir(cuts, tmp_path / "out")
    lines = (tmp_path / "out" / "utt2spk").read_text().splitlines()
    assert sorted(lines) == sorted(f"{i} {s}" for i, s in zip(ids, speakers, strict=True))
    assert [line.split()[0] for line in lines] == sorted(ids)
    assert [line.split()[1] for line in lines] == sorted(speakers)


@pytest.mark.parametrize("name", ["a b.wav", "a:12", "a[3:4]", "b |", "ä\u3000.wav"])
def test_paths_that_kaldi_reads_otherwise_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sound(tmp_path / "a.wav").rename(path)
    cut = cut_of(path)
    if name.endswith(".wav"):
        write_espnet_dir([cut], tmp_path / "out")
        (samples,) = kaldiio.load_scp(str(tmp_path / "out" / "wav.scp")).values()
        assert len(samples[1]) == 8000
        return
    found = problems(write_espnet_dir, [cut], tmp_path / "out")
    assert "a wav.scp cannot name this audio" in found
    write_nemo_manifest([cut], tmp_path / "nemo.json")
    assert json.loads((tmp_path / "nemo.json").read_text())["audio_filepath"] == str(path)


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: Any) -> None:
    path = sound(tmp_path / "here" / "a.wav")
    monkeypatch.chdir(path.parent)
    cut = cut_of("a.wav")
    write_nemo_manifest([cut], tmp_path / "elsewhere" / "nemo.json")
    write_espnet_dir([cut], tmp_path / "elsewhere" / "espnet")
    for file in ("nemo.json", "espnet/wav.scp"):
        assert str(path) in (tmp_path / "elsewhere" / file).read_text()


@BOTH
def test_what_else_cannot_be_written(tmp_path: Path, write: Any) -> None:
    path = sound(tmp_path / "a.wav")
    two = cut_of(path, "two")
    two.supervisions = two.supervisions * 2
    resampled = cut_of(path, "resampled").resample(8000)
    found = problems(write, [two, resampled, cut_of(path, "t", text="\ud800")], tmp_path / "out")
    assert "one supervision a cut" in found and "valid Unicode" in found
    assert "lhotse's transforms" in found
    assert "no utterance to write" in problems(write, [], tmp_path / "out")
    if write is write_espnet_dir:
        for bad in ({"key": "a b"}, {"key": "c", "speaker": "d e"}):
            found = problems(write, [cut_of(path, **bad)], tmp_path / "out")  # type: ignore[arg-type]
            assert "ids must not hold white space" in found


def test_sounds_in_kaldi_archives_and_of_commands(tmp_path: Path) -> None:
    """An archive's place goes into wav.scp as it came; NeMo has no name for it."""
    folder = tmp_path / "in"
    samples = np.random.default_rng(0).integers(-9999, 9999, 8000, dtype=np.int16)
    soundfile.write(tmp_path / "c.wav", samples[::-1], RATE)
    folder.mkdir()
    kaldiio.save_ark(str(tmp_path / "a.ark"), {"a": (RATE, samples)}, scp=str(folder / "wav.scp"))
    with (folder / "wav.scp").open("a") as scp:
        scp.write(f"b cat {tmp_path / 'c.wav'} | head -c 9999999 |\n")
    (folder / "text").write_text("a x\nb y\n")
    cuts = open_cuts(folder)
    write_espnet_dir(cuts, tmp_path / "out")
    assert (tmp_path / "out" / "wav.scp").read_text() == (folder / "wav.scp").read_text()
    loaded = kaldiio.load_scp(str(tmp_path / "out" / "wav.scp"))
    assert (loaded["a"][1] == samples).all() and (loaded["b"][1] == samples[::-1]).all()
    found = problems(write_nemo_manifest, cuts, tmp_path / "nemo.json")
    assert "NeMo manifests can name audio files only" in found and "2 such" in found
