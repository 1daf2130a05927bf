"""Scores what NeMo transcribed and writes the comparison: table, text, JSON, picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from nas_encoder import Genotype
from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError
from tools.experiments.collect import Collector, Recipe, main
from tools.experiments.schedules import SCHEDULES


def notes(collector: Collector, systems: Sequence[str]) -> list[str]:
    """Return the notes on the encoders."""
    conf = collector.expdir / "conf" / "epochs"
    models = {name: read_yaml(conf / f"{name}.yaml", ConfigError)["model"] for name in systems}
    genotype = Genotype.from_dict(models["searched"]["encoder"]["genotype"])
    rates = ", ".join(
        f"{RECIPE.systems[name]} {model['optim']['lr']:g}" for name, model in models.items()
    )
    paragraphs = [
        f"The genotype is `{genotype.name}` ({genotype.hash}), which a search found earlier, for "
        "the recipe in `recipes/mini/espnet`; the training times below do not contain it. "
        "Everything was trained once, with one seed.",
        f"Peak learning rates: {rates}. How they were chosen stands in `recipes/README.md`.",
    ]
    if "fastconformer" in systems:
        ctc = json.loads((conf / "ctc.json").read_text(encoding="utf-8"))
        total, lost = ctc["utterances"], ctc["infeasible"]
        paragraphs.append(
            "FastConformer subsamples 4 times here, as the other encoders do, and not 8 times as "
            f"in NeMo's configs: at 80 ms a frame {lost['8']} of {total} training utterances have "
            f"more characters than frames, which CTC cannot learn; at 40 ms {lost['4']}."
        )
    return paragraphs


RECIPE = Recipe(
    heading="A searched encoder in NeMo, on a synthetic corpus",
    toolkit="nemo_toolkit",
    systems={
        "searched": "Searched",
        "conformer": "Conformer",
        "fastconformer": "FastConformer",
        "dfsmn_san": "DFSMN-SAN",
    },
    schedule=SCHEDULES["nemo"],
    transcripts="text",
    decoder="EncDecCTCModel.transcribe",
    notes=notes,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE))
