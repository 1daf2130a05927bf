"""The options of the preprocessor with ESPnet's features: all problems of them at once."""

from __future__ import annotations

from typing import Any

import pytest

from nas_encoder.errors import ConfigError


def problems_of(**options: Any) -> tuple[str, ...]:
    from nas_encoder.nemo import ESPnetPreprocessor

    with pytest.raises(ConfigError) as caught:
        ESPnetPreprocessor(**options)
    return tuple(line.split(":")[0] for line in caught.value.problems)


def test_every_problem_is_reported_at_once() -> None:
    bad = {"n_ftt": 512, "window": "hanning", "htk": "yes", "fmax": "high", "eps": 0}
    assert problems_of(**bad) == ("n_ftt", "window", "fmax", "htk", "eps")
    assert problems_of(sample_rate="16k", window_size=None, normalize="batch", features=0) == (
        "window_size",
        "sample_rate",
        "n_mels",
        "normalize",
    )
    assert problems_of(window_size=0.064) == ("win_length",)
    assert problems_of(window_stride=0) == ("hop_length",)
    assert problems_of(window_size=float("inf")) == ("window_size",)
    for low, high in ((None, 0), (None, float("inf")), (9000, None), (4000, 100), (0, 9000)):
        assert len(problems_of(fmin=low, fmax=high)) == 1
