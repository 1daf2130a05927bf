"""Scores what ESPnet decoded and writes the comparison: table, text, JSON, picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import DataError
from tools.experiments.collect import Collector, Recipe, main
from tools.experiments.job_costs import read_costs
from tools.experiments.schedules import SCHEDULES


def notes(collector: Collector, systems: Sequence[str]) -> list[str]:
    """Return the notes on the search."""
    search = read_costs(collector.expdir, "search")
    genotype = read_yaml(collector.expdir / "search" / "genotype.yaml", DataError)
    return [
        f"The genotype `{genotype['name']}` was found by `nas-encoder search` in "
        f"{search['cpu_seconds']:.0f} CPU seconds, which are not part of the training times "
        "below. Everything was done once, with one seed"
        + (", and against a single random genotype." if "random" in systems else "."),
    ]


RECIPE = Recipe(
    heading="Demo on a synthetic corpus",
    toolkit="espnet",
    systems={
        "searched": "Searched",
        "random": "Random genotype",
        "dfsmn_san": "DFSMN-SAN",
        "transformer": "Transformer",
    },
    schedule=SCHEDULES["espnet"],
    transcripts="1best_recog/text",
    decoder="espnet2.bin.asr_inference",
    notes=notes,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE))
