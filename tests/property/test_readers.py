"""Our reader of data beside kaldiio, ESPnet's and NeMo's own, on random folders and manifests."""

from __future__ import annotations

import pytest
from reader_cases import cases


@pytest.mark.slow
@pytest.mark.espnet
@pytest.mark.nemo
def test_ours_agrees_with_the_toolkits_readers_or_says_why_not():
    outcomes = cases(seed=11, count=1500)
    assert sum(outcomes.values()) == 1500
    for form in ("kaldi", "nemo"):
        assert outcomes[f"{form}: the same"] > 300 and outcomes[f"{form}: refused"] > 150
