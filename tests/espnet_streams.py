"""Streams in ESPnet's Speech2TextStreaming, of either version of ESPnet: a program and its test.

The program decodes with the models of the folder that it runs in, and prints what it finds as JSON.
"""

from __future__ import annotations

import inspect
import json
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from espnet_recipe import Recipe, make_recipe
from forked import Forks
from torch import Tensor

SIZES = (480, 1000, 5120)  # samples
BLOCKS = ("block_size", "hop_size", "look_ahead")


# A network for a test, which learns a little in a minute.
TINY = (
    "--frontend_conf n_mels=40 --specaug none --encoder_conf channels=16 --encoder_conf layers=2 "
    "--decoder_conf linear_units=16 --decoder_conf num_blocks=1 --decoder_conf attention_heads=2 "
    "--model_conf ctc_weight=0.7 --optim_conf lr=0.005 --scheduler none --batch_type unsorted "
    "--batch_size 2 --max_epoch 15 --num_workers 0 --keep_nbest_models 1 "
)


def make_model(folder: Path, espnet: Forks, shared_folder: Callable[..., Path]) -> None:
    """Make a recipe's folder with a trained hybrid, and the same without its decoder."""
    made = shared_folder("espnet_recipe", lambda place: make_recipe(place, espnet))
    shutil.copytree(made, folder)
    conf = Path(__file__).parents[1] / "recipes" / "timit" / "espnet" / "conf"
    for path in conf.glob("*streaming*.yaml"):
        shutil.copy(path, folder / "conf")
    recipe = Recipe(folder, espnet)
    recipe.checked(recipe.train("conf/train_asr_nas_streaming.yaml", TINY))
    (folder / "exp/ctc").mkdir()
    shutil.copy(folder / "exp/asr/valid.acc.ave.pth", folder / "exp/ctc/valid.cer_ctc.ave.pth")
    config = yaml.safe_load((folder / "exp/asr/config.yaml").read_text())
    config = {key: value for key, value in config.items() if not key.startswith("decoder")}
    config["model_conf"] = config["model_conf"] | {"ctc_weight": 1.0}
    (folder / "exp/ctc/config.yaml").write_text(yaml.safe_dump(config))


def streams_are_decoded(espnet: Forks, folder: Path) -> dict[str, str]:
    """Run the program in a folder of :func:`make_model`; return what is said of other models."""
    done = espnet.run([__file__], folder)
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for kind in ("ctc", "hybrid"):
        assert found[kind]["conf"] == {"block_size": 8, "hop_size": 1, "look_ahead": 7}
        assert found[kind]["class"] == "NASStreamingEncoder"
        for row in found[kind]["rows"]:
            assert row["features"] < 1e-6 and row["encoder"] < 1e-5 and row["best path"], row
    for row in found["ctc"]["rows"]:
        assert row["as one chunk"], row
    assert any(row["tokens"] for row in found["ctc"]["rows"]), "it has not learned anything"
    # What ESPnet itself does where its first chunk is too short, with any encoder.
    lost, difference = found["lost"]["320"]
    assert lost == 2 and difference < 1e-6
    assert "exceeds dimension size (440)" in found["lost"]["440"]
    refused: dict[str, str] = found["refused"]
    for name, places in REFUSED.items():
        said = refused[name]
        assert said.startswith("ConfigError: encoder 'nas' in espnet2.bin.asr_inference_streaming:")
        assert all(place in said for place in places), said
        assert said.endswith("with espnet2.bin.asr_inference (asr.sh: --use_streaming false)")
    return refused


WHOLE = "encoder: stages[0].modules[1]: attention 4 heads sees the whole utterance"
REFUSED = {
    "attention": [WHOLE],
    "several": [WHOLE, "normalize: must be global_mvn or null"],
    "frontend": ["frontend: must be 'default'"],
    "preencoder": ["preencoder: the program leaves it out"],
}


class Heard:
    """What the encoder of a decoder of streams got and gave."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.features, self.encoded = decoder, [], []
        decoder.asr_model.encoder.register_forward_hook(self._hear)

    def _hear(self, _: Any, given: tuple[Tensor, ...], gave: tuple[Tensor, ...]) -> None:
        self.features.append(given[0])
        self.encoded.append(gave[0])

    def stream(self, samples: np.ndarray, sizes: Iterable[int]) -> tuple[Tensor, Tensor, list[int]]:
        """Decode an utterance in chunks; return features, outputs and tokens."""
        self.features, self.encoded, start, found = [], [], 0, []
        for size in sizes:
            piece = samples[start : start + size]
            start += size
            found = self.decoder(piece, is_final=start >= len(samples))
        tokens = found[0][2] if found else []
        return torch.cat(self.features, 1)[0], torch.cat(self.encoded, 1)[0], tokens


def chunks(samples: np.ndarray, size: int) -> list[int]:
    return [size] * -(-len(samples) // size)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


def compare(config: Path, weights: Path, weight: float, recordings: list[np.ndarray]) -> Any:
    """Decode recordings in chunks and as a whole, with and without streams."""
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

    options: dict[str, Any] = {"ctc_weight": weight, "lm_weight": 0.0, "beam_size": 5}
    streaming = Speech2TextStreaming(
        str(config), str(weights), disable_repetition_detection=True, **options
    )
    offline = Speech2Text(str(config), str(weights), **options)
    heard, rows = Heard(streaming), []
    blank_free = lambda best: [int(t) for t in torch.unique_consecutive(best) if t]  # noqa: E731
    for samples in recordings:
        with torch.no_grad():
            speech, length = torch.tensor(samples)[None], torch.tensor([len(samples)])
            features, _ = offline.asr_model._extract_feats(speech, length)
            features, _ = offline.asr_model.normalize(features, torch.tensor([features.size(1)]))
            encoded = offline.asr_model.encode(speech, length)[0][0]
        best = offline.asr_model.ctc.argmax(encoded[None])[0]
        _, _, once = heard.stream(samples, [len(samples)])
        for size in SIZES:
            own, outputs, tokens = heard.stream(samples, chunks(samples, size))
            greedy = streaming.asr_model.ctc.argmax(outputs[None])[0]
            rows.append(
                {
                    "size": size,
                    "features": distance(own, features[0]),
                    "encoder": distance(outputs, encoded),
                    "best path": blank_free(greedy) == blank_free(best),
                    "as one chunk": tokens == once,
                    "as offline": tokens == offline(samples)[0][2],
                    "tokens": len(tokens),
                }
            )
    return {
        "rows": rows,
        "conf": {k: streaming.asr_train_args.encoder_conf[k] for k in BLOCKS},
        "class": type(streaming.asr_model.encoder).__name__,
    }


def lost_frames(config: Path, weights: Path, samples: np.ndarray) -> dict[str, Any]:
    """Return what ESPnet itself loses where the first chunk is not longer than a window."""
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

    decoder = Speech2TextStreaming(str(config), str(weights), ctc_weight=1.0, lm_weight=0.0)
    heard = Heard(decoder)
    whole, _, _ = heard.stream(samples, [len(samples)])
    found: dict[str, Any] = {}
    for first in (320, 440):
        rest = chunks(samples[first:], 1000)
        try:
            own, _, _ = heard.stream(samples, [first, *rest])
            lost = len(whole) - len(own)
            found[str(first)] = [lost, distance(own, whole[lost:])]
        except RuntimeError as error:
            found[str(first)] = str(error)
            decoder.reset()
    return found


def refused(config: Path, folder: Path) -> dict[str, str]:
    """Return what is said of models that cannot be decoded in chunks."""
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming
    from espnet2.tasks.asr import ASRTask

    plain = yaml.safe_load(config.read_text())
    blind = yaml.safe_load(config.read_text())
    del blind["encoder_conf"]["genotype"]["stages"][0]["modules"][1]["window"]
    del blind["encoder_conf"]["genotype"]["stages"][0]["modules"][1]["chunk"]
    cases = {
        "attention": blind,
        "several": blind | {"normalize": "utterance_mvn", "normalize_conf": {}},
        "frontend": plain | {"frontend": "nemo", "frontend_conf": {"features": 40}},
        "preencoder": plain
        | {"preencoder": "linear", "preencoder_conf": {"input_size": 40, "output_size": 40}},
    }
    said = {}
    for name, changed in cases.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(changed))
        try:
            Speech2TextStreaming(str(path), None, ctc_weight=1.0, lm_weight=0.0)
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    if "asr_model" in inspect.signature(Speech2TextStreaming.__init__).parameters:
        model, args = ASRTask.build_model_from_file(str(folder / "attention.yaml"), None, "cpu")
        try:
            Speech2TextStreaming(asr_model=model, asr_train_args=args, ctc_weight=1.0)
        except Exception as error:
            said["built"] = f"{type(error).__name__}: {error}"
    return said


def main() -> None:
    """Decode, and print what is found."""
    warnings.simplefilter("ignore")
    torch.manual_seed(1)
    recordings = [
        soundfile.read(line.split()[1], dtype="float32")[0]
        for line in Path("dump/raw/test/wav.scp").read_text().splitlines()
    ]
    folder = Path("streams")
    folder.mkdir()
    ctc = Path("exp/ctc/config.yaml"), Path("exp/ctc/valid.cer_ctc.ave.pth")
    hybrid = Path("exp/asr/config.yaml"), Path("exp/asr/valid.acc.ave.pth")
    found = {
        "ctc": compare(*ctc, 1.0, recordings),
        "hybrid": compare(*hybrid, 0.5, recordings),
        "lost": lost_frames(*ctc, recordings[0]),
        "refused": refused(ctc[0], folder),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
