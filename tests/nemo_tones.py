"""NeMo models that learn a language of tones (``tone_language.py``) in seconds."""

from __future__ import annotations

import importlib
import json
import math
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tone_language import FREQUENCIES, GAP, PAUSE, RATE, Recording, text_of
from torch import Tensor, nn

from nas_encoder import autoload

MODULES = "nemo.collections.asr.modules"
BINS = 16
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

# Whose front end has no padding: fewer than ceil(T / S) output frames.
BLOCKS = {
    "_target_": "nas_encoder.nemo.NASEncoder",
    "feat_in": BINS,
    "genotype": {
        "schema": 1,
        "name": "hourglass",
        "space": "blocks",
        "front": {"kind": "conv2d", "channels": 8, "padded": False},
        "stages": [
            {"width": 16, "reduction": rate, "modules": [{"kind": kind}, {"kind": "feed_forward"}]}
            for rate, kind in ((1, "convolution"), (2, "attention"), (1, "cgmlp"), (1, "memory"))
        ],
    },
    "d_model": 16,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


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
    def create(
        cls, folder: Path, number: int = 32, longest: int = 3, silence: float = 1.2
    ) -> Tones:
        """Write everything.

        Args:
            folder: An empty folder.
            number: Recordings.
            longest: Words of the longest ones.
            silence: Seconds before and after the words, at most.
        """
        import sentencepiece
        import soundfile

        generator = random.Random(5)
        # NeMo's helpers for long audio see much silence before the first and after the last word.
        recordings = tuple(
            Recording(
                text_of(generator, generator.randint(1, longest)),
                before=generator.uniform(GAP, silence),
                after=generator.uniform(0.0, silence),
            )
            for _ in range(number)
        )
        tones = cls(folder, recordings)
        lines = []
        for recording, path in zip(recordings, tones.paths, strict=True):
            samples = recording.samples()
            soundfile.write(path, samples, RATE, subtype="PCM_16")
            line = {"audio_filepath": path, "duration": len(samples) / RATE, "text": recording.text}
            lines.append(json.dumps(line) + "\n")
        Path(tones.manifest).write_text("".join(lines), encoding="utf-8")
        lines = [*(recording.text for recording in recordings), " ".join(FREQUENCIES)]
        (folder / "text").write_text("\n".join(lines), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"),
            model_prefix=str(folder / "tokenizer"),
            vocab_size=8,
            model_type="char",  # every piece is a letter, so that each has a time
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
    ".*isinstance.treespec, LeafSpec:FutureWarning",
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


def features_of(model: Any, tones: Tones) -> tuple[Tensor, Tensor]:
    """Return the model's features of all recordings, (B, F, T), and their lengths (B,)."""
    signals = [torch.from_numpy(recording.samples()) for recording in tones.recordings]
    lengths = torch.tensor([len(signal) for signal in signals])
    batch = nn.utils.rnn.pad_sequence(signals, batch_first=True)
    features: tuple[Tensor, Tensor] = model.preprocessor(input_signal=batch, length=lengths)
    return features


def teach(model: Any, tones: Tones, steps: int = 60) -> None:
    """Teach the encoder and the CTC decoder of a model, frame by frame, since the times are known.

    CTC itself needs many more steps to find them out.
    """
    features, lengths = features_of(model, tones)
    decoder = getattr(model, "ctc_decoder", model.decoder)
    targets = _frame_targets(model.encoder.subsampling_factor, decoder, tones, features.size(2))
    parameters = [*model.encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    model.train()
    for step in range(steps):
        rows = torch.arange(8 * step, 8 * step + 8) % len(features)
        x = features[rows, :, : int(lengths[rows].max())]
        y, _ = model.encoder(audio_signal=x, length=lengths[rows])
        log_probs = decoder(encoder_output=y).transpose(1, 2)
        loss = nn.functional.nll_loss(log_probs, targets[rows, : y.size(2)], ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def teach_transducer(model: Any, tones: Tones, steps: int = 200) -> None:
    """Teach prediction and joint network, whose encoder is ready: each letter at its time.

    The cross-entropy along that one alignment does it in a second. (NeMo's default transducer
    loss is written in plain Python where there is no GPU, and takes seconds a step.)
    """
    with torch.no_grad():
        features, lengths = features_of(model, tones)
        encoded, frames = model.encoder(audio_signal=features, length=lengths)
    ids = [torch.tensor(model.tokenizer.text_to_ids(r.text)) for r in tones.recordings]
    sizes = torch.tensor([len(text) for text in ids])
    texts = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    points = []  # utterance, frame, letters before it, what comes next
    blank = model.joint.num_classes_with_blank - 1
    for row, recording in enumerate(tones.recordings):
        times = iter(_emission_frames(recording, model.encoder.subsampling_factor))
        done, due = 0, next(times)
        for frame in range(int(frames[row])):
            while due == frame:
                points.append((row, frame, done, int(texts[row, done])))
                done, due = done + 1, next(times, -1)
            points.append((row, frame, done, blank))
        assert done == len(ids[row])
    row, frame, done, target = torch.tensor(points).T
    optimizer = torch.optim.Adam([*model.decoder.parameters(), *model.joint.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=steps)
    model.train()
    for _ in range(steps):
        decoded, _, _ = model.decoder(targets=texts, target_length=sizes)  # (B, D, U + 1)
        f = model.joint.enc(encoded.transpose(1, 2)[row, frame])
        g = model.joint.pred(decoded.transpose(1, 2)[row, done])
        loss = nn.functional.cross_entropy(model.joint.joint_net(f + g), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _emission_frames(recording: Recording, factor: int) -> list[int]:
    """Return the output frame of each piece: first the space that the tokenizer puts in front."""
    letters, end, seconds = iter(recording.times), 0.0, [0.0]
    for letter in recording.text:
        if letter == " ":
            seconds.append(end + (PAUSE - 0.12) / 2)
        else:
            _, start, end = next(letters)
            seconds.append(start)
    # The first frame whose middle is not before that time, as in _frame_targets.
    return [max(0, math.ceil((100 * second - (factor - 1) / 2) / factor)) for second in seconds]


def _frame_targets(factor: int, decoder: Any, tones: Tones, frames: int) -> Tensor:
    """Return (B, T') classes: a letter while its tone sounds, else blank; -1 past the end."""
    pieces = [str(piece).replace("\u2581", " ") for piece in decoder.vocabulary]
    times = (torch.arange(-(-frames // factor)) * factor + (factor - 1) / 2) * 0.01
    targets = torch.full((len(tones.recordings), len(times)), len(pieces))
    for row, recording in zip(targets, tones.recordings, strict=True):
        recording.samples()  # notes the times
        letters = iter(recording.times)
        end = 0.0
        for letter in recording.text:
            if letter == " ":
                start, stop = end + (PAUSE - 0.12) / 2, end + (PAUSE + 0.12) / 2
            else:
                _, start, stop = next(letters)
                end = stop
            row[(times >= start) & (times < stop)] = pieces.index(letter)
        row[times > end + GAP + recording.after] = -1
    return targets


# Knows the last letter and nothing else, so that it can begin anywhere in a text.
LAST_LETTER = {
    "_target_": f"{MODULES}.StatelessTransducerDecoder",
    "context_size": 1,
    "normalization_mode": None,
    "prednet": {"pred_hidden": 16, "dropout": 0.0},
}


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
