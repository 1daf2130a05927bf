"""Scoring, bootstrap, the comparison's table and text, and the picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

from nas_encoder.errors import DataError
from tools.experiments import publish
from tools.results.bootstrap import Interval, paired_difference, rate_interval
from tools.results.comparison import Comparison, Pair, System
from tools.results.document import portable, write_results
from tools.results.page import marks
from tools.results.scoring import Score, read_transcripts, score


def scored(errors: list[int], length: int = 20) -> Score:
    names = tuple(f"u{index:04d}" for index in range(len(errors)))
    return Score(names, tuple(errors), (length,) * len(errors), sum(errors), 0, 0)


def system(name: str, cer: Score) -> System:
    return System(
        name=name,
        cer=cer,
        wer=cer,
        encoder_parameters=260_000,
        parameters=262_500,
        macs_10s=123_400_000,
        rtf=0.0123,
        epochs=10,
        training_seconds=350.4,
        peak_memory_mib=1500,
    )


def test_transcripts_of_a_kaldi_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("a  HELLO  WORLD\nb\n\nc X\n", encoding="utf-8")
    assert read_transcripts(path) == {"a": "HELLO WORLD", "b": "", "c": "X"}


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no transcript"), ("a X\na Y\n", "line 2: utterance 'a' is there twice")],
)
def test_bad_transcripts_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "text"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_transcripts(path)


def test_missing_transcripts_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.*cannot be read"):
        read_transcripts(tmp_path / "nowhere")


def test_errors_of_known_alignments() -> None:
    reference = {"a": "ABCD", "b": "AB CD", "c": "XY"}
    hypothesis = {"a": "ABXD", "b": "ABCD", "c": "XYZ"}
    found = score(reference, hypothesis)
    assert found.utterances == ("a", "b", "c")
    assert found.errors == (1, 1, 1)
    assert found.lengths == (4, 5, 2)  # the space counts
    assert (found.substitutions, found.deletions, found.insertions) == (1, 1, 1)
    assert found.rate == pytest.approx(3 / 11)
    words = score(reference, hypothesis, "word")
    assert words.errors == (1, 2, 1)
    assert words.lengths == (1, 2, 1)
    assert words.rate == 1.0


def test_an_empty_hypothesis_is_all_deletions() -> None:
    found = score({"a": "ABC"}, {"a": ""})
    assert (found.deletions, found.rate) == (3, 1.0)


def test_sclite_aligns_what_is_equal_rather_than_counting_the_fewest_errors() -> None:
    transcripts = {"a": "A A B"}, {"a": "B C C"}
    assert score(*transcripts, "word").errors == (3,)
    found = score(*transcripts, "word", sclite=True)
    assert (found.substitutions, found.deletions, found.insertions) == (0, 2, 2)


def test_a_special_token_is_one_character() -> None:
    found = score({"a": "AB C"}, {"a": "<unk>B C"})
    assert found.errors == (1,) and found.substitutions == 1


def test_scoring_needs_the_same_utterances() -> None:
    with pytest.raises(DataError) as caught:
        score({"a": "X", "b": "Y"}, {"b": "Y", "c": "Z"})
    assert len(caught.value.problems) == 2
    assert "1 utterances are not recognised: a" in str(caught.value)
    assert "1 utterances are not in the reference: c" in str(caught.value)
    with pytest.raises(DataError, match="all references are empty"):
        score({"a": ""}, {"a": "X"})
    with pytest.raises(ValueError, match="one of char, word, timit39"):
        score({"a": "X"}, {"a": "X"}, "phone")


def test_interval_is_that_of_the_binomial_where_it_is_known() -> None:
    """1 error in a half of 400 one-unit utterances: normal interval 0.5 +- 1.96 * 0.025."""
    found = rate_interval(scored([0, 1] * 200, length=1), seed=3)
    assert found.estimate == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)


def test_interval_is_a_function_of_the_seed() -> None:
    counts = np.random.default_rng(0).integers(0, 1000, 40)
    some = scored([int(value) for value in counts], length=997)
    assert rate_interval(some, seed=1) == rate_interval(some, seed=1)
    assert rate_interval(some, seed=1) != rate_interval(some, seed=2)


def test_pairing_finds_what_separate_intervals_cannot() -> None:
    """One error less in every third utterance, while utterances differ widely."""
    hard = [int(value) for value in np.random.default_rng(0).integers(1, 20, 120)]
    better = [value - (index % 3 == 0) for index, value in enumerate(hard)]
    first, second = scored(better), scored(hard)
    assert rate_interval(first).high > rate_interval(second).low  # they overlap
    difference = paired_difference(first, second)
    assert difference.estimate == pytest.approx(-40 / 2400)
    assert difference.high < 0 and difference.excludes_zero
    opposite = paired_difference(second, first)
    assert opposite.low == pytest.approx(-difference.high)


def test_a_system_does_not_differ_from_itself() -> None:
    same = paired_difference(scored([1, 2, 3]), scored([1, 2, 3]))
    assert same == Interval(0.0, 0.0, 0.0)
    assert not same.excludes_zero


def test_pairing_needs_the_same_utterances() -> None:
    with pytest.raises(ValueError, match="same utterances"):
        paired_difference(scored([1, 2]), scored([1, 2, 3]))


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (
            Interval(-0.021, -0.034, -0.008),
            "Searched has a lower CER than Other: -2.1 points, interval [-3.4, -0.8].",
        ),
        (
            Interval(0.021, 0.008, 0.034),
            "Searched has a higher CER than Other: +2.1 points, interval [+0.8, +3.4].",
        ),
        (
            Interval(-0.021, -0.05, 0.008),
            "Searched and Other: no difference shown (-2.1 points, interval [-5.0, +0.8] "
            "includes 0).",
        ),
    ],
)
def test_the_text_claims_what_the_interval_supports(interval: Interval, expected: str) -> None:
    assert Pair("Searched", "Other", interval).sentence() == expected


def test_documents(tmp_path: Path) -> None:
    good, same, bad = scored([1, 0] * 40), scored([0, 1] * 40), scored([4, 5] * 40)
    comparisons = [
        Comparison("Equal epochs", [system("A", good), system("B", same), system("C", bad)], 7),
        Comparison("Equal time", [system("A", good), system("C", same)], 7),
    ]
    text = write_results(
        tmp_path / "new", "Demo", ["A note."], comparisons, {"seed": 7, "gpu": None}
    )
    folder = tmp_path / "new"
    assert (folder / "RESULTS.md").read_text(encoding="utf-8") == text
    assert "- seed: 7" in text and "gpu" not in text
    assert "A and B: no difference shown" in text
    assert "A has a lower CER than C: -20.0 points" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3 + 2 + 2
    assert len({row.count("|") for row in rows}) == 1
    assert len({len(row) for row in rows[:5]}) == 1  # aligned
    assert "2.5 [" in rows[2] and "260.0 k" in rows[2] and "123 M" in rows[2]

    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    first = document["comparisons"][0]
    assert first["systems"][0]["cer"]["estimate"] == pytest.approx(40 / 1600)
    assert [item["shown"] for item in first["differences"]] == [False, True]
    assert document["facts"]["seed"] == 7

    assert (folder / "results.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    root = xml.etree.ElementTree.parse(folder / "results.svg").getroot()
    assert root.tag.endswith("svg")
    assert sum(1 for _ in root.iter("{http://www.w3.org/2000/svg}use")) >= 10  # markers


def test_readme_gets_the_table_and_what_was_won_and_lost(tmp_path: Path) -> None:
    good, bad = scored([1, 1], 50), scored([9, 9], 50)
    comparisons = [
        Comparison("Equal epochs (synthetic corpus)", [system("A", good), system("B", bad)], 7),
        Comparison(
            "Equal training time (synthetic corpus)", [system("A", bad), system("B", good)], 7
        ),
    ]
    assert [item.verdict() for item in comparisons] == ["A beats B.", "A does not beat B."]
    verdicts = [f"**{item.title.partition(' (')[0]}**: {item.verdict()}" for item in comparisons]
    facts = {"seed": 1, "commit": "0123456789ab", "machine": "a CPU"}
    write_results(tmp_path / "exp" / "results", "It", ["x", *verdicts], comparisons, facts)
    page = tmp_path / "README.md"
    page.write_text("a\n{}\n{}\nb\n".format(*marks("demo")), encoding="utf-8")
    assert publish.main(["--recipe", str(tmp_path), "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "| B | 18.0 [18.0, 18.0] | 2.0 [2.0, 2.0] | " in text
    assert "- **Equal training time**: A does not beat B.\n" in text
    assert "(results/RESULTS.md)" in text and (tmp_path / "results" / "results.svg").is_file()


def test_paths_of_this_machine_have_names_that_hold_elsewhere() -> None:
    names = {"/tmp/run/exp": "exp", "/tmp/run": "run", "/home/me/code": ""}
    document = {
        "command": "run.sh --expdir /tmp/run/exp --data=/tmp/run/exp2 --x '/tmp/run/a b'",
        "paths": ["/tmp/run/exp/models", "/home/me/code/conf/a.yaml", "/home/me/codes", "at /tmp"],
        "count": 3,
    }
    assert portable(document, names) == {
        "command": "run.sh --expdir exp --data=run/exp2 --x 'run/a b'",
        "paths": ["exp/models", "conf/a.yaml", "/home/me/codes", "at /tmp"],
        "count": 3,
    }
