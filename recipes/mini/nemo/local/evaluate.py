"""Transcribes the test set with NeMo's models, then measures the encoders side by side.

In one process: importing NeMo takes longer than either.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import write_lines
from nas_encoder.errors import DataError
from nas_encoder.nemo.peers import AnyEncoder
from tools.experiments.collect import CONDITIONS
from tools.experiments.equal_time import run_of
from tools.experiments.measure import measure, write_measures
from tools.scripts import command

BATCH = 8


def load(expdir: Path, run: str) -> Any:
    """Return the model that a training saved, in evaluation mode; DataError if there is none."""
    from nemo.collections.asr.models import EncDecCTCModel

    path = model_path(expdir, run)
    if not path.is_file():
        raise DataError(str(path), ["no such file; the training has not ended"])
    return EncDecCTCModel.restore_from(str(path), map_location="cpu").eval()


def model_path(expdir: Path, run: str) -> Path:
    """Return the .nemo file of a training, for example of ``epochs/searched``."""
    return expdir / "models" / run / "checkpoints" / f"{Path(run).name}.nemo"


def read_test_set(manifest: Path) -> list[tuple[str, str]]:
    """Return the id and audio file of each utterance; DataError if a line lacks one of them."""
    try:
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        return [(row["utt_id"], row["audio_filepath"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            str(manifest), [f"must hold utt_id and audio_filepath: {error!r}"]
        ) from None


def transcribe(model: Any, utterances: Sequence[tuple[str, str]], output: Path) -> None:
    """Write the model's transcripts as a Kaldi ``text``."""
    files = [audio for _, audio in utterances]
    found = model.transcribe(files, batch_size=BATCH, num_workers=0, verbose=False)
    lines = [
        f"{key} {hypothesis.text}".strip()
        for (key, _), hypothesis in zip(utterances, found, strict=True)
    ]
    write_lines(output, lines)


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--expdir", type=Path, required=True, help="experiments")
    add("--systems", nargs="+", required=True, help="names; the searched one first")
    add("--test", type=Path, required=True, help="NeMo manifest")
    add("--repeats", type=int, default=9, help="timed passes (default 9)")
    add("--seed", type=int, default=0)
    add("--output", type=Path, required=True, help="JSON with the measures, to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    utterances = read_test_set(args.test)
    runs = {run_of(args.expdir, which, name) for which in CONDITIONS for name in args.systems}
    models = {run: load(args.expdir, run) for run in sorted(runs)}
    for number, (run, model) in enumerate(models.items(), 1):
        print(f"{number}/{len(models)}: {run}", flush=True)
        transcribe(model, utterances, args.expdir / "decode" / run / "text")
    systems = {}
    for name in args.systems:
        model = models[f"epochs/{name}"]
        encoder = AnyEncoder(model.encoder).eval()
        systems[name] = (model, encoder, model.cfg.preprocessor.features)
    write_measures(args.output, measure(systems, args.repeats, args.seed))


if __name__ == "__main__":
    sys.exit(main())
