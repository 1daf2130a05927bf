"""Aligning into a folder: what is written, what is read back, kills, resumes, refusals."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from alignment_samples import RATE, ToneModel, sentences, speak
from lhotse import CutSet
from lhotse.utils import fastcopy

from nas_encoder.alignment.align import AlignOptions
from nas_encoder.alignment.evaluation import evaluate
from nas_encoder.alignment.recordings import Task, read_pairs, tasks_of_cuts, tasks_of_files
from nas_encoder.alignment.run import run
from nas_encoder.alignment.scores import Chunks
from nas_encoder.data import open_cuts
from nas_encoder.errors import CheckpointError, DataError

CHUNKS = Chunks(seconds=4.0, context=0.5)


class Saved(ToneModel):
    """A tone model that kills its process, or is stopped, at a call; it has a file."""

    def __init__(self, folder: Path, end_at: int = -1, how: str = "kill") -> None:
        super().__init__()
        self.source = str(folder / "model.bin")
        Path(self.source).write_bytes(b"weights")
        self.end_at, self.how = end_at, how

    def log_probs(self, samples: torch.Tensor) -> torch.Tensor:
        scores = super().log_probs(samples)
        if self.calls == self.end_at:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return scores


def write(folder: Path, name: str, texts: list[str], seed: int = 0) -> tuple[Path, Path]:
    samples, truth = speak(texts, seed)
    audio, text = folder / f"{name}.wav", folder / f"{name}.txt"
    soundfile.write(audio, samples, RATE, subtype="PCM_16")
    text.write_text("\n".join(texts) + "\n")
    (folder / f"{name}.json").write_text(
        json.dumps([[[one.start, one.end, one.label] for one in row] for row in truth])
    )
    return audio, text


def tasks(model: ToneModel, pairs: list[tuple[Path, Path]]) -> list[Task]:
    return tasks_of_files(model, pairs, with_ids=False, case="as-is")[0]


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[Path, Path]]:
    return [write(tmp_path, "talk", sentences(8)), write(tmp_path, "news", sentences(5, 1), 1)]


def align_all(model: ToneModel, listed: list[Task], output: Path, **options: Any) -> Any:
    options = {"chunks": CHUNKS, "progress": False, **options}
    return run(model, listed, output, AlignOptions(), **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".gz"
    }


def test_every_output_can_be_read_and_says_the_same(tmp_path: Path, pairs: Any) -> None:
    model, output = Saved(tmp_path), tmp_path / "aligned"
    summary = align_all(model, tasks(model, pairs), output)
    assert (summary["recordings"], summary["utterances"], summary["kept"]) == (2, 13, 13)
    assert summary["timing"]["centre"] == 1.5
    assert not (output / "work").exists()
    truth = {
        f"{name}-{number:04d}": row
        for name in ("talk", "news")
        for number, row in enumerate(json.loads((tmp_path / f"{name}.json").read_text()), 1)
    }
    texts = {one: text for name in pairs for one, text in _texts(name[1])}
    cuts = {cut.id: cut for cut in CutSet.from_file(output / "cuts.jsonl.gz")}
    for source in (output / "espnet", output / "nemo.json", output / "cuts.jsonl.gz"):
        read = {cut.id: cut for cut in open_cuts(source)}
        assert set(read) == set(truth)
        for key, cut in read.items():
            assert cut.supervisions[0].text == texts[key]
            assert cut.num_samples == cuts[key].num_samples
            assert cut.start == pytest.approx(cuts[key].start, abs=1 / RATE)
            assert cut.start <= truth[key][0][0] and truth[key][-1][1] <= cut.end
    for key, cut in cuts.items():
        (segment,) = cut.supervisions
        assert segment.custom["confidence"] > -0.2
        for item, (start, end, label) in zip(segment.alignment["token"], truth[key], strict=True):
            assert item.symbol == label
            assert cut.start + item.start == pytest.approx(start, abs=0.04)
            assert cut.start + item.start + item.duration == pytest.approx(end, abs=0.04)
        assert " ".join(item.symbol for item in segment.alignment["word"]) == texts[key]
    grid = _textgrid(output / "textgrid" / "talk.TextGrid")
    assert list(grid) == ["utterances", "words", "tokens"]
    for intervals in grid.values():  # Praat refuses holes and overlaps
        assert intervals[0][0] == 0
        assert intervals[-1][1] == pytest.approx(cuts["talk-0001"].recording.duration)
        pairs_of = zip(intervals[:-1], intervals[1:], strict=True)
        assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairs_of)
    said = [label for _, _, label in grid["words"] if label]
    assert said == " ".join(text for key, text in texts.items() if "talk" in key).split()
    rows = [line.split(" ") for line in (output / "words.ctm").read_text().splitlines()]
    assert {len(row) for row in rows} == {6}
    assert [row[4] for row in rows if row[0] == "talk"] == said


def _texts(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().splitlines()
    return [(f"{path.stem}-{number:04d}", line) for number, line in enumerate(lines, 1)]


def _textgrid(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    """Read Praat's long text form by its words, as Praat does."""
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    name, start, end = "", 0.0, 0.0
    for line in path.read_text().splitlines():
        key, _, value = (part.strip() for part in line.partition("="))
        if key == "name":
            name = value.strip('"')
            tiers[name] = []
        elif key == "xmin":
            start = float(value)
        elif key == "xmax":
            end = float(value)
        elif key == "text":
            tiers[name].append((start, end, value[1:-1].replace('""', '"')))
    return tiers


def test_a_threshold_keeps_doubtful_utterances_out_and_names_them(tmp_path: Path) -> None:
    texts = sentences(6)
    audio, text = write(tmp_path, "talk", texts)
    text.write_text("\n".join([*texts[:2], "hgf edc", *texts[3:]]))
    model = Saved(tmp_path)
    summary = align_all(model, tasks(model, [(audio, text)]), tmp_path / "out", threshold=-7.0)
    assert summary["left_out"] == ["talk-0003"]
    rows = (tmp_path / "out" / "utterances.tsv").read_text().splitlines()
    assert [row.split("\t")[5] for row in rows[1:]] == ["yes", "yes", "no", "yes", "yes", "yes"]
    assert len(list(open_cuts(tmp_path / "out" / "espnet"))) == 5
    assert "hgf" not in (tmp_path / "out" / "words.ctm").read_text()


@pytest.mark.parametrize("at", [4, 9, 11])  # 2 calls measure the timing
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_run_that_ended_early_goes_on_where_it_was(
    tmp_path: Path, pairs: Any, how: str, at: int
) -> None:
    plain = Saved(tmp_path)
    align_all(plain, tasks(plain, pairs), tmp_path / "whole")
    calls = plain.calls
    output, model = tmp_path / "stopped", Saved(tmp_path, at, how)
    child = os.fork()
    if child == 0:
        try:
            align_all(model, tasks(model, pairs), output)
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if how == "kill" else 7)
    assert not (output / "alignment.json").exists()
    with pytest.raises(CheckpointError, match="--resume goes on"):
        align_all(plain, tasks(plain, pairs), output)
    again = Saved(tmp_path)
    align_all(again, tasks(again, pairs), output, resume=True)
    assert again.calls == calls - (at - 1 - 2)  # what was done is not done again
    assert contents(output) == contents(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="finished"):
        align_all(again, tasks(again, pairs), output, resume=True)


def test_a_last_line_cut_short_is_aligned_again(tmp_path: Path, pairs: Any) -> None:
    plain = Saved(tmp_path)
    align_all(plain, tasks(plain, pairs), tmp_path / "whole")
    stopped = Saved(tmp_path, plain.calls, "stop")  # in the second recording
    with pytest.raises(KeyboardInterrupt):
        align_all(stopped, tasks(stopped, pairs), tmp_path / "out")
    done = tmp_path / "out" / "work" / "done.jsonl"
    done.write_bytes(done.read_bytes()[:-20])
    again = Saved(tmp_path)
    align_all(again, tasks(again, pairs), tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_settings_are_refused_on_resume(tmp_path: Path, pairs: Any) -> None:
    stopped = Saved(tmp_path, 5, "stop")
    with pytest.raises(KeyboardInterrupt):
        align_all(stopped, tasks(stopped, pairs), tmp_path / "out")
    model = Saved(tmp_path)
    pairs[0][1].write_text("\n".join(sentences(8, 5)))
    with pytest.raises(CheckpointError, match=r"chunks\.seconds: was 4\.0.*") as caught:
        align_all(model, tasks(model, pairs), tmp_path / "out", resume=True, chunks=Chunks())
    assert "data_sha256" in str(caught.value)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, pairs: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    model = Saved(tmp_path)
    with pytest.raises(CheckpointError, match="holds files"):
        align_all(model, tasks(model, pairs), tmp_path / "out")


def test_inputs_are_refused_with_all_problems_at_once(tmp_path: Path) -> None:
    model = Saved(tmp_path)
    audio, text = write(tmp_path, "talk", sentences(2))
    soundfile.write(tmp_path / "slow.wav", np.zeros(8000), 8000)
    soundfile.write(tmp_path / "stereo.wav", np.zeros((16000, 2)), 16000)
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    rows = [(tmp_path / "slow.wav", tmp_path / "empty.txt"), (tmp_path / "broken.wav", text)]
    rows.append((tmp_path / "stereo.wav", text))
    with pytest.raises(DataError) as caught:
        tasks(model, [(audio, text), *rows, (tmp_path / "none.wav", tmp_path / "none.txt")])
    said = str(caught.value)
    for words in ("takes 16000 Hz", "(8000 Hz)", "mono", "holds no text", "broken", "none.txt"):
        assert words in said, words
    text.write_text("ab\n\nxyz\n")
    with pytest.raises(DataError, match=r"(?s)talk\.txt:2.*empty.*talk\.txt:3 'x', 'y', 'z'"):
        tasks(model, [(audio, text)])
    with pytest.raises(DataError, match="two recordings of one name"):
        tasks(model, [(audio, text), (audio, text)])


def test_lists_and_lines_with_ids(tmp_path: Path) -> None:
    audio, text = write(tmp_path, "talk", ["ab cd", "gh"])
    text.write_text("one ab cd\ntwo gh\n")
    (tmp_path / "list.tsv").write_text("talk.wav\ttalk.txt\n")
    assert read_pairs(tmp_path / "list.tsv") == [(audio, text)]
    found = tasks_of_files(Saved(tmp_path), [(audio, text)], with_ids=True, case="as-is")[0]
    assert [line.id for line in found[0].lines] == ["one", "two"]
    (tmp_path / "list.tsv").write_text("talk.wav talk.txt\n\nnews.wav\n")
    with pytest.raises(DataError, match=r"AUDIO<tab>TEXT.*3 such"):
        read_pairs(tmp_path / "list.tsv")


def test_the_id_of_a_line_ends_at_any_white_space(tmp_path: Path) -> None:
    audio, text = write(tmp_path, "talk", ["ab cd", "gh"])
    text.write_text("one\tab cd\n  two \t gh\n")
    (task,) = tasks_of_files(Saved(tmp_path), [(audio, text)], with_ids=True, case="as-is")[0]
    assert [(line.id, line.text) for line in task.lines] == [("one", "ab cd"), ("two", "gh")]
    text.write_text("one\n\ntwo gh\n")
    with pytest.raises(DataError, match=r"talk\.txt:1: .*empty.*talk\.txt:2"):
        tasks_of_files(Saved(tmp_path), [(audio, text)], with_ids=True, case="as-is")


def test_files_are_named_or_refused_once(tmp_path: Path) -> None:
    audio, text = write(tmp_path, "my  talk", ["ab cd", "gh"])
    (tmp_path / "list.tsv").write_text("my  talk.wav\tmy  talk.txt\n\n \n")
    assert read_pairs(tmp_path / "list.tsv") == [(audio, text)]
    model = Saved(tmp_path)
    align_all(model, tasks(model, [(audio, text)]), tmp_path / "out")
    assert [cut.id for cut in open_cuts(tmp_path / "out" / "espnet")] == [
        "my_talk-0001",
        "my_talk-0002",
    ]
    with pytest.raises(DataError) as caught:
        tasks(model, [(audio, tmp_path / "none.txt")])
    assert len(caught.value.problems) == 1 and "Errno" not in str(caught.value)
    with pytest.raises(DataError, match="No such file") as caught:
        read_pairs(tmp_path / "none.tsv")
    assert len(caught.value.problems) == 1


def renamed(cuts: list[Any], names: list[str]) -> CutSet:
    return CutSet.from_cuts(
        fastcopy(cut, id=name, supervisions=[fastcopy(cut.supervisions[0], id=name)])
        for cut, name in zip(cuts, names, strict=True)
    )


def test_no_id_leads_out_of_the_folder_or_to_another_file(tmp_path: Path) -> None:
    names = ["../../evil", "a/b", "a%2Fb", "..", "plain"]
    model = Saved(tmp_path)
    align_all(model, tasks(model, [write(tmp_path, "talk", sentences(5))]), tmp_path / "long")
    cuts = list(CutSet.from_file(tmp_path / "long" / "cuts.jsonl.gz"))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    renamed(cuts, names).to_file(tmp_path / "data.jsonl.gz")
    listed, _ = tasks_of_cuts(model, str(tmp_path / "data.jsonl.gz"), split=None, case="as-is")
    output = tmp_path / "deep" / "er" / "out"
    align_all(model, listed, output)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path for path in made if output not in path.parents} == {tmp_path / "data.jsonl.gz"}
    assert {path.name for path in (output / "textgrid").iterdir()} == {
        "..%2F..%2Fevil.TextGrid",
        "a%2Fb.TextGrid",
        "a%252Fb.TextGrid",
        "...TextGrid",
        "plain.TextGrid",
    }
    assert {cut.id for cut in open_cuts(output / "nemo.json")} == set(names)


def test_ids_that_no_file_can_hold_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    model = Saved(tmp_path)
    align_all(model, tasks(model, [write(tmp_path, "talk", sentences(3))]), tmp_path / "long")
    cuts = list(CutSet.from_file(tmp_path / "long" / "cuts.jsonl.gz"))
    renamed(cuts, ["one two", "three", "x" * 300]).to_file(tmp_path / "data.jsonl.gz")
    listed, _ = tasks_of_cuts(model, str(tmp_path / "data.jsonl.gz"), split=None, case="as-is")
    calls = model.calls
    with pytest.raises(
        DataError, match=r"(?s)at most 200 bytes.*'one two': ids must not hold white space"
    ):
        align_all(model, listed, tmp_path / "out")
    assert model.calls == calls and not (tmp_path / "out").exists()


def test_utterances_that_a_shift_moves_out_of_the_audio_are_refused(tmp_path: Path) -> None:
    model = Saved(tmp_path)
    listed = tasks(model, [write(tmp_path, "talk", ["ab cd", "gh ef", "ac"])])
    options = AlignOptions(shift_ms=-1000.0 * listed[0].seconds + 400)
    with pytest.raises(
        DataError, match=r"(?s)'talk-0001' lies outside.*'talk-0002' lies"
    ) as caught:
        run(model, listed, tmp_path / "out", options, progress=False)
    assert "smaller shift" in caught.value.problems[0]


def test_utterances_align_by_themselves_and_are_evaluated(tmp_path: Path, pairs: Any) -> None:
    """What the alignment of the long recordings wrote has boundaries to compare with, too."""
    model = Saved(tmp_path)
    align_all(model, tasks(model, pairs), tmp_path / "long")
    listed, _ = tasks_of_cuts(model, str(tmp_path / "long" / "espnet"), split=None, case="as-is")
    assert len(listed) == 13
    align_all(model, listed, tmp_path / "short")
    long = {cut.id: cut for cut in open_cuts(tmp_path / "long" / "cuts.jsonl.gz")}
    for cut in open_cuts(tmp_path / "short" / "cuts.jsonl.gz"):
        assert cut.supervisions[0].text == long[cut.id].supervisions[0].text
    report = evaluate(model, tmp_path / "long" / "cuts.jsonl.gz", "word")
    assert report.utterances == 13 and report.frame_ms == 40
    assert report.errors.within_50 > 0.95 and abs(report.errors.bias_ms) < 12
    assert evaluate(
        model, tmp_path / "long" / "cuts.jsonl.gz", "word", shift_ms=30
    ).errors.bias_ms == pytest.approx(report.errors.bias_ms + 30, abs=3)
    with pytest.raises(DataError, match="no true boundaries of phones"):
        evaluate(model, tmp_path / "long" / "cuts.jsonl.gz", "phone")


def test_audio_too_short_for_its_text_is_left_out_and_listed(tmp_path: Path, pairs: Any) -> None:
    model = Saved(tmp_path)
    align_all(model, tasks(model, pairs), tmp_path / "long")
    cuts = list(CutSet.from_file(tmp_path / "long" / "cuts.jsonl.gz"))
    segment = fastcopy(cuts[3].supervisions[0], duration=0.3)
    cuts[3] = fastcopy(cuts[3], duration=0.3, supervisions=[segment])
    report = evaluate(model, CutSet.from_cuts(cuts), "word")
    assert list(report.left_out) == [cuts[3].id]
    assert "output frames" in report.left_out[cuts[3].id]


def test_scores_that_are_no_numbers_are_no_matter_of_length(tmp_path: Path, pairs: Any) -> None:
    model = Saved(tmp_path)
    align_all(model, tasks(model, pairs), tmp_path / "long")
    cuts = CutSet.from_file(tmp_path / "long" / "cuts.jsonl.gz")

    class Broken(Saved):
        def log_probs(self, samples: torch.Tensor) -> torch.Tensor:
            scores = super().log_probs(samples)
            return scores * float("nan") if self.calls > 2 else scores

    with pytest.raises(DataError, match="no numbers"):
        evaluate(Broken(tmp_path), cuts, "word")
