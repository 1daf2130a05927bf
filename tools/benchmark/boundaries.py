"""Boundary errors of the trained models: where phones begin and end, against TIMIT's own marks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas_encoder.errors import NasEncoderError
from tools.benchmark.trained import Trained

PREPARED = "prepared.json"
WITH_MARKS = "timit"  # the corpus whose prepared data have true boundaries


def boundaries_of(
    found: Sequence[Trained], given: Path | None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Align the test set of each training, and measure how far boundaries are off.

    Args:
        found: The trainings; of those of TIMIT's recipes the data are known.
        given: Prepared data with true boundaries of phones, for all trainings instead.

    Returns:
        Training -> the figures of :func:`nas_encoder.alignment.evaluation.evaluate`; and why
        others have none, a sentence each.
    """
    figures, notes = dict[str, dict[str, Any]](), []
    for one in found:
        data = given or (one.data if one.corpus == WITH_MARKS else None)
        if data is None or (given is None and not (data / PREPARED).is_file()):
            continue
        if one.weights is None:
            notes.append(f"No boundary error of {one.name}: there is no checkpoint.")
            continue
        from nas_encoder.alignment.evaluation import evaluate

        print(f"aligning with {one.name}", file=sys.stderr, flush=True)
        try:
            report = evaluate(one.weights, data, "phone", split="test")
        except NasEncoderError as error:
            notes.append(f"No boundary error of {one.name}: {' '.join(str(error).split())}.")
            continue
        figures[one.name] = report.to_dict()
        if report.left_out:
            notes.append(
                f"{one.name}: {len(report.left_out)} utterances are too short for their phones and "
                "are not in its boundary errors."
            )
    return figures, notes
