"""Configs with the keys of NeMo's own, and a corpus of noise to train on.

NeMo's wheel holds none of its YAML files. What a config of one of its architectures holds is put
together here: the encoder block names *every* option of the constructor that the installed NeMo
has, which is more than any file does; the rest is what the model class needs.
"""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

MODULES = "nemo.collections.asr.modules"
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
SAMPLE_RATE = 16000
TEXTS = ("cab", "a bad cab", "fed", "a dab")

# The script that belongs to a model class, as NeMo's folder examples/asr has it.
SCRIPTS = {
    "EncDecCTCModel": "asr_ctc/speech_to_text_ctc.py",
    "EncDecCTCModelBPE": "asr_ctc/speech_to_text_ctc_bpe.py",
    "EncDecRNNTBPEModel": "asr_transducer/speech_to_text_rnnt_bpe.py",
    "EncDecHybridRNNTCTCBPEModel": (
        "asr_hybrid_transducer_ctc/speech_to_text_hybrid_rnnt_ctc_bpe.py"
    ),
}


def imported(name: str) -> ModuleType:
    """Import a module of NeMo, whose imports warn about what they import themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def options_of(encoder: str) -> dict[str, Any]:
    """Return all options of an encoder of NeMo's that have a default, with it."""
    constructor = getattr(imported(MODULES), encoder).__init__
    parameters = inspect.signature(constructor).parameters.values()
    options = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {"_target_": f"{MODULES}.{encoder}", **options}


def conformer(d_model: int) -> dict[str, Any]:
    """Conformer's block; feature and output sizes by interpolation, as in NeMo's files."""
    own = {"feat_in": "${model.preprocessor.features}", "n_layers": 2, "d_model": d_model}
    return options_of("ConformerEncoder") | own


def convolutional(filters: int, last: int, **block: Any) -> dict[str, Any]:
    """QuartzNet's and Citrinet's block: a list ``jasper``, whose last entry is the output."""
    common = {"repeat": 1, "stride": [1], "dilation": [1], "residual": False, "separable": True}
    jasper = [
        common | {"filters": filters, "kernel": [5], "stride": [2]} | block,
        common | {"filters": last, "kernel": [1]} | block,
    ]
    own = {"feat_in": "${model.preprocessor.features}", "activation": "relu", "jasper": jasper}
    return options_of("ConvASREncoder") | own


@dataclass(frozen=True)
class Architecture:
    """One of NeMo's: its model class, its encoder block, and what follows from them."""

    model: str
    encoder: Callable[[], dict[str, Any]]
    features: int = 80
    decoder_width: int | None = None  # a number in the files of the convolutional encoders

    def config(self) -> dict[str, Any]:
        """Return the whole config, as plain types."""
        model: dict[str, Any] = {"sample_rate": SAMPLE_RATE}
        bpe, transducer = "BPE" in self.model, "RNNT" in self.model
        if bpe:
            model["tokenizer"] = {"dir": "???", "type": "bpe"}
        else:
            model["labels"] = LABELS
        for part in ("train_ds", "validation_ds"):
            model[part] = {
                "manifest_filepath": "???",
                "sample_rate": "${model.sample_rate}",
                "batch_size": 2,
                "shuffle": False,
                "num_workers": 0,
            }
            if not bpe:
                model[part]["labels"] = "${model.labels}"
        model["preprocessor"] = {
            "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": "${model.sample_rate}",
            "features": self.features,
            "n_fft": 512,
            "pad_to": 16,
        }
        model["spec_augment"] = {
            "_target_": f"{MODULES}.SpectrogramAugmentation",
            "freq_masks": 1,
            "time_masks": 1,
            "freq_width": 8,
            "time_width": 0.05,
            "rect_masks": 1,
            "rect_freq": 8,
            "rect_time": 120,
        }
        model["encoder"] = self.encoder()
        ctc = {
            "_target_": f"{MODULES}.ConvASRDecoder",
            "feat_in": self.decoder_width,
            "num_classes": -1,
            "vocabulary": [] if bpe else "${model.labels}",
        }
        if transducer:
            model |= _transducer()
        else:
            model["decoder"] = ctc
        if "Hybrid" in self.model:
            model["aux_ctc"] = {
                "ctc_loss_weight": 0.3,
                "use_cer": False,
                "ctc_reduction": "mean_batch",
                "decoder": ctc,
                "decoding": {"strategy": "greedy"},
            }
        schedule = {"name": "CosineAnnealing", "warmup_steps": 1, "min_lr": 0.0}
        if "d_model" in model["encoder"]:
            schedule = {"name": "NoamAnnealing", "d_model": "${model.encoder.d_model}"}
            schedule |= {"warmup_steps": 1, "min_lr": 0.0}
        model["optim"] = {"name": "adamw", "lr": 0.01, "betas": [0.9, 0.98], "sched": schedule}
        trainer = {
            "devices": 1,
            "accelerator": "cpu",
            # As in NeMo's files; its own batch norms cannot be synchronized on CPU, ours can.
            "strategy": "ddp",
            "sync_batchnorm": "d_model" in model["encoder"],
            "max_epochs": 1,
            "max_steps": -1,
            "logger": False,
            "enable_checkpointing": False,
        }
        manager = {
            "exp_dir": None,
            "name": "${name}",
            "create_tensorboard_logger": False,
            "create_checkpoint_callback": True,
            "checkpoint_callback_params": {
                "monitor": "val_wer",
                "mode": "min",
                "always_save_nemo": True,
            },
        }
        return {"name": "like-nemo", "model": model, "trainer": trainer, "exp_manager": manager}


def _transducer() -> dict[str, Any]:
    return {
        "model_defaults": {
            "enc_hidden": "${model.encoder.d_model}",
            "pred_hidden": 16,
            "joint_hidden": 16,
        },
        "decoder": {
            "_target_": f"{MODULES}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": "${model.model_defaults.pred_hidden}",
                "pred_rnn_layers": 1,
                "dropout": 0.0,
            },
        },
        "joint": {
            "_target_": f"{MODULES}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": True,
            "fused_batch_size": 2,
            "jointnet": {
                "joint_hidden": "${model.model_defaults.joint_hidden}",
                "activation": "relu",
                "dropout": 0.0,
            },
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 5}},
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}},
    }


ARCHITECTURES = {
    "quartznet": Architecture(
        "EncDecCTCModel", lambda: convolutional(256, 1024), features=64, decoder_width=1024
    ),
    "citrinet": Architecture(
        "EncDecCTCModelBPE",
        lambda: convolutional(384, 640, se=True, se_context_size=-1, kernel_size_factor=1.0),
        decoder_width=640,
    ),
    "conformer_ctc_char": Architecture("EncDecCTCModel", lambda: conformer(256)),
    "conformer_ctc_bpe": Architecture("EncDecCTCModelBPE", lambda: conformer(512)),
    "conformer_transducer_bpe": Architecture("EncDecRNNTBPEModel", lambda: conformer(512)),
    "conformer_hybrid_bpe": Architecture("EncDecHybridRNNTCTCBPEModel", lambda: conformer(512)),
}


@dataclass(frozen=True)
class Corpus:
    """A folder with four short recordings of noise, their manifest and a tokenizer."""

    folder: Path

    @property
    def manifest(self) -> Path:
        return self.folder / "noise.json"  # NeMo refuses the name manifest.json

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"

    @classmethod
    def create(cls, folder: Path) -> Corpus:
        """Write everything."""
        import soundfile

        from nas_encoder.data.token_lists import ListOptions, write_token_list

        corpus = cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(7)
        lines = []
        for number, text in enumerate(TEXTS):
            seconds = 0.5 + 0.1 * number
            audio = folder / f"{number}.wav"
            samples = generator.normal(0.0, 0.1, int(seconds * SAMPLE_RATE))
            soundfile.write(audio, samples, SAMPLE_RATE)
            line = {"audio_filepath": str(audio), "duration": seconds, "text": text}
            lines.append(json.dumps(line))
        corpus.manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
        options = ListOptions("bpe", 10, "bpe", layout="nemo")
        write_token_list(corpus.manifest, corpus.tokenizer, options)
        return corpus

    def overrides(self, bpe: bool) -> list[str]:
        """Return the Hydra overrides that point a config to this corpus."""
        parts = ("train_ds", "validation_ds")
        found = [f"model.{part}.manifest_filepath={self.manifest}" for part in parts]
        if bpe:
            found += [f"model.tokenizer.dir={self.tokenizer}", "model.tokenizer.type=bpe"]
        return found
