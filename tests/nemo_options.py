"""Encoders of ours under many options, built as NeMo builds them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

BINS = 12
NAS = {"genotype": "darts_v2", "channels": 2, "layers": 6, "d_model": 8}
BENCH = {
    "genotype": "nasbench_asr_example",
    "channels": 6,
    "block_cells": [1, 1, 1, 2],
    "lstm_size": 5,
    "d_model": 8,
}
CHAIN = {
    "genotype": {
        "schema": 1,
        "name": "chain",
        "space": "tdnn_chain",
        "blocks": [f"tdnn_c{context}_d{dilation}" for context in (1, 2) for dilation in (1, 2, 1)],
    },
    "channels": 6,
    "d_model": 8,
}
# Whose front end has no padding: fewer than ceil(T / S) output frames, and at least 7 frames.
BLOCKS = {
    "genotype": {
        "schema": 1,
        "name": "hourglass",
        "space": "blocks",
        "front": {"kind": "conv2d", "channels": 3, "padded": False},
        "stages": [
            {"width": 8, "reduction": rate, "modules": [{"kind": kind}, {"kind": "feed_forward"}]}
            for rate, kind in ((2, "attention"), (1, "convolution"), (1, "memory"))
        ],
    },
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
SAN = {"blocks": 3, "attention_layers": 1, "hidden_size": 12, "d_model": 8}

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "nas": ("NASEncoder", NAS),
    "nas asrnet_a": ("NASEncoder", NAS | {"genotype": "asrnet_a", "stem_stride": [1, 2]}),
    "nas default genotype": (
        "NASEncoder",
        {name: value for name, value in NAS.items() if name != "genotype"},
    ),
    "nas stride 2": ("NASEncoder", NAS | {"stem_stride": [2, 2], "deltas": False}),
    "nas checkpointing": ("NASEncoder", NAS | {"checkpointing": True, "dropout": 0.1}),
    "nas nasbench_asr": ("NASEncoder", BENCH),
    "nas tdnn_chain": ("NASEncoder", CHAIN),
    "nas blocks": ("NASEncoder", BLOCKS),
    "dfsmn_san": ("DFSMNSANEncoder", SAN),
    "dfsmn_san memory": ("DFSMNSANEncoder", SAN | {"persistent_memory": 4}),
}


def encoder_of(common: ModuleType, option: str, **more: Any) -> Any:
    from omegaconf import OmegaConf

    name, conf = OPTIONS[option]
    config = OmegaConf.create(
        {"_target_": f"nas_encoder.nemo.{name}", "feat_in": BINS, **conf, **more}
    )
    return common.Serialization.from_config_dict(config)


def run(encoder: Any, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    outputs: tuple[Tensor, Tensor] = encoder(audio_signal=x, length=lengths)
    return outputs


def streamed(encoder: Any, x: Tensor, lengths: Tensor, whole: Tensor) -> None:
    """Check that a stream of the network gives what whole utterances give."""
    state, found = encoder.network.initial_state(len(x)), []
    for piece, valid, last in (
        (x[:, :, :17], (17, 17), False),
        (x[:, :, 17:18], (1, 1), False),
        (x[:, :, 18:], (22, 10), True),
    ):
        with torch.no_grad():
            y, state = encoder.network.step(
                piece.transpose(1, 2), state, last, lengths.new_tensor(valid)
            )
        found.append(y)
    torch.testing.assert_close(torch.cat(found, 1).transpose(1, 2), whole, rtol=1e-4, atol=1e-4)
