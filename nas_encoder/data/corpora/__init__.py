"""Speech corpora in their published layouts, checked against what was published."""

from __future__ import annotations

from nas_encoder.data.corpora.options import PrepareOptions
from nas_encoder.data.corpora.prepare import (
    CORPORA,
    MARK,
    PreparedCorpus,
    SplitSummary,
    prepare_corpus,
)

__all__ = [
    "CORPORA",
    "MARK",
    "PrepareOptions",
    "PreparedCorpus",
    "SplitSummary",
    "prepare_corpus",
]
