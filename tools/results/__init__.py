"""Error rates with their uncertainty, and the table, text and picture of a comparison."""

from tools.results.bootstrap import Interval, paired_difference, rate_interval
from tools.results.comparison import Comparison, Pair, System
from tools.results.scoring import Score, read_transcripts, score

__all__ = [
    "Comparison",
    "Interval",
    "Pair",
    "Score",
    "System",
    "paired_difference",
    "rate_interval",
    "read_transcripts",
    "score",
]
