"""What the two toolkits say of recordings, with a CTC model and no language model."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

RATE = 16000


def espnet_texts(folder: Path, paths: list[str]) -> tuple[list[str], list[str]]:
    """Decode with ESPnet: its search with ``ctc_weight`` 1, and the best path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from espnet2.bin.asr_inference import Speech2Text

        decoder = Speech2Text(
            asr_train_config=str(folder / "config.yaml"),
            asr_model_file=str(folder / "model.pth"),
            ctc_weight=1.0,
            lm_weight=0.0,
            beam_size=5,
        )
    searched, best_path = [], []
    for path in paths:
        samples = soundfile.read(path, dtype="float32")[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            searched.append(decoder(samples)[0][0])
        model = decoder.asr_model
        with torch.no_grad():
            encoded, _ = model.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        ids = torch.unique_consecutive(model.ctc.argmax(encoded)[0])
        # ESPnet never writes the end of a sentence out, NeMo's tokenizer neither.
        names = decoder.converter.ids2tokens([int(i) for i in ids if i not in (0, model.eos)])
        best_path.append(decoder.tokenizer.tokens2text(names))
    return searched, best_path


def nemo_texts(model: Any, paths: list[str]) -> list[str]:
    found = model.eval().transcribe(paths, batch_size=len(paths), verbose=False)
    return [hypothesis.text for hypothesis in found]


def alike(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


def spoken(folder: Path) -> Iterator[str]:
    """Say sentences of different lengths, of the kind that the shipped model was trained on."""
    from tools.synth.audio import Conditions, record
    from tools.synth.espeak import Espeak, Voice

    sentences = (
        "after the thunder the village was white",
        "a black horse walked with her baker",
        "susan opened five apples after the rain",
    )
    with Espeak() as espeak:
        for number, sentence in enumerate(sentences):
            speech = espeak.say(tuple(sentence.split()), Voice("gmw/en-US+m3", 130, 50, 50), number)
            recording = record(speech, Conditions(), np.random.default_rng(number))
            path = folder / f"{number}.wav"
            soundfile.write(path, recording.samples, RATE, subtype="PCM_16")
            yield str(path)
