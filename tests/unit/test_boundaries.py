"""Errors of boundaries against true ones: which boundaries count, signs, figures, refusals."""

from __future__ import annotations

import pytest

from nas_encoder.alignment.boundaries import (
    Interval,
    boundary_differences,
    summarize,
)
from nas_encoder.errors import DataError


def units(*rows: tuple[float, float, str]) -> list[Interval]:
    return [Interval(*row) for row in rows]


TRUE = units((0.0, 0.1, "sil"), (0.1, 0.3, "a"), (0.3, 0.35, "t"), (0.5, 0.8, "sil"))


def test_shared_boundaries_count_once_and_the_ends_of_the_recording_do_not() -> None:
    found = units((0.0, 0.11, "sil"), (0.11, 0.28, "a"), (0.28, 0.41, "t"), (0.49, 0.9, "sil"))
    errors = boundary_differences(TRUE, found, "utterance", duration=0.8)
    assert errors == pytest.approx([10, -20, 60, -10])


def test_the_ends_count_where_speech_begins_later_and_ends_earlier() -> None:
    errors = boundary_differences(
        units((0.2, 0.5, "she"), (0.5, 0.7, "had")),
        units((0.25, 0.5, "she"), (0.5, 0.64, "had")),
        "utterance",
        duration=1.0,
    )
    assert errors == pytest.approx([50, 0, -60])


def test_figures_of_known_errors() -> None:
    figures = summarize({"a": (-10.0, 20.0), "b": (50.0, -60.0), "c": ()})
    assert figures.count == 4
    assert figures.median_ms == 35
    assert figures.mean_ms == 35
    assert figures.bias_ms == 0
    assert figures.spread_ms == 30
    assert summarize({"a": (-50.0, -40.0, -60.0)}).spread_ms == 10
    assert (figures.within_10, figures.within_20, figures.within_50) == (0.25, 0.5, 0.75)
    assert figures.signed_ms["b"] == (50.0, -60.0)
    assert "signed_ms" not in figures.figures()


def test_an_error_of_a_frame_counts_as_within_it_whatever_the_rounding() -> None:
    assert summarize({"a": (1000 * (0.1 + 0.2 - 0.29),)}).within_10 == 1.0


@pytest.mark.parametrize(
    ("reference", "found", "words"),
    [
        (TRUE, TRUE[:3], "from unit 4 on"),
        (TRUE, [*TRUE[:2], Interval(0.3, 0.35, "d"), TRUE[3]], "'t sil' and 'd sil'"),
        (TRUE[::-1], TRUE[::-1], "in order of time"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    reference: list[Interval], found: list[Interval], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        boundary_differences(reference, found, "utterance")


def test_no_boundary_is_no_figure() -> None:
    with pytest.raises(DataError, match="no boundary"):
        summarize({"a": boundary_differences(units((0, 1, "a")), units((0, 1, "a")), "a", 1.0)})
