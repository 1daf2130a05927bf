"""What a search's cheap scores are worth, as a section of its report."""

from __future__ import annotations

from collections.abc import Sequence

from nas_encoder.common.ranks import LEAST
from nas_encoder.search.records import TrialRecord
from nas_encoder.search.report.page import Section
from nas_encoder.search.trials.agreement import Agreement, why_none


def scores_section(found: Sequence[Agreement], trials: Sequence[TrialRecord]) -> Section:
    """Return Kendall's tau of each cheap score, or why there is none."""
    title = "What cheap scores are worth"
    if not found:
        return Section(title, f"Nothing is known: {why_none(trials)}.")
    note = (
        "Kendall's tau between a score and the final error of the same genotypes: 1 where both "
        "rank them alike, 0 where the score says nothing. Brackets: 95 % bootstrap interval over "
        f"the genotypes, from {LEAST} of them on. A genotype counts once."
    )
    if any(trial.trained for trial in trials):
        note += " Final errors are those of the genotypes that were trained alone. These are the "
        note += "best by their scores: the more alike, the harder to rank."
    elif any(not trial.complete for trial in trials):
        note += " Pruned trials have no final error: these are the better ones, harder to rank."
    return Section(
        title,
        note,
        head=("score", "tau [95 %]", "note"),
        rows=[(one.score, one.tau and one.tau.told(), one.why) for one in found],
    )
