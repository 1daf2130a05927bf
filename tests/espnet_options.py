"""Options of our encoders in ESPnet, and models with them, for the tests of ESPnet's contract."""

from __future__ import annotations

import argparse
import importlib
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch

from nas_encoder import autoload

BINS = 12
TOKENS = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]
NAS = {"genotype": "darts_v2", "channels": 2, "layers": 5, "output_size": 8}
SAN = {"blocks": 3, "attention_layers": 1, "hidden_size": 12, "output_size": 8}

# An inline genotype: no chain is in the zoo.
CHAIN = {
    "schema": 1,
    "name": "chain",
    "space": "tdnn_chain",
    "blocks": [f"tdnn_c{context}_d{dilation}" for context in (1, 2) for dilation in (1, 2, 1)],
}

# Whose front end has no padding: fewer than ceil(T / S) output frames, and at least 7 frames.
BLOCKS = {
    "schema": 1,
    "name": "hourglass",
    "space": "blocks",
    "front": {"kind": "conv2d", "channels": 3, "padded": False},
    "stages": [
        {"width": 8, "reduction": reduction, "modules": [{"kind": kind}, {"kind": "feed_forward"}]}
        for reduction, kind in ((2, "attention"), (1, "convolution"), (1, "cgmlp"))
    ],
}

# Attention in chunks of 4 frames, causal convolutions: it streams.
STREAMING = BLOCKS | {
    "name": "chunked",
    "stages": [
        {
            "width": 8,
            "blocks": 2,
            "modules": [
                {"kind": "attention", "heads": 2, "window": 8, "chunk": 4},
                {"kind": "convolution", "kernel": 5, "causal": True},
            ],
        }
    ],
}

# What must hold under every one of these; the first of each encoder is the plain one.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "nas": ("nas", NAS),
    "nas asrnet_a": ("nas", NAS | {"genotype": "asrnet_a", "stem_stride": [1, 2]}),
    "nas asrnet_b": ("nas", NAS | {"genotype": "asrnet_b", "layers": 3}),
    "nas stride 2, 2": ("nas", NAS | {"stem_stride": [2, 2], "deltas": False}),
    "nas wide head": ("nas", NAS | {"hidden_sizes": [6, 7], "dropout": 0.2, "drop_path": 0.2}),
    "nas checkpointing": ("nas", NAS | {"checkpointing": True}),
    "nas nasbench_asr": (
        "nas",
        {
            "genotype": "nasbench_asr_example",
            "channels": 6,
            "block_cells": [1, 1, 1, 2],
            "lstm_size": 5,
            "output_size": 8,
            "interctc_layer_idx": [4],
            "interctc_use_conditioning": True,
        },
    ),
    "nas tdnn_chain": (
        "nas",
        {
            "genotype": CHAIN,
            "channels": 6,
            "output_size": 8,
            "interctc_layer_idx": [4, 5],
            "interctc_use_conditioning": True,
        },
    ),
    "nas blocks": (
        "nas",
        {
            "genotype": BLOCKS,
            "output_size": 8,
            "interctc_layer_idx": [2],
            "interctc_use_conditioning": True,
        },
    ),
    "nas streaming blocks": ("nas", {"genotype": STREAMING, "output_size": 8}),
    "nas interctc": ("nas", NAS | {"layers": 6, "interctc_layer_idx": [5]}),
    "nas conditioned": (
        "nas",
        NAS | {"layers": 8, "interctc_layer_idx": [6, 7], "interctc_use_conditioning": True},
    ),
    "dfsmn_san": ("dfsmn_san", SAN),
    "dfsmn_san asymmetric": (
        "dfsmn_san",
        SAN | {"look_back": 3, "look_ahead": [1, 0, 2], "look_back_stride": 2, "context": 0},
    ),
    "dfsmn_san memory": ("dfsmn_san", SAN | {"persistent_memory": 4, "subsampling_factor": 6}),
    "dfsmn_san checkpointing": ("dfsmn_san", SAN | {"checkpointing": True}),
    "dfsmn_san interctc": ("dfsmn_san", SAN | {"interctc_layer_idx": [1, 2]}),
    "dfsmn_san conditioned": (
        "dfsmn_san",
        SAN | {"interctc_layer_idx": [2], "interctc_use_conditioning": True},
    ),
}
every_option = pytest.mark.parametrize("option", OPTIONS)
both = pytest.mark.parametrize("option", ["nas", "dfsmn_san"])


def load_asr() -> ModuleType:
    """Return ESPnet's ASR task, registered by the hook."""
    autoload.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("espnet2.tasks.asr")


def encoder_of(asr: ModuleType, option: str, **more: Any) -> Any:
    name, conf = OPTIONS[option]
    encoder = asr.encoder_choices.get_class(name)(input_size=BINS, **{**conf, **more})
    if encoder.interctc_use_conditioning:
        encoder.conditioning_layer = torch.nn.Linear(len(TOKENS), encoder.output_size())
    return encoder


def arguments(asr: ModuleType, option: str, folder: str = "exp") -> argparse.Namespace:
    name, conf = OPTIONS[option]
    args: argparse.Namespace = asr.ASRTask.get_parser().parse_args(["--output_dir", folder])
    args.token_list = TOKENS
    args.input_size, args.frontend, args.specaug, args.normalize = BINS, None, None, None
    args.decoder, args.model_conf = None, {"ctc_weight": 1.0}
    if "interctc_layer_idx" in conf:
        args.model_conf["interctc_weight"] = 0.4
    args.encoder, args.encoder_conf = name, dict(conf)
    return args
