"""Small trained models, as they are read from checkpoints, to be exported."""

from __future__ import annotations

from typing import Any

import torch
from streaming_samples import causal
from torch import nn

from nas_encoder import load_genotype
from nas_encoder.export.material import generated
from nas_encoder.interchange.features import ESPnetFeatures, NeMoFeatures
from nas_encoder.interchange.model import Encoder, Features, Head, Model, Transducer
from nas_encoder.network import build_encoder

BINS = 12
CELLS = {"channels": 2, "layers": 4, "output_size": 8, "stem_stride": [1, 2]}
# Genotype and options: front ends with padding and without, all families of spaces, all modules.
ENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cells": ("asrnet_b", CELLS),
    # The last two cells are causal.
    "cells with pooling": (causal("darts_v2", 2).to_dict(), {**CELLS, "deltas": True}),
    "nasbench": ("nasbench_asr_example", {"channels": 4, "output_size": 8}),
    "conformer": ({"known": "conformer", "hidden": 32, "width": 16, "blocks": 2, "heads": 2}, {}),
    "fast_conformer": (
        {"known": "fast_conformer", "hidden": 32, "width": 16, "blocks": 2, "heads": 2},
        {},
    ),
    "e_branchformer": (
        {"known": "e_branchformer", "hidden": 32, "width": 16, "blocks": 2, "heads": 2},
        {},
    ),
    "hourglass": (
        {
            "schema": 1,
            "name": "hourglass",
            "space": "blocks",
            "front": {"kind": "conv2d", "channels": 4, "padded": False},
            "stages": [
                {"width": 12, "reduction": rate, "modules": [{"kind": kind}]}
                for rate, kind in ((1, "convolution"), (2, "attention"), (1, "memory"))
            ],
        },
        {},
    ),
}
ENCODERS["streaming"] = (
    {
        "schema": 1,
        "name": "streaming",
        "space": "blocks",
        "front": {"kind": "conv1d", "channels": 8},
        "stages": [
            {"width": 12, "modules": [module, {"kind": "convolution", "kernel": 5, "causal": True}]}
            for module in (
                {"kind": "attention", "heads": 2, "window": 3, "chunk": 4},
                {"kind": "attention", "heads": 2, "window": 5, "ahead": 1},
            )
        ],
    },
    {},
)
EMBEDDING, HIDDEN, JOINT, LAYERS = 5, 6, 7, 2
TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]
FEATURES: dict[str, tuple[str, dict[str, Any]]] = {
    "espnet global": ("espnet", {"normalize": "global", "hop_length": 160, "win_length": 400}),
    "espnet utterance": ("espnet", {"normalize": "utterance", "center": False, "normalized": True}),
    "nemo per feature": ("nemo", {"normalize": "per_feature", "n_window_size": 400}),
    "nemo all features": ("nemo", {"normalize": "all_features", "mag_power": 1.0}),
    "nemo none": ("nemo", {"normalize": "NA", "preemph": None, "log_zero_guard_type": "clamp"}),
}


def model(encoder: str = "cells", features: str = "espnet global", seed: int = 3) -> Model:
    """Return a model of the toolkit of its features, whose norms have moved."""
    torch.manual_seed(seed)
    genotype, options = ENCODERS[encoder]
    network: Any = build_encoder(genotype, input_size=BINS, **options)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(torch.rand_like(tensor) * 0.3)
    style, given = FEATURES[features]
    size = {"n_mels": BINS} if style == "espnet" else {"features": BINS}
    made: Any = (ESPnetFeatures if style == "espnet" else NeMoFeatures)(**given, **size)
    tensors = made.state_dict()
    if "mean" in tensors:
        tensors |= {"mean": torch.full((BINS,), -8.0), "std": torch.rand(BINS) + 2}
    document = load_genotype(genotype).to_dict()
    own = {
        "genotype": document,
        "input_size": BINS,
        **options,
        "output_size": network.output_size,
    }
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    made.load_state_dict(tensors)
    head = _head(network.eval(), made)
    found = Model(
        f"{encoder} model",
        style,
        Encoder("nas", own, weights),
        head,
        Features(style, {**given, **size}, tensors),
    )
    found.check({}, {})
    assert not found.obstacles
    return found


@torch.no_grad()
def _head(network: Any, features: Any) -> Head:
    """Return a CTC layer such that each class wins somewhere in a sound."""
    sound = generated(16000)[1].samples
    encoded, frames = network(*features(sound[None], torch.tensor([len(sound)])))
    encoded = encoded[0, : int(frames)]
    weight = torch.randn(len(TOKENS), network.output_size) / (encoded.std(0) + 1e-3)
    return Head(TOKENS, weight, -weight @ encoded.mean(0))


def with_transducer(most: int | None, features: str = "espnet global") -> Model:
    found = model("conformer", features)
    width = found.encoder.options["output_size"]
    torch.manual_seed(1)
    lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS)
    enc, pred, last = nn.Linear(width, JOINT), nn.Linear(HIDDEN, JOINT, bias=False), nn.Linear(7, 7)
    with torch.no_grad():
        enc.weight.mul_(3)
        last.weight.mul_(6)
    found.transducer = Transducer(
        Head(TOKENS, last.weight.detach(), last.bias.detach()),
        torch.randn(len(TOKENS), EMBEDDING),
        {name: value.detach() for name, value in lstm.state_dict().items()},
        {name: value.detach() for name, value in enc.state_dict().items()},
        {name: value.detach() for name, value in pred.state_dict().items()},
        "tanh",
        most,
        set(),
    )
    assert found.transducer.problems(width) == []
    return found
