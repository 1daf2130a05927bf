"""What a set of utterances was is known again: each change is told, with its first utterance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from search_samples import tone_corpus

from nas_encoder.data import TokenSet, open_cuts, texts
from nas_encoder.data.fingerprint import Fingerprint, Row, data_changes, summaries

NAMES = [f"utt_{number}" for number in range(120)]
SETS = {
    "train": Fingerprint(tuple((name, 16000, f"text {name}", "a b") for name in NAMES)),
    "valid": Fingerprint((("v", 8000, "t", "t"),)),
}


def changed(*rows: Row, drop: tuple[str, ...] = ()) -> dict[str, Fingerprint]:
    new = {row[0]: row for row in SETS["train"].rows} | {row[0]: row for row in rows}
    kept = tuple(row for name, row in new.items() if name not in drop)
    return {**SETS, "train": Fingerprint(kept)}


def told(now: dict[str, Fingerprint], known: bool = True) -> list[str]:
    rows = {name: found.pack() for name, found in SETS.items()} if known else {}
    return data_changes(summaries(SETS), rows, now)


def test_the_same_data_are_the_same() -> None:
    assert told(SETS) == [] == told(SETS, known=False)


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        (
            changed(*[(name, 16000, "shifted", "a b") for name in NAMES[7:10]]),
            ["train: 3 of 120 texts differ, first: utt_7"],
        ),
        (
            changed((NAMES[2], 15000, "text utt_2", "a b")),
            ["train: 1 of 120 lengths (in samples) differ, first: utt_2"],
        ),
        (
            changed((NAMES[5], 16000, "text utt_5", "ab")),
            ["train: 1 of 120 tokens of texts differ, first: utt_5"],
        ),
        (
            changed(("more", 1, "t", "t"), drop=("utt_0", "utt_3")),
            [
                "train: 2 of 120 utterances are missing, first: utt_0",
                "train: 1 utterances are new, first: more",
            ],
        ),
        (
            {**SETS, "train": Fingerprint(SETS["train"].rows[::-1])},
            ["train: the order of the utterances differs"],
        ),
        ({"train": SETS["train"]}, ["valid: is missing"]),
        ({**SETS, "test": SETS["valid"]}, ["test: is new"]),
    ],
)
def test_what_changed_is_told(now: dict[str, Fingerprint], lines: list[str]) -> None:
    assert told(now) == lines


def test_without_the_rows_the_set_is_still_told() -> None:
    now = changed(drop=("utt_0",))
    line = "train: 120 utterances then, 119 now, of other lengths, texts or tokens"
    assert told(now, known=False) == [line]


def test_damaged_rows_are_not_believed() -> None:
    found = SETS["train"]
    data, summary = found.pack(), found.summary()
    assert Fingerprint.unpack(data, summary) == found
    for damaged in (b"", data[:-9], data[:40] + b"\0" + data[41:], SETS["valid"].pack()):
        assert Fingerprint.unpack(damaged, summary) is None


def test_of_a_corpus(tmp_path: Path) -> None:
    folder = tone_corpus(tmp_path / "train", 6, seed=1, seconds=0.3)
    cuts = open_cuts(str(folder))
    tokens = TokenSet.build(texts(cuts), kind="char")
    found = Fingerprint.of(cuts, tokens)
    assert [row[0] for row in found.rows] == [cut.id for cut in cuts]
    assert [row[1] for row in found.rows] == [cut.num_samples for cut in cuts]
    assert found == Fingerprint.of(open_cuts(str(folder)), tokens)
    words = Fingerprint.of(cuts, TokenSet.build(texts(cuts), kind="word"))
    assert [row[:3] for row in words.rows] == [row[:3] for row in found.rows]
    assert all(a[3] != b[3] for a, b in zip(words.rows, found.rows, strict=True))
    assert replace(found, rows=found.rows[1:]).summary() != found.summary()
