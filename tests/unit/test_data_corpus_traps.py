"""What real copies of the corpora do: packed, halved, renamed, read-only, on a full disk."""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import tarfile
from dataclasses import replace

import pytest
import soundfile
from data_samples import PART, RATE, SPACED, aishell, librispeech, refused, timit, write_tone
from lhotse.recipes import prepare_aishell, prepare_librispeech, prepare_timit

from nas_encoder.cli.main import main
from nas_encoder.data import PrepareOptions, open_cuts, prepare_corpus
from nas_encoder.data.corpora.counts import PUBLISHED, compare
from nas_encoder.data.corpora.reading import Count, Reading
from nas_encoder.errors import ConfigError, DataError


def described(root, layout, splits):
    """Write the description that tools/synth_corpus.py puts beside a corpus."""
    content = {
        name: {"utterances": count, "hours": hours, "speakers": dict.fromkeys(speakers, {})}
        for name, (count, hours, speakers) in splits.items()
    }
    document = {"synthetic": True, "arguments": {"layout": layout}, "splits": content}
    (root / "corpus.json").write_text(json.dumps(document))


def snapshot(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}


# -- the same as lhotse's own recipes -----------------------------------------------------------


@pytest.mark.parametrize("corpus", ["aishell", "librispeech", "timit"])
def test_a_whole_copy_gives_what_lhotses_recipe_gives(tmp_path, corpus):
    root = tmp_path / "c" / "data"  # where lhotse looks for TIMIT
    if corpus == "aishell":
        theirs = prepare_aishell(aishell(root))
        names = {"train": "train", "dev": "dev", "test": "test"}
    elif corpus == "librispeech":
        theirs = prepare_librispeech(librispeech(root, ["train-clean-5", "dev-clean-2"]))
        names = {"train": "train-clean-5", "dev": "dev-clean-2"}
    else:
        timit(root)
        theirs = prepare_timit(root.parent, num_phones=39)
        names = {"train": "TRAIN", "dev": "DEV", "test": "TEST"}
    prepare_corpus(corpus, root, tmp_path / "out", replace(PART, phones=39, keep_sa=True))
    for split, part in names.items():
        want = {one.id: one.to_dict() for one in theirs[part]["supervisions"]}
        cuts = list(open_cuts(tmp_path / "out", split=split))
        got = {cut.id: cut.supervisions[0].to_dict() for cut in cuts}
        audio = {one.id: one.sources[0].source for one in theirs[part]["recordings"]}
        assert {cut.id: cut.recording.sources[0].source for cut in cuts} == audio
        if corpus == "timit":  # there the text are the phones
            for key, one in want.items():
                one["custom"] = {"words": one["text"]}
                one["text"] = " ".join(p[0] for p in one["alignment"]["phone"] if p[0])
                assert got[key]["text"] == one["text"]
        assert got == want


# -- counts -------------------------------------------------------------------------------------


def test_a_half_copied_corpus_is_refused_with_counts_and_examples(tmp_path, capsys):
    root = librispeech(tmp_path / "LibriSpeech", ["train-clean-5", "dev-clean-2"])
    chapter = root / "train-clean-5" / "100" / "1240"
    (chapter / "100-1240-0000.flac").unlink()
    cut = chapter / "100-1240-0001.flac"
    cut.write_bytes(cut.read_bytes()[:40])
    arguments = ["data", "prepare", "librispeech", str(root), str(tmp_path / "out")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "this is not the published corpus" in said
    assert "train-clean-5: 1,519 utterances expected, 2 found (1,517 lack)" in said
    assert "train-clean-5: 28 speakers expected, 1 found" in said
    assert "train-clean-5: '100-1240-0000': has a transcript, but no audio" in said
    assert "100-1240-0001.flac" in said and "libsndfile" in said
    assert "say so with --partial" in said
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--partial"]) == 0
    said = capsys.readouterr().out
    assert "a PART of the published corpus, as asked for" in said
    assert "  train-clean-5: 2 utterances of 1,519, 0.00 hours of 5.30, 1 speakers of 28" in said
    document = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert document["splits"]["train"]["utterances"] == 2
    assert document["counts"]["source"] == "partial"
    assert document["counts"]["expected"]["dev-clean-2"]["utterances"] == 1089
    assert len(document["counts"]["problems"]) == 5


def test_the_published_counts_and_no_others_pass(tmp_path):
    for corpus, parts in PUBLISHED.items():
        found = {
            name: Count(c.utterances, c.hours if c.hours else 1.0, c.speakers or 7)
            for name, c in parts.items()
        }
        speakers = {name: set() for name in parts}
        whole = compare(corpus, tmp_path, Reading({}, found, speakers), False)
        assert (whole.source, whole.problems) == ("published", ())
        name, count = next(iter(found.items()))
        for other in (
            replace(count, utterances=count.utterances - 1),
            replace(count, hours=count.hours * 0.97),  # audio is cut short, or at another rate
            replace(count, speakers=count.speakers + 1),
        ):
            with pytest.raises(DataError, match=f"{name}: .* expected, .* found"):
                compare(corpus, tmp_path, Reading({}, {**found, name: other}, speakers), False)
    with pytest.raises(DataError, match="'100-1-1': has a transcript, but no audio"):
        reading = Reading(
            {}, found, speakers, problems=["'100-1-1': has a transcript, but no audio"]
        )
        compare("timit", tmp_path, reading, False)


def test_the_page_about_corpora_says_the_same(repository):
    page = (repository / "docs" / "corpora.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| [a-z]+ \| \w+", line)]
    told = {(row[0].strip("| "), row[1]): [cell.strip("| ") for cell in row[2:]] for row in rows}
    del told["corpus", "part"], told["corpus", "texts"]
    for (corpus, part), cells in told.items():
        count = PUBLISHED[corpus][part]
        values = (count.utterances, count.hours, count.speakers)
        assert cells == ["not checked" if one is None else f"{one:,}" for one in values], part
    assert len(told) == sum(map(len, PUBLISHED.values()))


def test_a_synthetic_corpus_is_known_as_such_and_counted_too(tmp_path, capsys):
    root = librispeech(tmp_path / "c" / "LibriSpeech", ["train-clean-5", "dev-clean-2"])
    splits = {
        "train-clean-5": (4, 6 / 3600, ["100", "1004"]),
        "dev-clean-2": (4, 6 / 3600, ["101", "1014"]),
    }
    described(root.parent, "librispeech", splits)
    prepared = prepare_corpus("librispeech", root, tmp_path / "out")
    assert prepared.counts.source == "synthetic" and not prepared.counts.problems
    assert main(["data", "prepare", "librispeech", str(root.parent), str(tmp_path / "out")]) == 0
    assert "a SYNTHETIC corpus of this layout, whole" in capsys.readouterr().out
    shutil.rmtree(root / "dev-clean-2" / "1014")
    said = refused("librispeech", root, tmp_path / "out2")
    assert "dev-clean-2: 4 utterances expected, 2 found (2 lack)" in said
    assert "dev-clean-2: 2 speakers expected, 1 found; 1014" in said
    part = prepare_corpus("librispeech", root, tmp_path / "out2", PART)
    assert part.counts.source == "synthetic part"
    # A description of another layout is none of this corpus; a broken one is told.
    described(root.parent, "timit", {})
    assert "1,519 utterances expected" in refused("librispeech", root, tmp_path / "out3")


# -- AISHELL ------------------------------------------------------------------------------------


def packed(root, speakers):
    """Put speakers back into their archives, as data_aishell.tgz has them."""
    wav = root / "data_aishell" / "wav"
    for part, speaker in speakers:
        with tarfile.open(wav / f"{speaker}.tar.gz", "w:gz") as archive:
            archive.add(wav / part / speaker, arcname=f"./{part}/{speaker}")
        shutil.rmtree(wav / part / speaker)


def test_aishell_with_speakers_still_packed(tmp_path):
    root = aishell(tmp_path / "c")
    packed(root, [("train", "S0003")])
    said = refused("aishell", root, tmp_path / "out")
    assert "1 of 1 speakers' archives are not unpacked (S0003.tar.gz)" in said
    assert 'for f in *.tar.gz; do tar xzf "$f"; done' in said
    assert "train: 'BAC009S0003W0100': has a transcript, but no audio (2 such" in said
    packed(root, [("train", "S0002"), ("dev", "S0724"), ("test", "S0764")])
    for options in (None, PART):
        said = refused("aishell", root, tmp_path / "out", options)
        assert "4 of 4 speakers' archives" in said and "(part 'train')" in said
    wav = root / "data_aishell" / "wav"
    for path in wav.glob("*.tar.gz"):  # as the message says
        with tarfile.open(path) as archive:
            archive.extractall(wav, filter="data")
    prepared = prepare_corpus("aishell", root, tmp_path / "out", PART)
    assert [split.utterances for split in prepared.splits.values()] == [4, 2, 2]
    assert not any("archives" in line for line in prepared.counts.problems)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "data_aishell.tgz").touch()
    assert "run: tar xzf data_aishell.tgz" in refused("aishell", tmp_path / "d", tmp_path / "o")


def test_aishell_without_a_test_part_and_with_a_speaker_twice(tmp_path, caplog):
    root = aishell(tmp_path / "c")
    wav = root / "data_aishell" / "wav"
    shutil.move(wav / "test", tmp_path / "test")
    assert "holds no SPEAKER/*.wav (part 'test')" in refused("aishell", root, tmp_path / "out")
    with caplog.at_level(logging.WARNING):
        prepared = prepare_corpus("aishell", root, tmp_path / "out", PART)
    assert list(prepared.splits) == ["train", "dev"] and "no part 'test'" in caplog.text
    shutil.copytree(wav / "dev" / "S0724", wav / "train" / "S0724")
    said = refused("aishell", root, tmp_path / "out2", PART)
    assert "'BAC009S0724W0200' in train and dev: an utterance may be in one part only" in said
    assert "(2 such" in said


# -- LibriSpeech --------------------------------------------------------------------------------


def test_all_subsets_of_librispeech(tmp_path):
    subsets = [name for name in PUBLISHED["librispeech"] if not name.endswith(("-5", "-2"))]
    root = librispeech(tmp_path / SPACED / "LibriSpeech", subsets)
    before = snapshot(root)
    prepared = prepare_corpus("librispeech", root, tmp_path / "out", PART)
    assert {name: split.utterances for name, split in prepared.splits.items()} == {
        "train": 12,
        "dev": 8,
        "test": 8,
        **dict.fromkeys(("dev_clean", "dev_other", "test_clean", "test_other"), 4),
    }
    assert set(prepared.counts.found) == set(subsets)
    # Nothing is written there, so that the corpus may lie on a read-only medium; and white space
    # and the like in its path harm none of the three forms.
    assert snapshot(root) == before
    assert all(SPACED in str(path) for path in before)
    for split in prepared.splits:
        want = [cut.load_audio().sum() for cut in open_cuts(tmp_path / "out", split=split)]
        for source in (f"espnet/{split}", f"nemo/{split}.json"):
            cuts = open_cuts(tmp_path / "out" / source)
            assert [cut.load_audio().sum() for cut in cuts] == want


def test_subsets_that_overlap_or_share_readers(tmp_path, caplog):
    root = librispeech(tmp_path / "c", ["train-clean-100"])
    other = librispeech(tmp_path / "d", ["train-clean-360"])  # with the same reader ids
    shutil.move(other / "train-clean-360", root / "train-clean-360")
    said = refused("librispeech", root, tmp_path / "out", PART)
    assert "'100-1240-0000' in train-clean-100 and train-clean-360" in said and "(4 such" in said
    shutil.rmtree(root / "train-clean-360" / "1004")
    chapter = root / "train-clean-360" / "100" / "1240"
    renamed = chapter.rename(chapter.with_name("77"))
    for path in list(renamed.iterdir()):
        path.rename(path.with_name(path.name.replace("1240", "77")))
    transcript = renamed / "100-77.trans.txt"
    transcript.write_text(transcript.read_text().replace("1240", "77"))
    said = refused("librispeech", root, tmp_path / "out")
    assert "1 speakers are in train-clean-100 and in train-clean-360: 100" in said
    (root / "dev-other.tar.gz").touch()
    with caplog.at_level(logging.WARNING):
        prepare_corpus("librispeech", root, tmp_path / "out", PART)
    assert "not unpacked: dev-other.tar.gz" in caplog.text


def test_text_for_language_models(tmp_path, capsys, caplog):
    root = librispeech(tmp_path / "c", ["train-clean-5"])
    source, out = tmp_path / "librispeech-lm-norm.txt.gz", tmp_path / "out"
    with gzip.open(source, "wt") as file:
        file.write("A SENTENCE\n\nTHE  OTHER ONE\n" * 5000)
    asked = ["data", "prepare", "librispeech", str(root), str(out), "--partial"]
    assert main([*asked, "--lm-text", str(source)]) == 0
    said = capsys.readouterr()
    assert "40,418,261 lines expected, 15,000 found" in caplog.text
    assert "text for language models: 15,000 lines" in said.out
    lines = (out / "lm" / "text").read_text().splitlines()
    assert lines[:2] == [
        "librispeech_lng_00000001 A SENTENCE",
        "librispeech_lng_00000003 THE OTHER ONE",
    ]
    whole = source.read_bytes()
    for content, problem in (
        (whole[:-20], "is cut short or damaged"),
        (gzip.compress(b"\n\n"), "holds no sentence"),
        (gzip.compress(b"\xff\xfe\n"), "is not UTF-8"),
    ):
        source.write_bytes(content)
        assert main([*asked, "--lm-text", str(source)]) == 2
        assert problem in capsys.readouterr().err
        assert not (out / "prepared.json").exists()
    with pytest.raises(ConfigError, match="lm_text: is for librispeech, not timit"):
        prepare_corpus("timit", root, out, replace(PART, lm_text=source))


# -- writing ------------------------------------------------------------------------------------


def test_a_full_disk_and_then_on(tmp_path):
    """/dev/full is a disk without room; what is whole by then is not made again."""
    root, out = librispeech(tmp_path / "c", ["train-clean-5", "dev-clean-2"]), tmp_path / "out"
    options = PrepareOptions(partial=True, sampling_rate=8000)
    full = out / "audio" / "train" / ".partial-1004-1240-0001.flac"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    said = refused("librispeech", root, out, options)
    assert "cannot be written" in said and "No space left on device" in said
    assert "GB are free; make room and run the same command again" in said
    kept = {path: path.stat().st_mtime_ns for path in full.parent.glob("[!.]*.flac")}
    assert len(kept) == 3 and not full.is_symlink()
    prepared = prepare_corpus("librispeech", root, out, options)
    assert prepared.splits["train"].utterances == 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {cut.sampling_rate for cut in open_cuts(out, split="train")} == {8000}
    # Another corpus, a changed source or a damaged file, and it is made again.
    changed, damaged, _ = sorted(kept)
    source = root / "train-clean-5" / "100" / "1240" / changed.name
    write_tone(source, soundfile.info(source).duration, seed=77)
    damaged.write_bytes(b"")
    prepare_corpus("librispeech", root, out, options)
    again = {path for path, then in kept.items() if path.stat().st_mtime_ns != then}
    assert again == {changed, damaged}
    shutil.copytree(root, tmp_path / "copy")
    prepare_corpus("librispeech", tmp_path / "copy", out, options)
    assert all(path.stat().st_mtime_ns != then for path, then in kept.items())


def test_a_full_disk_while_manifests_are_written(tmp_path):
    root, out = timit(tmp_path / "c"), tmp_path / "out"
    for name in ("lhotse/train/.partial-cuts.jsonl.gz", "lm/.partial-text"):
        full = out / name
        full.parent.mkdir(parents=True)
        full.symlink_to("/dev/full")
    assert "No space left on device" in refused("timit", root, out, PART)
    (out / "lhotse/train/.partial-cuts.jsonl.gz").unlink()
    prepare_corpus("timit", root, out, PART)
    text = tmp_path / "text"
    text.write_text("A B C\n" * 100_000)
    speech = librispeech(tmp_path / "ls", ["train-clean-5"])
    options = replace(PART, lm_text=text)
    assert "No space left on device" in refused("librispeech", speech, out, options)


def test_room_is_asked_for_before_anything_is_written(tmp_path):
    root = librispeech(tmp_path / "c", ["train-clean-5"])
    options = PrepareOptions(partial=True, sampling_rate=10**13)
    said = refused("librispeech", root, tmp_path / "out", options)
    assert said.startswith("audio at 10000000000000 Hz needs about 72000.0 GB, ")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    root = librispeech(tmp_path / "c", ["train-clean-5"])
    said = refused("librispeech", root, tmp_path / "file", PART)
    assert "cannot be written" in said
    assert RATE == soundfile.info(next(root.rglob("*.flac"))).samplerate
