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
    """Return the notes on the searches."""
    found = []
    for name, folder, what in (("searched", "blocks", "blocks"), ("cells", "search", "cells")):
        if name in systems:
            costs = read_costs(collector.expdir, folder)
            genotype = read_yaml(collector.expdir / folder / "genotype.yaml", DataError)
            start = genotype["provenance"].get("initial")
            known = f"; it is one of those that the search began with, `{start}`" if start else ""
            found.append(
                f"the {what} by {genotype['provenance']['strategy']} in "
                f"{costs['cpu_seconds']:.0f} CPU seconds{known}"
            )
    return [
        f"`nas-encoder search` found {'; '.join(found)}. These times are not part of the training "
        "times below. Everything was done once, with one seed"
        + (", and against a single random encoder." if "random" in systems else "."),
    ]


RECIPE = Recipe(
    heading="Demo on a synthetic corpus",
    toolkit="espnet",
    systems={
        "searched": "Searched blocks",
        "cells": "Searched cells",
        "random": "Random blocks",
        "dfsmn_san": "DFSMN-SAN",
        "transformer": "Transformer",
        "conformer": "Conformer",
    },
    schedule=SCHEDULES["espnet"],
    transcripts="1best_recog/text",
    decoder="espnet2.bin.asr_inference",
    notes=notes,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE))
