"""Alignment on models whose emissions are known: paths, times, chunks, utterances, refusals."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from alignment_samples import RATE, TOKENS, ToneModel, sentences, speak

from nas_encoder.alignment import trellis
from nas_encoder.alignment.align import AlignedUtterance, AlignOptions, align
from nas_encoder.alignment.boundaries import Interval, boundary_differences, summarize
from nas_encoder.alignment.scores import Chunks, columns_of, scores_of
from nas_encoder.alignment.texts import Line, read_lines
from nas_encoder.alignment.timing import measure_timing
from nas_encoder.alignment.trellis import FILLER, best_path, states_of
from nas_encoder.alignment.units import words_of
from nas_encoder.errors import CheckpointError, DataError


def plain_alignment(scores: np.ndarray, tokens: list[list[int]], inner: int) -> float:
    """The best score of all label sequences over the frames, by dynamic programming on prefixes.

    An implementation of its own: its states are (tokens passed, whether the last frame was one).
    """
    flat = [one for row in tokens for one in row]
    ends = set(np.cumsum([len(row) for row in tokens]).tolist())
    other = [inner if place in ends else 0 for place in range(len(flat) + 1)]
    other[0] = other[-1] = FILLER
    table = {(0, False): 0.0}
    for row in scores:
        following: dict[tuple[int, bool], float] = {}
        for (passed, spoken), score in table.items():
            steps = [((passed, False), row[other[passed]])]
            if spoken:
                steps.append(((passed, True), row[flat[passed - 1]]))
            if passed < len(flat) and not (spoken and flat[passed] == flat[passed - 1]):
                steps.append(((passed + 1, True), row[flat[passed]]))
            for state, more in steps:
                following[state] = max(following.get(state, -np.inf), score + more)
        table = following
    return max(score for (passed, _), score in table.items() if passed == len(flat))


@pytest.mark.parametrize("beam", [0.5, 400.0])
def test_the_path_is_the_best_of_all(monkeypatch: pytest.MonkeyPatch, beam: float) -> None:
    monkeypatch.setattr(trellis, "_KEEP", 7)
    monkeypatch.setattr(trellis, "_TRIM", 2)
    monkeypatch.setattr(trellis, "_BEAM", beam)
    rng = np.random.default_rng(1)
    for _ in range(60):
        columns, inner = int(rng.integers(3, 6)), int(rng.integers(0, 2))
        tokens = [
            rng.integers(2, columns, rng.integers(1, 5)).tolist() for _ in range(rng.integers(1, 4))
        ]
        states = states_of(tokens, inner)
        frames = states.fewest_frames + int(rng.integers(0, 20))
        scores = np.log(rng.dirichlet(np.ones(columns), size=frames))
        scores[:, FILLER] = np.delete(scores, FILLER, axis=1).max(axis=1)
        given = scores.copy()
        given[:, FILLER] -= trellis.PENALTY
        path = best_path(scores, states)
        assert path[0] in (0, 1) and path[-1] >= len(states.column) - 2
        assert set(np.diff(path)) <= {0, 1, 2}
        assert all(states.skips[b] for a, b in zip(path[:-1], path[1:], strict=True) if b == a + 2)
        reached = sum(given[t, states.column[state]] for t, state in enumerate(path))
        assert reached == pytest.approx(plain_alignment(given, tokens, inner))


def test_equal_tokens_need_a_blank_between() -> None:
    assert states_of([[2, 2, 3], [3]]).fewest_frames == 6
    assert states_of([[2, 3, 2]]).fewest_frames == 3


# -- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "factor", "centre"),
    [
        ({}, 4, 1.5),
        ({"kernel": 7, "after": 0}, 4, 3.0),  # as ESPnet's conv2d
        ({"kernel": 7, "before": 3, "after": 3}, 4, 0.0),  # as NeMo's
        ({"kernel": 3, "before": 1, "after": 1, "stride": 1}, 1, 0.0),
        ({"kernel": 3, "before": 1, "after": 1, "stride": 2, "hop": 128}, 2, 0.0),
    ],
)
def test_the_time_of_a_frame_is_measured(options: Any, factor: int, centre: float) -> None:
    timing = measure_timing(ToneModel(**options))
    assert (timing.hop, timing.factor) == (options.get("hop", 160), factor)
    assert (timing.first, timing.centre, timing.symmetric) == (0.0, centre, True)
    assert timing.time(10) == pytest.approx(timing.hop * (10 * factor + centre) / RATE)


def test_a_frame_that_sees_mostly_one_side_is_told() -> None:
    timing = measure_timing(ToneModel(kernel=31, before=30, after=0))
    assert not timing.symmetric
    assert timing.centre == 1.5


class Silent(ToneModel):
    def log_probs(self, samples: torch.Tensor) -> torch.Tensor:
        count = len(samples) // 640
        return self.encoder(torch.zeros(1, 4 * count, 9))[0].log_softmax(dim=1)


def test_features_without_clicks_are_refused() -> None:
    with pytest.raises(CheckpointError, match="click"):
        measure_timing(Silent())


# -- utterances ----------------------------------------------------------------------------------


def lines_of(model: ToneModel, texts: list[str], case: str = "as-is") -> list[Line]:
    rows = ((f"text:{n}", f"u{n:03d}", text, None) for n, text in enumerate(texts, 1))
    return read_lines(model, rows, "text", case)[0]


def aligned(
    model: ToneModel, samples: np.ndarray, texts: list[str], **options: Any
) -> list[AlignedUtterance]:
    timing, lines = measure_timing(model), lines_of(model, texts)
    wanted, columns = columns_of(model, [one for line in lines for one in line.classes])
    parts = scores_of(
        model, timing, lambda a, n: samples[a : a + n], len(samples), wanted, "recording"
    )
    scores = np.concatenate([part for _, part in parts])
    duration = len(samples) / RATE
    return align(
        scores, lines, columns, model, timing, duration, "recording", AlignOptions(**options)
    )


@pytest.mark.parametrize("method", ["exact", "ctc-segmentation"])
@pytest.mark.parametrize("options", [{}, {"kernel": 7, "before": 3, "after": 3}])
def test_a_long_recording_becomes_utterances_without_offset(
    method: str, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, texts = ToneModel(**options), sentences(40)
    samples, truth = speak(texts)
    with caplog.at_level("INFO", "ctc_segmentation"):
        found = aligned(model, samples, texts, method=method)
    told = re.findall(r"to ([\d.]+)s audio", caplog.text)
    assert all(abs(float(one) - len(samples) / RATE) < 0.1 for one in told)
    assert len(told) == (method != "exact")
    errors = {
        one.id: boundary_differences(true, one.tokens, one.id)
        for one, true in zip(found, truth, strict=True)
    }
    figures = summarize(errors)
    assert figures.count > 400
    assert abs(figures.bias_ms) < 2
    assert figures.median_ms < 12  # a quarter of a frame of 40 ms
    assert max(abs(error) for row in errors.values() for error in row) < 35
    for one, true in zip(found, truth, strict=True):
        assert one.start < true[0].start and true[-1].end < one.end
        assert true[0].start - one.start < 0.55 and one.end - true[-1].end < 0.55
        assert one.confidence > -0.2
        assert [word.label for word in one.words] == one.text.split()
    assert all(a.end <= b.start + 1e-9 for a, b in zip(found[:-1], found[1:], strict=True))


def test_a_shift_moves_all_times() -> None:
    texts = sentences(2)
    samples, _ = speak(texts)
    one, other = (aligned(ToneModel(), samples, texts, shift_ms=ms)[1] for ms in (0, 30))
    assert other.words[1].start - one.words[1].start == pytest.approx(0.03)


def test_a_wrong_text_has_the_least_confidence() -> None:
    texts = sentences(8)
    samples, _ = speak(texts)
    wrong = [*texts[:4], "hgf edc", *texts[5:]]
    scores = [one.confidence for one in aligned(ToneModel(), samples, wrong)]
    assert min(scores) == scores[4] < -2
    assert sorted(scores)[1] > -0.2


def test_speech_that_is_not_in_the_text_is_passed_over() -> None:
    texts = sentences(9)
    samples, truth = speak(texts)
    kept = [texts[2], texts[3], texts[6]]
    found = aligned(ToneModel(), samples, kept, unrelated=True)
    for one, number in zip(found, (2, 3, 6), strict=True):
        assert one.tokens[0].start == pytest.approx(truth[number][0].start, abs=0.05)
        assert one.tokens[-1].end == pytest.approx(truth[number][-1].end, abs=0.05)


def test_chunks_give_the_scores_of_the_whole() -> None:
    model, texts = ToneModel(), sentences(12)
    samples, _ = speak(texts)
    timing = measure_timing(model)

    def scores(chunks: Chunks, skip: int = 0) -> np.ndarray:
        parts = list(
            scores_of(
                model,
                timing,
                lambda a, n: samples[a : a + n],
                len(samples),
                [2, 5],
                "recording",
                chunks,
                skip,
            )
        )
        for (begin, part), (following, _) in zip(parts[:-1], parts[1:], strict=True):
            assert begin + len(part) == following
        return np.concatenate([part for _, part in parts])

    whole = scores(Chunks(seconds=1000.0))
    cut = scores(Chunks(seconds=3.0, context=0.5))
    assert whole.shape == cut.shape
    np.testing.assert_allclose(cut, whole, atol=1e-4)
    size = round(3.0 / timing.seconds)
    np.testing.assert_array_equal(scores(Chunks(3.0, 0.5), skip=2), cut[2 * size :])
    assert whole.shape[1] == 4
    assert (whole[:, FILLER] >= whole[:, [0, 2, 3]].max(axis=1)).all()


# -- words ---------------------------------------------------------------------------------------


class Pieces(ToneModel):
    joins = "bpe"


def test_pieces_become_words() -> None:
    tokens = [Interval(n, n + 1, label) for n, label in enumerate(("▁", "she", "▁had", "n"))]
    assert words_of(tokens, Pieces()) == [Interval(0, 2, "she"), Interval(2, 4, "hadn")]


def test_letters_become_words_between_spaces() -> None:
    tokens = [Interval(n, n + 1, label) for n, label in enumerate(("a", "b", "<space>", "c"))]
    assert words_of(tokens, ToneModel()) == [Interval(0, 2, "ab"), Interval(3, 4, "c")]
    model = ToneModel()
    model.tokens = [token for token in TOKENS if token != "<space>"]
    assert words_of(tokens[:2], model) == tokens[:2]


# -- refusals ------------------------------------------------------------------------------------


def test_texts_are_refused_with_all_problems_at_once() -> None:
    rows = [("t:1", "c", "ab xy", None), ("t:2", "a", "ab", None), ("t:3", "b", "  ", None)]
    with pytest.raises(DataError) as caught:
        read_lines(ToneModel(), [("t:0", "a", "ab", None), *rows], "text")
    text = str(caught.value)
    assert "t:1 'x', 'y'" in text
    assert "t:2 'a'" in text and "once" in text
    assert "t:3" in text and "empty" in text


def test_case_and_the_models_own_cleaner() -> None:
    rows = [("t:1", "a", "AB cd!", None), ("t:2", "b", "ab", None)]
    lines, changed = read_lines(ToneModel(), rows, "text", "lower")
    assert lines[0].labels == ("a", "b", "<space>", "c", "d")
    assert changed == 1
    with pytest.raises(DataError, match="'A', 'B'"):
        read_lines(ToneModel(), rows, "text")


@pytest.mark.parametrize("method", ["exact", "ctc-segmentation"])
def test_a_text_longer_than_the_audio_is_refused(method: str) -> None:
    samples, _ = speak(["ab"])
    with pytest.raises(DataError, match=r"needs at least \d+ output frames .* is it the text"):
        aligned(ToneModel(), samples, sentences(9), method=method)


def test_memory_of_ctc_segmentation_is_bounded() -> None:
    texts = sentences(60)
    samples, _ = speak(texts)
    with pytest.raises(DataError, match="at least .* MB"):
        aligned(ToneModel(), samples, texts, method="ctc-segmentation", memory_mb=0)


def test_an_unknown_method_is_refused() -> None:
    samples, _ = speak(["ab"])
    with pytest.raises(DataError, match="method: must be one of exact, ctc-segmentation"):
        aligned(ToneModel(), samples, ["ab"], method="guess")
