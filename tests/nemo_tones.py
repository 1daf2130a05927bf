"""A language of tones that a tiny network learns in seconds, and NeMo models that speak it.

Each letter is a tone of its own frequency, a space is a longer pause; so what a model should say,
and when, is known exactly.
"""

from __future__ import annotations

import importlib
import json
import random
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_encoder import autoload

MODULES = "nemo.collections.asr.modules"
RATE = 16000
BINS = 16
FREQUENCIES = {"a": 400.0, "b": 900.0, "c": 1800.0, "d": 3600.0}
TONE, GAP, PAUSE = 0.16, 0.08, 0.32  # seconds
NAS = {
    "_target_": "nas_encoder.nemo.NASEncoder",
    "feat_in": BINS,
    "genotype": "asrnet_b",
    "channels": 2,
    "layers": 3,
    "d_model": 16,
    "stem_stride": [1, 2],
    "deltas": False,
}
SAN = {
    "_target_": "nas_encoder.nemo.DFSMNSANEncoder",
    "feat_in": BINS,
    "blocks": 3,
    "attention_layers": 1,
    "hidden_size": 24,
    "d_model": 16,
}


def text_of(generator: random.Random, words: int) -> str:
    """Return words of two or three letters; no letter follows itself."""
    found, last = [], ""
    for _ in range(words):
        word = ""
        for _ in range(generator.choice((2, 3))):
            last = generator.choice([letter for letter in FREQUENCIES if letter != last])
            word += last
        found.append(word)
    return " ".join(found)


@dataclass
class Recording:
    """A text as tones."""

    text: str
    seed: int = 0
    times: list[tuple[str, float, float]] = field(default_factory=list)  # letter, start, end (s)

    def samples(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the audio, and note when each letter sounds."""
        generator = np.random.default_rng(self.seed)
        parts: list[Any] = [np.zeros(int(GAP * RATE))]
        self.times = []
        for letter in self.text:
            if letter == " ":
                parts.append(np.zeros(int((PAUSE - GAP) * RATE)))
                continue
            start = sum(map(len, parts)) / RATE
            self.times.append((letter, start, start + TONE))
            time = np.arange(int(TONE * RATE)) / RATE
            parts.append(0.3 * np.sin(2 * np.pi * FREQUENCIES[letter] * time))
            parts.append(np.zeros(int(GAP * RATE)))
        signal = np.concatenate(parts)
        return (signal + generator.normal(0.0, 0.01, len(signal))).astype(np.float32)


@dataclass(frozen=True)
class Tones:
    """A folder with recordings, their manifest and a tokenizer."""

    folder: Path
    recordings: tuple[Recording, ...]

    @property
    def manifest(self) -> str:
        return str(self.folder / "tones.json")

    @property
    def paths(self) -> list[str]:
        return [str(self.folder / f"{number}.wav") for number in range(len(self.recordings))]

    @classmethod
    def create(cls, folder: Path, number: int = 32, longest: int = 3) -> Tones:
        """Write everything."""
        import sentencepiece
        import soundfile

        generator = random.Random(5)
        recordings = tuple(
            Recording(text_of(generator, generator.randint(1, longest)), seed)
            for seed in range(number)
        )
        tones = cls(folder, recordings)
        lines = []
        for recording, path in zip(recordings, tones.paths, strict=True):
            samples = recording.samples()
            soundfile.write(path, samples, RATE, subtype="PCM_16")
            line = {"audio_filepath": path, "duration": len(samples) / RATE, "text": recording.text}
            lines.append(json.dumps(line) + "\n")
        Path(tones.manifest).write_text("".join(lines), encoding="utf-8")
        (folder / "text").write_text("\n".join(r.text for r in recordings), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"),
            model_prefix=str(folder / "tokenizer"),
            vocab_size=10,
            model_type="bpe",
            minloglevel=2,
        )
        vocabulary = (folder / "tokenizer.vocab").read_text("utf-8").splitlines()
        pieces = [line.split("\t")[0] + "\n" for line in vocabulary]
        (folder / "vocab.txt").write_text("".join(pieces), encoding="utf-8")
        return tones

    def config(self, kind: str, encoder: dict[str, Any], **model: Any) -> Any:
        """Return the config of a model: ``ctc_char``, ``ctc_bpe``, ``rnnt_bpe``, ``hybrid_bpe``."""
        from omegaconf import OmegaConf

        data = {
            "manifest_filepath": self.manifest,
            "sample_rate": RATE,
            "batch_size": 8,
            "shuffle": True,
            "num_workers": 0,
        }
        ctc = {"_target_": f"{MODULES}.ConvASRDecoder", "feat_in": None, "num_classes": -1}
        config: dict[str, Any] = {
            "sample_rate": RATE,
            "train_ds": data,
            "validation_ds": data | {"shuffle": False},
            "preprocessor": {
                "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
                "sample_rate": RATE,
                "normalize": "per_feature",
                "window_stride": 0.01,
                "features": BINS,
                "n_fft": 512,
                "dither": 0.0,
                "pad_to": 0,
            },
            "encoder": dict(encoder),
            "optim": {"name": "adam", "lr": 0.01},
        }
        if kind == "ctc_char":
            config["labels"] = [" ", *FREQUENCIES]
            config["decoder"] = ctc | {"vocabulary": config["labels"]}
            for part in ("train_ds", "validation_ds"):
                config[part] = {**config[part], "labels": config["labels"]}
        else:
            config["tokenizer"] = {"dir": str(self.folder), "type": "bpe"}
        if kind == "ctc_bpe":
            config["decoder"] = ctc | {"vocabulary": []}
        if kind in ("rnnt_bpe", "hybrid_bpe"):
            config |= _transducer(encoder["d_model"])
        if kind == "hybrid_bpe":
            config["aux_ctc"] = {
                "ctc_loss_weight": 0.5,
                "use_cer": False,
                "ctc_reduction": "mean_batch",
                "decoder": ctc | {"vocabulary": []},
                "decoding": {"strategy": "greedy_batch"},
            }
        return OmegaConf.create(config | model)


CLASSES = {
    "ctc_char": "EncDecCTCModel",
    "ctc_bpe": "EncDecCTCModelBPE",
    "rnnt_bpe": "EncDecRNNTBPEModel",
    "hybrid_bpe": "EncDecHybridRNNTCTCBPEModel",
}


# What NeMo and Lightning do on any machine without a GPU, or with libraries newer than they are.
WARNINGS = (
    "'pin_memory' argument is set as true:UserWarning:torch",
    "This property will be removed:DeprecationWarning:torchmetrics",
)


def marks(*warnings_ignored: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a test file that runs NeMo's models."""
    ignored = (*WARNINGS, *warnings_ignored)
    filters = [pytest.mark.filterwarnings(f"ignore:{warning}") for warning in ignored]
    return [pytest.mark.nemo, pytest.mark.slow, *filters]


def toolkit() -> Any:
    """Return ``nemo.collections.asr.models``, imported with our hook active and quiet."""
    autoload.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = importlib.import_module("nemo.collections.asr.models")
    from nemo.utils import logging

    logging.setLevel(logging.ERROR)
    return models


def build(kind: str, config: Any, trainer: Any = None) -> Any:
    """Build a model of a kind."""
    return getattr(toolkit(), CLASSES[kind])(cfg=config, trainer=trainer)


def trainer(steps: int, **options: Any) -> Any:
    """Return Lightning's trainer for a few steps on CPU, writing nothing."""
    import lightning.pytorch as pl

    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **{**quiet, **options},
    )


def _transducer(width: int) -> dict[str, Any]:
    return {
        "model_defaults": {"enc_hidden": width, "pred_hidden": 16, "joint_hidden": 16},
        "decoder": {
            "_target_": f"{MODULES}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 16, "pred_rnn_layers": 1, "dropout": 0.0},
        },
        "joint": {
            "_target_": f"{MODULES}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": True,
            "fused_batch_size": 8,
            "jointnet": {"joint_hidden": 16, "activation": "relu", "dropout": 0.0},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 5}},
        "loss": {"loss_name": "default"},
    }
