"""The corpus generator end to end: audio, layouts as lhotse reads them, resuming, errors."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import recipes

from nas_encoder.errors import DataError
from tools import synth_corpus
from tools.synth import english
from tools.synth.audio import frame_count
from tools.synth.build import build
from tools.synth.corpus import Plan, Request
from tools.synth.layouts import LAYOUTS
from tools.synth.plan import make_plan

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "synth_corpus.py"


def request(layout: str, **changes: object) -> Request:
    base = Request(
        layout=layout,
        utterances=(20, 5, 10),
        speakers=(3, 1, 2),
        seed=11,
        rates=LAYOUTS[layout].rates,
    )
    return dataclasses.replace(base, **changes)


def plan_of(wanted: Request) -> Plan:
    return make_plan(wanted, LAYOUTS[wanted.layout])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """One small corpus in each layout, with its manifest."""
    made = {}
    for layout in LAYOUTS:
        folder = tmp_path_factory.mktemp("corpora") / layout
        manifest, fresh = build(request(layout), folder, jobs=1, progress=False)
        assert fresh
        made[layout] = (folder, manifest)
    return made


def check_manifests(prepared, parts: dict[str, str], plan: Plan, folder: Path, text) -> None:
    """Compares what lhotse read with the plan and with the audio files."""
    assert {part: len(prepared[part]["supervisions"]) for part in prepared} == {
        part: sum(item.split == split for item in plan.utterances) for part, split in parts.items()
    }
    for part, split in parts.items():
        recordings = {item.id: item for item in prepared[part]["recordings"]}
        supervisions = {item.id: item for item in prepared[part]["supervisions"]}
        for item in (item for item in plan.utterances if item.split == split):
            recording, supervision = recordings[item.id], supervisions[item.id]
            samples, rate = soundfile.read(folder / item.audio)
            assert rate == recording.sampling_rate == 16000
            assert recording.num_samples == len(samples)
            assert supervision.duration == pytest.approx(len(samples) / 16000)
            assert supervision.speaker == item.speaker.name
            assert supervision.text == text(item.words)
            loaded = recording.load_audio()
            np.testing.assert_allclose(loaded[0], samples, atol=1e-4)


def test_lhotse_prepares_the_librispeech_layout(corpora):
    folder, _ = corpora["librispeech"]
    prepared = recipes.prepare_librispeech(folder / "LibriSpeech")
    parts = {name: name for name in ("train-clean-100", "dev-clean", "test-clean")}
    plan = plan_of(request("librispeech"))
    check_manifests(prepared, parts, plan, folder, lambda words: " ".join(words).upper())


def test_lhotse_prepares_the_aishell_layout(corpora):
    folder, _ = corpora["aishell"]
    prepared = recipes.prepare_aishell(folder)
    parts = {name: name for name in ("train", "dev", "test")}
    plan = plan_of(request("aishell"))
    check_manifests(prepared, parts, plan, folder, "".join)


@pytest.mark.parametrize("phones", [60, 48, 39])
def test_lhotse_prepares_the_timit_layout(corpora, phones):
    folder, _ = corpora["timit"]
    prepared = recipes.prepare_timit(folder, num_phones=phones)
    parts = {"TRAIN": "train", "DEV": "dev", "TEST": "test"}
    plan = plan_of(request("timit"))
    check_manifests(prepared, parts, plan, folder, english.punctuated)
    words = {item.id: item.words for item in plan.utterances}
    for part in parts:
        for supervision in prepared[part]["supervisions"]:
            aligned = [item.symbol for item in supervision.alignment["word"]]
            assert aligned == list(words[supervision.id])
            assert supervision.alignment["phone"][-1].end == pytest.approx(supervision.duration)
            gender = "female" if supervision.speaker.startswith("F") else "male"
            assert supervision.gender == gender


def test_folders_are_named_as_in_the_public_corpora(corpora):
    names = {layout: contents(folder) for layout, (folder, _) in corpora.items()}
    transcript = names["aishell"]["data_aishell/transcript/aishell_transcript_v0.8.txt"].decode()
    assert "data_aishell/wav/train/S0002/BAC009S0002W0122.wav" in names["aishell"]
    assert "data_aishell/wav/dev/S0724/BAC009S0724W0122.wav" in names["aishell"]
    assert "data_aishell/wav/test/S0764/BAC009S0764W0122.wav" in names["aishell"]
    first = plan_of(request("aishell")).utterances[0]
    assert transcript.splitlines()[0] == f"BAC009S0002W0122 {' '.join(first.words)}"
    libri = names["librispeech"]
    for table in ("SPEAKERS", "CHAPTERS", "BOOKS"):
        assert f"LibriSpeech/{table}.TXT" in libri
    speakers = libri["LibriSpeech/SPEAKERS.TXT"].decode().splitlines()
    rows = [[field.strip() for field in line.split("|")] for line in speakers if line[0] != ";"]
    # What Kaldi's data preparation greps for: the number, a blank, a bar, the gender.
    assert all(line.split("|")[0].endswith(" ") for line in speakers if line[0] != ";")
    assert {row[0] for row in rows} == {"1001", "1002", "1003", "7001", "8001", "8002"}
    assert {row[1] for row in rows} == {"F", "M"}
    chapter = "LibriSpeech/test-clean/8001/8001000/8001-8001000"
    lines = libri[f"{chapter}.trans.txt"].decode().splitlines()
    assert [line.split()[0] for line in lines] == [f"8001-8001000-{n:04d}" for n in range(5)]
    assert f"{chapter}-0004.flac" in libri
    timit = [name for name in names["timit"] if name.endswith(".WAV")]
    assert any(name.startswith("data/TEST/DR1/FELC0/S") for name in timit)
    for name in timit:
        head = names["timit"][name][:1024]
        assert head.startswith(b"NIST_1A\n   1024\n") and b"sample_rate -i 16000\n" in head
        for suffix in (".PHN", ".WRD", ".TXT"):
            assert name.replace(".WAV", suffix) in names["timit"]


def test_manifest_says_what_the_corpus_is(corpora):
    for layout, (folder, manifest) in corpora.items():
        assert json.loads((folder / "corpus.json").read_text("utf-8")) == manifest
        assert manifest["synthetic"] is True and "SYNTHETIC" in manifest["notice"]
        assert manifest["seed"] == 11 and manifest["arguments"]["layout"] == layout
        assert {"espeak-ng", "numpy", "scipy", "python"} <= set(manifest["versions"])
        for split, count in zip(manifest["splits"].values(), (20, 5, 10), strict=True):
            assert split["utterances"] == count and split["infeasible"] == []
        files = [path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac")]
        hours = sum(soundfile.info(path).duration for path in files) / 3600
        assert sum(item["hours"] for item in manifest["splits"].values()) == pytest.approx(
            hours, abs=2e-4
        )


@pytest.mark.slow
def test_jobs_do_not_change_a_bit(corpora, tmp_path):
    folder, _ = corpora["timit"]
    build(request("timit"), tmp_path / "again", jobs=2, progress=False)
    assert contents(tmp_path / "again") == contents(folder)


def test_a_finished_corpus_is_left_alone(corpora, capsys):
    folder, manifest = corpora["librispeech"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert build(request("librispeech"), folder, jobs=1, progress=False) == (manifest, False)
    counts = ["--train", "20", "--dev", "5", "--test", "10", "--speakers", "3", "1", "2"]
    arguments = ["--layout", "librispeech", "--output", str(folder), "--seed", "11", *counts]
    assert synth_corpus.main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_arguments_or_a_foreign_folder_are_refused(corpora, tmp_path):
    folder, _ = corpora["librispeech"]
    with pytest.raises(DataError, match="choose another --output") as caught:
        build(request("librispeech", seed=12, reverb=True), folder, jobs=1, progress=False)
    listed = "\n".join(caught.value.problems)
    assert "seed: the folder has 11, asked for is 12" in listed and "reverb" in listed
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(DataError, match="no corpus of this tool"):
        build(request("librispeech"), tmp_path / "mine", jobs=1, progress=False)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"do not lose"}
    (tmp_path / "empty.partial").mkdir()
    (tmp_path / "empty.partial" / ".arguments.json").write_text('{"seed": 1}')
    with pytest.raises(DataError, match="interrupted run with other arguments"):
        build(request("librispeech"), tmp_path / "empty", jobs=1, progress=False)


def test_infeasible_utterances_are_counted_and_kept(tmp_path):
    (tmp_path / "fast").mkdir()  # an empty folder is as good as none
    wanted = request("librispeech", rates=(290, 300), utterances=(12, 4, 4))
    manifest, _ = build(wanted, tmp_path / "fast", jobs=1, progress=False)
    expected = []
    for item in plan_of(wanted).utterances:
        text = " ".join(item.words)
        needed = len(text) + sum(a == b for a, b in zip(text, text[1:], strict=False))
        samples = soundfile.info(tmp_path / "fast" / item.audio).frames
        if needed > frame_count(samples) // 4:
            expected.append(item.id)
    found = [name for split in manifest["splits"].values() for name in split["infeasible"]]
    assert found == expected and expected
    assert "infeasible" in synth_corpus.summary(manifest, tmp_path)


def test_command_line_reports_every_mistake_at_once(tmp_path, capsys):
    bad = ["--layout", "timit", "--output", str(tmp_path / "x"), "--train", "0", "--snr", "9", "3"]
    assert synth_corpus.main([*bad, "--speakers", "4", "60", "2"]) == 1
    message = capsys.readouterr().err
    for part in ("--train", "--snr", "at most 50 dev speakers, got 60"):
        assert part in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--jobs", "0"], "--jobs"), (["--seed", "-1"], "--seed")]
)
def test_command_line_checks_numbers(tmp_path, capsys, arguments, message):
    command = ["--layout", "librispeech", "--output", str(tmp_path / "x"), *arguments]
    assert synth_corpus.main(command) == 1
    assert f"{message}: must be" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "corpus"
    assert synth_corpus.main(["--layout", "librispeech", "--output", str(output)]) == 1
    assert str(output) in capsys.readouterr().err


def test_help_has_examples():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True
    )
    assert "examples:" in done.stdout and "--layout aishell" in done.stdout


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_corpus(tmp_path):
    counts = ["--train", "40", "--dev", "2", "--test", "4", "--speakers", "3", "1", "2"]
    command = [sys.executable, str(SCRIPT), "--layout", "librispeech", *counts, "--quiet"]

    def run(folder: str, jobs: str) -> subprocess.CompletedProcess[str]:
        arguments = [*command, "--output", str(tmp_path / folder), "--jobs", jobs]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    journal = tmp_path / "killed.partial" / ".journal.jsonl"
    arguments = [*command, "--output", str(tmp_path / "killed"), "--jobs", "2"]
    with subprocess.Popen(arguments, start_new_session=True) as first:
        deadline = time.monotonic() + 120
        while not journal.exists() or journal.read_bytes().count(b"\n") < 10:
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.01)
        group = first.pid
        os.killpg(group, signal.SIGSTOP)  # or it could be done before the second one looks
        second = run("killed", "1")
        assert second.returncode == 1 and "another run is writing it" in second.stderr
        first.send_signal(signal.SIGKILL)
        first.wait()
        os.killpg(group, signal.SIGCONT)
    assert not (tmp_path / "killed").exists()
    # Its workers and their synthesisers end by themselves.
    deadline = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)
        pytest.fail("processes of the killed run are still there")
    done_before = journal.read_bytes().count(b"\n")
    with journal.open("ab") as file:
        file.write(b'\n{"id": "100')  # a line that the kill cut short
    started = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "killed.partial").rglob("*.flac")
    }
    assert run("killed", "2").returncode == 0
    kept = [
        path
        for path, changed in started.items()
        if (tmp_path / "killed" / path.relative_to(tmp_path / "killed.partial")).stat().st_mtime_ns
        == changed
    ]
    assert len(kept) >= done_before
    wanted = request("librispeech", utterances=(40, 2, 4), seed=1)
    build(wanted, tmp_path / "whole", jobs=1, progress=False)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
