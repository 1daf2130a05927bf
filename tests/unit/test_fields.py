"""Declared options: what the reader accepts, and that it reports everything at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from nas_encoder.common.documents import differences, plain
from nas_encoder.common.fields import (
    Declared,
    choice,
    flag,
    integer,
    mapping_of,
    number,
    option,
    section,
    share,
    text,
    tuple_of,
)
from nas_encoder.common.problems import Problems, is_integer, is_number, one_line
from nas_encoder.errors import ConfigError


@dataclass(frozen=True)
class Stop(Declared):
    patience: int = option(3, integer(1, 10))
    gain: float = option(0.5, number(0, above=True))


@dataclass(frozen=True)
class Training(Declared):
    name: str = option("x", text("a name", "[a-z]+"))
    colour: str = option("red", choice("colour", ("red", "green")))
    epochs: int = option(5, integer(1))
    warmup: int = option(2, integer(0, 100))
    frames: int | None = option(None, integer(1, 9))
    target: int | None = option(7, integer(1, 9), null=True)
    rate: float = option(0.1, number(0, 1e6))
    dropout: float = option(0.0, share)
    deltas: bool = option(True, flag)
    stride: tuple[int, int] = option((1, 1), tuple_of(integer(1, 2), 2, 2, names=("t", "f")))
    seeds: tuple[int, ...] = option((), tuple_of(integer(0, 99), 0, 3, once="a seed"))
    limits: Mapping[str, int] = option(dict, mapping_of(integer(0, 8)))
    stop: Stop = option(Stop, section(Stop, patience=4))
    stages: tuple[Stop, ...] = option((Stop(),), tuple_of(section(Stop), 1, 4))

    def conflicts(self, found: Problems) -> None:
        if self.warmup >= self.epochs:
            word = found.word("epochs")
            found.conflict("warmup", f"must be below '{word}' {self.epochs}", "epochs")


def read_problems(document: Any, words: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Training.from_dict(document, "training", words)
    return list(caught.value.problems)


def test_what_is_not_given_is_the_default() -> None:
    assert Training.from_dict({}, "training") == Training()
    given = {"frames": None, "target": None, "seeds": [3, 1], "stop": {"gain": 2}, "rate": 1}
    found = Training.from_dict(given, "training")
    assert (found.frames, found.target, found.seeds, found.rate) == (None, None, (3, 1), 1)
    assert found.stop == Stop(4, 2) and Training.from_dict({"stop": None}).stop == Stop(4)
    assert Training.from_dict(found.to_dict(), "again") == found
    assert found.problems() == []


def test_all_problems_are_reported_at_once() -> None:
    bad = {
        "nam": "x",
        "name": "A b",
        "colour": "gren",
        "epochs": 0,
        "frames": 10,
        "rate": "1e-3",
        "dropout": 1.0,
        "deltas": 1,
        "stride": [1, 3],
        "seeds": [4, 4],
        "limits": {"a": 9, 5: 1},
        "stop": {"gain": 0, "patient": 2},
        "stages": [{}, {"patience": 11}, 5],
    }
    assert read_problems(bad) == [
        f"nam: unknown key (did you mean 'name'?); known: {', '.join(plain(Training()))}",
        "name: must be a name, got 'A b'",
        "colour: unknown colour 'gren' (did you mean 'green'?); known: red, green",
        "epochs: must be at least 1, got 0",
        "frames: must be in 1..9, got 10",
        "rate: must be a number in 0..1e+06, got '1e-3' (YAML reads that as text; write 0.001 or "
        "1.0e-3)",
        "dropout: must be a number from 0 to below 1, got 1.0",
        "deltas: must be true or false, got 1",
        "stride (f): must be in 1..2, got 3",
        "seeds: lists a seed twice: [4, 4]",
        "limits.5: unknown key; known: a",
        "limits.a: must be in 0..8, got 9",
        "stop.patient: unknown key (did you mean 'patience'?); known: patience, gain",
        "stop.gain: must be a number above 0, got 0",
        "stages[1].patience: must be in 1..10, got 11",
        "stages[2]: must be a mapping, got int 5",
    ]


@pytest.mark.parametrize("value", [None, "x", -1, 1.5, True, float("nan"), [], {}, [[1]], b"x"])
@pytest.mark.parametrize("name", [name for name in plain(Training()) if name != "frames"])
def test_no_value_gives_another_error(name: str, value: Any) -> None:
    try:
        found = Training.from_dict({name: value}, "training")
    except ConfigError as error:
        assert all(line.startswith(name) for line in error.problems)
    else:
        assert Training.from_dict(found.to_dict(), "again") == found


def test_conflicts_meet_sound_values_only() -> None:
    assert read_problems({"warmup": 9}) == ["warmup: must be below 'epochs' 5"]
    assert read_problems({"warmup": 9, "epochs": "2"}) == [
        "epochs: must be an integer, got str '2'"
    ]


def test_problems_are_told_in_the_users_words() -> None:
    words = {"epochs": "n_epochs", "stride": "factors"}
    assert read_problems({"warmup": 9, "n_epoch": 1, "stride": [3, 1]}, words) == [
        "n_epoch: unknown key (did you mean 'n_epochs'?); known: name, colour, n_epochs, warmup, "
        "frames, target, rate, dropout, deltas, factors, seeds, limits, stop, stages",
        "factors (t): must be in 1..2, got 3",
        "warmup: must be below 'n_epochs' 5",
    ]


def test_an_object_is_checked_like_a_document() -> None:
    wrong = Training(dropout=2, stop=Stop(patience=0), epochs="5")  # type: ignore[arg-type]
    assert wrong.problems("training") == [
        "training.epochs: must be an integer, got str '5'",
        "training.dropout: must be a number from 0 to below 1, got 2",
        "training.stop.patience: must be in 1..10, got 0",
    ]


def test_what_an_older_version_wrote_is_completed() -> None:
    assert Training.completed({"epochs": 9}) == {**plain(Training()), "epochs": 9}
    assert Training.completed({"depth": 9}) == {"depth": 9} and Training.completed(5) == 5


def test_places_below_a_problem() -> None:
    problems = Problems()
    problems.under("stages[1]").add("stop.gain", "is wrong")
    assert not problems.sound("stages") and not problems.sound("stages[1].stop")
    assert problems.sound("stage", "stages[1].stop.gai", "stop")
    assert not problems.under("stages[1]").sound("stop")


def test_numbers_are_finite_and_no_truth_values() -> None:
    good: list[Any] = [0, -1.5, 10**300]
    bad: list[Any] = [float("nan"), float("inf"), 10**400, True, "1", None]
    assert [is_number(value) for value in good + bad] == [True] * 3 + [False] * 6
    assert is_integer(3, 1, 3) and not is_integer(3.0) and not is_integer(False)


def test_differences_of_documents() -> None:
    before = {"a": {"b": 1, "c": (1, 2)}, "stages": [{"x": 1}], "gone": {}, "null": None}
    now = {"a": {"b": 1, "c": [1, 3]}, "stages": [{"x": 1}, {"x": 5}], "new": Stop()}
    assert differences(before, now) == [
        ("a.c", [1, 2], [1, 3]),
        ("new.gain", None, 0.5),
        ("new.patience", None, 3),
        ("stages.1.x", None, 5),
    ]
    assert differences(now, now) == []


def test_an_error_on_one_line() -> None:
    assert one_line(ValueError(" two\n\tlines  of it ")) == "two lines of it"
    assert one_line(AssertionError()) == "AssertionError" and one_line(" \n") == ""
    assert one_line(ValueError("a" * 400)) == "a" * 300 and one_line("word", 2) == "wo"
