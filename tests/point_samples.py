"""Small encoders of both toolkits, and the options of the points that they are."""

from __future__ import annotations

from typing import Any

BINS, WIDTH = 20, 24

# -- ESPnet ----------------------------------------------------------------------------------------

# Name -> (kind, encoder_conf, sizes of the point of that kind or None)
SMALL: dict[str, Any] = {"output_size": WIDTH, "attention_heads": 4, "num_blocks": 2}
TRANSFORMER = {**SMALL, "linear_units": 40}
CONFORMER = {
    **SMALL,
    "linear_units": 36,
    "rel_pos_type": "latest",
    "macaron_style": True,
    "cnn_module_kernel": 7,
}
BRANCHFORMER = {**SMALL, "cgmlp_linear_units": 44, "cgmlp_conv_kernel": 9}
E_BRANCHFORMER = {
    **BRANCHFORMER,
    "linear_units": 40,
    "use_ffn": True,
    "macaron_ffn": True,
    "merge_conv_kernel": 5,
}
ESPNET: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "transformer": ("transformer", TRANSFORMER, {"hidden": 40}),
    "transformer, norms after": ("transformer", {**TRANSFORMER, "normalize_before": False}, None),
    "transformer, 8x": (
        "transformer",
        {**TRANSFORMER, "input_layer": "conv2d8"},
        {"hidden": 40, "factor": 8},
    ),
    "conformer": ("conformer", CONFORMER, {"hidden": 36, "kernel": 7}),
    "conformer, absolute positions": (
        "conformer",
        {
            **CONFORMER,
            "rel_pos_type": "legacy",
            "pos_enc_layer_type": "abs_pos",
            "selfattention_layer_type": "selfattn",
            "macaron_style": False,
        },
        None,
    ),
    "conformer, norms after": ("conformer", {**CONFORMER, "normalize_before": False}, None),
    "conformer without convolution": (
        "conformer",
        {**CONFORMER, "use_cnn_module": False, "activation_type": "relu"},
        None,
    ),
    "branchformer": ("branchformer", BRANCHFORMER, {"mlp_hidden": 44, "kernel": 9}),
    "branchformer of attention": ("branchformer", {**BRANCHFORMER, "use_cgmlp": False}, None),
    "branchformer of cgMLP": ("branchformer", {**BRANCHFORMER, "use_attn": False}, None),
    "e_branchformer": (
        "e_branchformer",
        E_BRANCHFORMER,
        {"hidden": 40, "mlp_hidden": 44, "kernel": 9, "merge_kernel": 5},
    ),
    "e_branchformer without halves": (
        "e_branchformer",
        {**E_BRANCHFORMER, "macaron_ffn": False, "ffn_activation_type": "relu"},
        None,
    ),
    "e_branchformer without feed-forward": (
        "e_branchformer",
        {**E_BRANCHFORMER, "use_ffn": False},
        None,
    ),
}

# -- NeMo ------------------------------------------------------------------------------------------

# Name -> (what differs from NEMO, sizes of the point or None)
NEMO: dict[str, Any] = {
    "feat_in": BINS,
    "n_layers": 2,
    "d_model": WIDTH,
    "n_heads": 4,
    "ff_expansion_factor": 2,
    "conv_kernel_size": 5,
}
FAST = {"subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 12}
NEMOS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "conformer": ({}, {}),
    "conformer, norm of layers": ({"conv_norm_type": "layer_norm"}, None),
    "conformer, window": (
        {"att_context_size": [3, 3], "xscaling": False},
        {"window": 3, "scale": False},
    ),
    "conformer, local attention": (
        {"self_attention_model": "rel_pos_local_attn", "att_context_size": [4, 4]},
        {"window": 4},
    ),
    "conformer, absolute positions": ({"self_attention_model": "abs_pos"}, None),
    "conformer without biases": ({"use_bias": False}, {}),
    "fast_conformer": (FAST, {"channels": 12}),
    "fast_conformer, 4x": ({**FAST, "subsampling_factor": 4}, {"channels": 12, "factor": 4}),
}

# -- a whole model of ESPnet -----------------------------------------------------------------------

TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]
ESPNET_MODEL: dict[str, Any] = {
    "token_list": TOKENS,
    "token_type": "char",
    "bpemodel": None,
    "input_size": None,
    "init": None,
    "use_preprocessor": True,
    "preprocessor": "default",
    "frontend": "default",
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": BINS},
    "normalize": None,
    "normalize_conf": {},
    "specaug": None,
    "specaug_conf": {},
    "preencoder": None,
    "preencoder_conf": {},
    "postencoder": None,
    "postencoder_conf": {},
    "decoder": "transformer",
    "decoder_conf": {"linear_units": 16, "num_blocks": 1, "attention_heads": 2},
    "joint_net_conf": None,
    "model": "espnet",
    "model_conf": {"ctc_weight": 0.3, "interctc_weight": 0.3},
    "ctc_conf": {},
    "preprocessor_conf": {},
}
