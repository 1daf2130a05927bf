"""Audio that is less than it claims, archives, commands, and what each toolkit would read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from data_samples import kaldi_dir, nemo_manifest, write_tone
from lhotse import CutSet
from lhotse.audio import AudioSource
from lhotse.utils import fastcopy

from nas_encoder.data import FeatureConfig, FeatureExtractor, open_cuts
from nas_encoder.data.sound import Sound, UnusableSoundError
from nas_encoder.errors import DataError

SAMPLES = np.random.default_rng(3).integers(-9000, 9000, 8000).astype(np.int16)


def folder_of(folder: Path, locations: dict[str, str], **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wav.scp").write_text("".join(f"{k} {v}\n" for k, v in locations.items()))
    (folder / "text").write_text("".join(f"{key} a b\n" for key in locations))
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def problem_of(source) -> str:
    with pytest.raises(DataError) as caught:
        open_cuts(source)
    return str(caught.value)


@pytest.fixture
def wav(tmp_path) -> Path:
    return write_tone(tmp_path / "whole.wav", 4.0)


# -- cut short ------------------------------------------------------------------------------


def test_a_command_that_fails_half_way(tmp_path, wav):
    text = problem_of(folder_of(tmp_path / "k", {"u": f"head -c 40000 {wav}; exit 7 |"}))
    assert "wav.scp:1 'u': its command failed with status 7 (no message)" in text
    text = problem_of(folder_of(tmp_path / "k", {"u": f"cat {wav} /absent |"}))
    assert "status 1 (cat: /absent: No such file or directory)" in text
    # Without a status, the header tells.
    text = problem_of(folder_of(tmp_path / "k", {"u": f"head -c 40000 {wav} |"}))
    assert "its header promises 128000 bytes of audio, 39956 are there: it is cut short" in text


def test_a_command_that_fails_later(tmp_path, wav):
    script = tmp_path / "decode.sh"
    script.write_text(f"cat {wav}\n")
    (cut,) = open_cuts(folder_of(tmp_path / "k", {"u": f"sh {script} |"}))
    script.write_text(f"cat {wav}\nexit 3\n")
    with pytest.raises(DataError, match="utterance 'u': .* failed with status 3"):
        FeatureExtractor(FeatureConfig(normalization="none")).extract(cut)
    script.write_text(f"cat {write_tone(tmp_path / 'other.wav', 2.0)}\n")
    with pytest.raises(UnusableSoundError, match="says 64000 samples, .* has 32000 samples"):
        cut.load_audio()


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("wav", {}),
        ("wav", {"subtype": "FLOAT"}),
        ("wav", {"format": "WAVEX"}),
        ("aiff", {}),
        ("au", {}),
        ("w64", {}),
        ("rf64", {}),
        ("sph", {"format": "NIST"}),
    ],
)
def test_a_header_that_promises_more_than_the_file_holds(tmp_path, suffix, options):
    path = write_tone(tmp_path / f"x.{suffix}", 4.0, **options)
    folder = folder_of(tmp_path / "k", {"u": str(path)}, utt2dur="u 4.0\n")
    (cut,) = open_cuts(folder)
    assert cut.num_samples == 64000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    text = problem_of(folder)
    assert "'u': its header promises" in text and "it is cut short" in text
    rows = [{"audio_filepath": str(path), "duration": 1.0, "text": "a"}]
    assert "it is cut short" in problem_of(nemo_manifest(tmp_path / "m.json", rows))


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_header_without_a_length_as_encoders_write_to_pipes(tmp_path, wav, length):
    data = bytearray(wav.read_bytes())
    data[40:44] = length.to_bytes(4, "little")
    wav.write_bytes(data)
    for location in (str(wav), f"cat < {wav} |"):
        (cut,) = open_cuts(folder_of(tmp_path / "k", {"u": location}))
        assert cut.num_samples == cut.load_audio().shape[1] == 64000


@pytest.mark.parametrize(("more", "read"), [(8, True), (44, True), (66, False)])
def test_a_length_that_counts_the_header_too(tmp_path, wav, more, read):
    data = bytearray(wav.read_bytes())
    data[40:44] = (128000 + more).to_bytes(4, "little")
    wav.write_bytes(data)
    folder = folder_of(tmp_path / "k", {"u": str(wav)})
    if read:
        (cut,) = open_cuts(folder)
        assert np.array_equal(cut.load_audio()[0], soundfile.read(wav, dtype="float32")[0])
    else:
        assert "its header promises 128066 bytes of audio, 128000 are there" in problem_of(folder)


def test_stated_lengths_are_compared(tmp_path, wav):
    folder = folder_of(tmp_path / "k", {"u": str(wav)}, utt2dur="u 4.03\n")
    assert len(open_cuts(folder)) == 1
    (folder / "utt2dur").write_text("u 5.5\n")
    assert "utt2dur:1 'u' (5.5; 4 s in the audio): utt2dur and the audio disagree" in problem_of(
        folder
    )
    (folder / "utt2dur").unlink()
    (folder / "utt2num_samples").write_text("u 64001\n")
    assert "utt2num_samples:1 'u' (64001; 64000 samples in the audio)" in problem_of(folder)


@pytest.mark.parametrize(("mode", "rate"), [("VARIABLE", 16000), ("VARIABLE", 44100)])
def test_mp3_without_a_frame_count(tmp_path, mode, rate):
    loud = np.random.default_rng(0).uniform(-0.4, 0.4, 4 * rate)
    path = tmp_path / "x.mp3"
    options = {"format": "MP3", "bitrate_mode": mode, "compression_level": 0.4}
    with soundfile.SoundFile(path, "w", rate, 1, **options) as file:
        file.write(np.concatenate([loud, loud * 1e-4]))
    folder = folder_of(tmp_path / "k", {"u": str(path)})
    (cut,) = open_cuts(folder)
    assert cut.num_samples == cut.load_audio().shape[1] == 8 * rate
    data = path.read_bytes()
    path.write_bytes(data[data.find(data[:2], 2) :])  # its first frame only counts the others
    assert len(soundfile.read(path)[0]) < 7 * rate  # as ESPnet and NeMo would read it
    assert "'u': the mp3 has no frame count" in problem_of(folder)


def test_mp3_that_is_cut_short(tmp_path):
    path = write_tone(tmp_path / "x.mp3", 4.0)
    data = path.read_bytes()
    path.write_bytes(b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + data)
    folder = folder_of(tmp_path / "k", {"u": str(path)})
    assert len(open_cuts(folder)) == 1
    path.write_bytes(data[: len(data) // 2])
    text = f"its header promises {len(data)} bytes of audio, {len(data) // 2} are there"
    assert text in problem_of(folder)


@pytest.mark.parametrize("suffix", ["flac", "ogg"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_compressed_audio_that_is_cut_short(tmp_path, suffix, share):
    path = write_tone(tmp_path / f"x.{suffix}", 4.0)
    folder = folder_of(tmp_path / "k", {"u": str(path)})
    assert [cut.num_samples for cut in open_cuts(folder)] == [64000]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "cut short" in problem_of(folder)
    assert "cut short" in problem_of(folder_of(tmp_path / "k", {"u": f"cat < {path} |"}))


def test_constant_mp3_without_a_frame_count_is_read(tmp_path):
    path = tmp_path / "x.mp3"
    options = {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.5}
    with soundfile.SoundFile(path, "w", 16000, 1, **options) as file:
        file.write(np.random.default_rng(0).uniform(-0.4, 0.4, 16000))
    data = path.read_bytes()
    tag = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)
    for content in (data[data.find(data[:2], 2) :], tag + data):
        path.write_bytes(content)
        (cut,) = open_cuts(folder_of(tmp_path / "k", {"u": str(path)}))
        assert cut.load_audio().shape[1] == cut.num_samples == len(soundfile.read(path)[0])


# -- commands -------------------------------------------------------------------------------


def kinds_of(tmp_path, *commands: str) -> list[str]:
    folder = folder_of(tmp_path / "k", {f"u{i}": f"{c} |" for i, c in enumerate(commands)})
    return [cut.recording.sources[0].type for cut in open_cuts(folder)]


def test_only_commands_that_do_nothing_else_are_replaced(tmp_path, wav, monkeypatch):
    odd = write_tone(tmp_path / "a b.wav", 0.5)
    assert kinds_of(tmp_path, f"cat {wav}", f"cat '{odd}'", f'cat "{odd}"') == ["file"] * 3
    commands = [f"cat -u {wav}", f"cat < {wav}", f"cat {wav} | cat", f"cat {tmp_path}/whole.wa?"]
    assert kinds_of(tmp_path, *commands) == ["command"] * 4
    # A decoder that answers to its options, in the place of flac.
    flac = write_tone(tmp_path / "x.flac", 1.0)
    tool = tmp_path / "bin" / "flac"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncat {wav}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    plain = [f"flac -c -d -s {flac}", f"flac -dcs {flac}", f"flac --decode --stdout {flac}"]
    assert kinds_of(tmp_path, *plain) == ["file"] * 3
    assert not (tmp_path / "calls").exists()
    for options in ("-c -d -s --skip=100", "-cd --until=1:00", "-c", "-d -s", "-cd -F", "cd"):
        assert kinds_of(tmp_path, f"flac {options} {flac}") == ["command"]
    assert kinds_of(tmp_path, f"flac -dcs {wav}") == ["command"]  # not flac: the tool refuses it
    assert len((tmp_path / "calls").read_text().splitlines()) == 7


# -- archives -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"write_function": "soundfile", "write_kwargs": {"format": "flac"}},
        {"write_function": "soundfile", "write_kwargs": {"format": "wav", "subtype": "PCM_24"}},
    ],
)
def test_kaldi_archives(tmp_path, options):
    folder = tmp_path / "dump"
    folder.mkdir()
    sounds = {"a": (16000, SAMPLES), "b": (16000, SAMPLES[:5000])}
    kaldiio.save_ark(f"{folder}/x.ark", sounds, scp=f"{folder}/wav.scp", **options)
    (folder / "text").write_text("a one\nb two\n")
    cuts = list(open_cuts(folder))
    for cut, (_, samples) in zip(cuts, sounds.values(), strict=True):
        assert np.array_equal(cut.load_audio()[0], samples / np.float32(32768))
    (folder / "segments").write_text("a1 a 0.1000001 0.2999999\nb1 b 0.1 -1\n")
    (folder / "text").write_text("a1 one\nb1 two\n")
    want = kaldiio.load_scp(f"{folder}/wav.scp", segments=f"{folder}/segments")
    for cut in open_cuts(folder):
        array = want[cut.id][1]
        array = array / 32768 if array.dtype == np.int16 else array
        assert np.array_equal(cut.load_audio()[0], array.astype(np.float32))
    # Through lhotse's files and back.
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    again = list(open_cuts(tmp_path / "cuts.jsonl"))
    assert isinstance(again[1].recording.sources[0], Sound)
    assert np.array_equal(again[1].load_audio(), cuts[1].load_audio())


def test_what_is_no_audio_in_an_archive(tmp_path):
    features, sounds = tmp_path / "feats.ark", tmp_path / "wav.ark"
    kaldiio.save_ark(str(features), {"f": np.zeros((3, 4), np.float32)})
    kaldiio.save_ark(str(sounds), {"a": (16000, SAMPLES)})
    places = {"f": f"{features}:2", "g": f"{sounds}:3", "h": f"{sounds}:2[0:10]", "i": "no.ark:2"}
    text = problem_of(folder_of(tmp_path / "k", places))
    assert "'f': the archive holds no audio there (features, or another offset) (2 such" in text
    assert "'h': ranges of samples ('[first:last]') are not read" in text
    assert f"'i': the audio file does not exist (paths start at {os.getcwd()})" in text
    sounds.write_bytes(sounds.read_bytes()[:9000])
    text = problem_of(folder_of(tmp_path / "k", {"g": f"{sounds}:2"}))
    assert "the archive is cut short: 16046 bytes are needed, it has 9000" in text


# -- what each toolkit reads ----------------------------------------------------------------


def test_segments_are_cut_as_kaldiio_cuts_them(tmp_path, wav, caplog):
    times = {"a": (0.1000001, 1.9999999), "b": (0.33333, 4.2), "c": (0.0, -1), "d": (2.0, 2.00007)}
    lines = "".join(f"{key} r {start} {end}\n" for key, (start, end) in times.items())
    folder = folder_of(tmp_path / "k", {"r": str(wav)}, segments=lines)
    (folder / "text").write_text("a 1\nb 2\nc 3\nd 4\nz 5\n")
    want = kaldiio.load_scp(f"{folder}/wav.scp", segments=f"{folder}/segments")
    for cut in open_cuts(folder):
        rate, samples = want[cut.id]
        assert np.array_equal(cut.load_audio()[0], samples / np.float32(32768)), cut.id
    assert "segments:2 'b': clipped at the end of its recording" in caplog.text
    assert "text:5 'z': a line of text that no utterance uses" in caplog.text
    (folder / "segments").write_text("a r 0 1 A\n")
    assert "expected 'utterance recording start end'" in problem_of(folder)


def test_nemo_reads_so_many_samples(tmp_path, wav):
    rows = [
        {"audio_filepath": str(wav), "offset": 0.1000001, "duration": 1.00007, "text": "a"},
        {"audio_filepath": str(wav), "duration": 3.99999, "text": "b"},
    ]
    first, second = open_cuts(nemo_manifest(tmp_path / "m.json", rows))
    whole = soundfile.read(wav, dtype="float32")[0]
    assert np.array_equal(first.load_audio()[0], whole[1600 : 1600 + 16001])
    assert np.array_equal(second.load_audio()[0], whole[:63999])


def test_nemo_fields_and_paths(tmp_path, wav, monkeypatch):
    here = write_tone(tmp_path / "here" / "x.wav", 0.5, seed=1)
    beside = write_tone(tmp_path / "data" / "x.wav", 0.5, seed=2)
    write_tone(tmp_path / "here" / "y.wav", 0.5, seed=3)
    monkeypatch.chdir(here.parent)
    (here.parent / "said.txt").write_text("from a\nfile\n")
    row = {"duration": 0.5}
    rows = [
        row | {"audio_filepath": "x.wav", "text": "a"},
        row | {"audio_filepath": "y.wav", "text_filepath": "said.txt", "normalized_text": "no"},
        row | {"audio_filename": str(wav), "audio_filepath": "no.wav", "normalized_text": "c"},
    ]
    cuts = list(open_cuts(nemo_manifest(tmp_path / "data" / "m.json", rows)))
    assert [cut.recording.sources[0].source for cut in cuts] == [
        str(beside),
        str(here.parent / "y.wav"),
        str(wav),
    ]
    assert [cut.supervisions[0].text for cut in cuts] == ["a", "from afile", "c"]


# -- what is not read, and why --------------------------------------------------------------


def test_formats_that_libsndfile_does_not_know(tmp_path):
    m4a, sph = tmp_path / "x.m4a", tmp_path / "x.sph"
    m4a.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(200))
    header = (
        b"NIST_1A\n   1024\nsample_count -i 100\nsample_coding -s26 pcm,embedded-shorten-v2.00\n"
    )
    sph.write_bytes(header.ljust(1024) + b"ajkg" + bytes(300))
    text = problem_of(folder_of(tmp_path / "k", {"a": str(m4a), "b": str(sph)}))
    assert "'a': the audio header cannot be read by libsndfile, which ESPnet and NeMo use" in text
    assert "it is MPEG-4 audio: convert it to wav or flac" in text
    assert "or write 'sph2pipe -f wav -p FILE |' into wav.scp" in text


def test_lhotse_cuts_say_the_same_of_their_files(tmp_path):
    (cut,) = open_cuts(kaldi_dir(tmp_path / "k", [2.0]))
    path = tmp_path / "cuts.jsonl"

    def reason_of(kind: str, source: str) -> str:
        source = AudioSource(kind, [0], str(source))
        CutSet.from_cuts(
            [fastcopy(cut, recording=fastcopy(cut.recording, sources=[source]))]
        ).to_file(path)
        (read,) = open_cuts(path)
        with pytest.raises(DataError) as caught:
            FeatureExtractor(FeatureConfig(normalization="none")).extract(read)
        return str(caught.value)

    wav = tmp_path / "k" / "wav" / "spk00-u000.wav"
    assert "failed with status 7" in reason_of("command", f"head -c 9000 {wav}; exit 7")
    assert "it is cut short" in reason_of("command", f"head -c 9000 {wav}")
    m4a = tmp_path / "x.m4a"
    m4a.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(200))
    assert "it is MPEG-4 audio: convert it to wav or flac" in reason_of("file", m4a)
    wav.write_bytes(wav.read_bytes()[:9000])
    assert "its header promises 64000 bytes of audio, 8956 are there" in reason_of("file", wav)
    if shutil.which("sph2pipe") is None:
        sph = write_tone(tmp_path / "x.sph", 2.0, format="NIST")
        assert "did you run 'lhotse install-sph2pipe'?" in reason_of("file", sph)


def test_tarred_sharded_and_shar_data(tmp_path):
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}
    for name in ("tarred_audio_manifest.json", "sharded_manifests/manifest_0.json"):
        assert "tarred data is not read" in problem_of(nemo_manifest(tmp_path / name, [row]))
    (tmp_path / "t" / "audio_0.tar").mkdir(parents=True)
    text = problem_of(nemo_manifest(tmp_path / "t" / "m.json", [row]))
    assert "tarred data is not read" in text and "tar files beside it" in text
    (tmp_path / "x.tar").write_bytes(b"")
    assert "tarred data is not read" in problem_of(tmp_path / "x.tar")
    assert "join them into one" in problem_of(tmp_path / "manifest__OP_0..3_CL_.json")
    cuts = open_cuts(kaldi_dir(tmp_path / "k"))
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "wav"}, shard_size=2)
    assert "lhotse Shar data is not read" in problem_of(tmp_path / "shar")
    assert "lhotse Shar data is not read" in problem_of(tmp_path / "shar/cuts.000000.jsonl.gz")


def test_gzipped_manifests(tmp_path, wav):
    import gzip

    rows = [{"audio_filepath": "whole.wav", "duration": 4.0, "text": "a"}]
    content = gzip.compress(json.dumps(rows[0]).encode())
    (tmp_path / "m.json.gz").write_bytes(content)
    assert [cut.num_samples for cut in open_cuts(tmp_path / "m.json.gz")] == [64000]
    (tmp_path / "m.json").write_bytes(content)
    assert "m.json: is gzipped: its name must end in .gz" in problem_of(tmp_path / "m.json")


def test_windowed_cuts(tmp_path):
    windows = open_cuts(kaldi_dir(tmp_path / "k", [2.0])).cut_into_windows(0.8)
    text = problem_of(windows)
    assert "([0, 2] of 0.8 s): the supervision reaches outside its cut" in text
    assert "3 such" in text and "trim_to_supervisions" in text


def test_small_misunderstandings(tmp_path):
    folder = kaldi_dir(tmp_path / "k")
    assert f"give the folder, {folder}" in problem_of(folder / "wav.scp")
    scp = folder / "wav.scp"
    scp.write_bytes(b"\xef\xbb\xbf" + scp.read_bytes())
    assert "wav.scp: begins with a byte order mark" in problem_of(folder)
    (folder / "text").write_text("e\u0301 a\n")
    files = list((folder / "wav").iterdir())
    scp.write_text(f"\u00e9 {files[0]}\nx {files[0]} {files[1]}\n")
    text = problem_of(folder)
    assert "text in this Unicode form: normalize the ids of both files alike" in text
    assert "'x': several files for one utterance (its channels) are not read" in text
