"""The toolkits' options read as genotypes, and what is refused; the known points."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.genotype import load_genotype
from nas_encoder.spaces.blocks import points
from nas_encoder.tables import ADOPTED

ROOT = Path(__file__).resolve().parents[2]
CONFORMER = {"rel_pos_type": "latest", "macaron_style": True}


def refused(kind: str, conf: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        ADOPTED[kind](conf, "encoder")
    return list(caught.value.problems)


# -- points ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", points.POINTS)
def test_points_are_documents(name: str) -> None:
    genotype = points.point(name)
    again = load_genotype(genotype.to_dict())
    assert (again.hash, again.name) == (genotype.hash, name)
    assert again.architecture == genotype.architecture


def test_numbers_mean_the_same_however_they_are_written() -> None:
    document = points.point("squeezeformer").to_dict()
    written = copy.deepcopy(document)
    written["front"]["factor"] = 4.0
    for stage in written["stages"]:
        stage["reduction"] = float(stage["reduction"])
        for module in stage["modules"]:
            if module["kind"] == "feed_forward":
                module |= {"expansion": 4, "step": 1}
    found = load_genotype(written)
    assert found.hash == load_genotype(document).hash
    assert found.to_dict() == document
    assert type(found.architecture.front.factor) is int


def test_points_of_other_sizes() -> None:
    found = points.squeezeformer(width=64, heads=2, hidden=128, blocks=6, reduce_at=2, recover_at=5)
    assert [(s.blocks, s.reduction, s.norm) for s in found.stages] == [
        (2, 1, "after"),
        (3, 2, "after"),
        (1, 1, "after"),
    ]
    found = points.efficient_conformer((16, 24, 32), (1, 2, 3), (1, 2, 4))
    assert [(s.width, s.blocks, s.reduction) for s in found.stages] == [
        (16, 1, 1),
        (24, 2, 2),
        (32, 3, 4),
    ]
    assert found.factor == 16
    found = points.dfsmn_san(64, 128, 6, (3, 6), 4)
    assert [(stage.blocks, len(stage.modules)) for stage in found.stages] == [
        (2, 1),
        (1, 2),
        (2, 1),
        (1, 2),
    ]


@pytest.mark.parametrize(
    ("name", "sizes", "words"),
    [
        ("conformer", {"width": 30, "heads": 4}, r"stages\[0\].modules\[1\].heads"),
        ("dfsmn_san", {"blocks": 3, "attention_after": (2, 4)}, r"blocks 1 to 3, got \[4\]"),
        ("squeezeformer", {"blocks": 8}, "from 1 to 7 .*got 7 and 15"),
        ("efficient_conformer", {"widths": (8, 16)}, "have 2, 3 and 3"),
        ("wavenet", {}, "known: transformer, conformer"),
    ],
)
def test_sizes_that_do_not_fit(name: str, sizes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        points.point(name, **sizes)


# -- ESPnet ----------------------------------------------------------------------------------------


def test_espnets_defaults_are_read() -> None:
    found = ADOPTED["espnet.e_branchformer"]({"use_ffn": True, "macaron_ffn": True}, "encoder")
    known = points.e_branchformer(hidden=2048, mlp_hidden=2048, merge_kernel=3)
    assert found.genotype.architecture == known
    assert found.options == {
        "output_size": 256,
        "norm_eps": 1e-12,
        "dropout": 0.1,
        "attention_dropout": 0.0,
    }
    found = ADOPTED["espnet.transformer"]({}, "encoder")
    assert found.genotype.architecture == points.transformer(blocks=6)
    found = ADOPTED["espnet.branchformer"]({}, "encoder")
    assert found.genotype.architecture == points.branchformer(blocks=12)


def test_everything_that_is_refused_is_named_at_once() -> None:
    found = refused(
        "espnet.conformer",
        {
            "input_layer": "conv2d6",
            "concat_after": True,
            "positionwise_layer_type": "conv1d",
            "activation_type": "gelu",
            "zero_triu": True,
            "qk_norm": True,
            "ctc_trim": True,
            "interctc_use_conditioning": True,
            "cnn_module_kernel": 8,
            "no_such_option": 1,
        },
    )
    assert {line.partition(":")[0] for line in found} == {
        "input_layer",
        "concat_after",
        "positionwise_layer_type",
        "activation_type",
        "zero_triu",
        "qk_norm",
        "ctc_trim",
        "interctc_use_conditioning",
        "cnn_module_kernel",
        "rel_pos_type",  # legacy by default
        "no_such_option",
    }
    assert "rel_pos_type: must be latest, got legacy: the old relative positions" in "\n".join(
        found
    )


@pytest.mark.parametrize(
    ("kind", "conf", "line"),
    [
        (
            "conformer",
            {**CONFORMER, "pos_enc_layer_type": "abs_pos"},
            "selfattention_layer_type: must be selfattn with pos_enc_layer_type abs_pos, got "
            "rel_selfattn",
        ),
        (
            "conformer",
            {**CONFORMER, "activation_type": "relu"},
            "activation_type: must be swish, as in the convolution, got relu",
        ),
        (
            "conformer",
            {**CONFORMER, "input_layer": None},
            "input_layer: must be conv2d or conv2d8, got null: no front end of the space is like "
            "it",
        ),
        (
            "branchformer",
            {"merge_method": "learned_ave"},
            "merge_method: must be concat, got learned_ave: branches are not averaged",
        ),
        (
            "branchformer",
            {"use_attn": False, "use_cgmlp": False},
            "use_attn: must be true if use_cgmlp is false",
        ),
        (
            "e_branchformer",
            {"gate_activation": "relu"},
            "gate_activation: must be identity, got relu: gates have no activation",
        ),
        (
            "e_branchformer",
            {"use_linear_after_conv": True},
            "use_linear_after_conv: must be false, got true: the gate of a cgMLP is a convolution "
            "alone",
        ),
        (
            "e_branchformer",
            {"merge_conv_kernel": 4},
            "merge_conv_kernel: must be odd, got 4: an even one shifts the frames",
        ),
        (
            "e_branchformer",
            {"cgmlp_linear_units": 301},
            "cgmlp_linear_units: must be even, got 301",
        ),
        (
            "transformer",
            {"pos_enc_layer_type": "conv"},
            "pos_enc_layer_type: must be abs_pos, got conv: there are no other positions",
        ),
    ],
)
def test_what_espnet_has_and_the_space_not(kind: str, conf: dict[str, Any], line: str) -> None:
    assert refused(f"espnet.{kind}", conf) == [line]


@pytest.mark.parametrize(
    ("name", "point", "sizes"),
    [
        ("conf/train/espnet/train_asr_transformer_14m", "transformer", {"hidden": 1536}),
        (
            "conf/train/espnet/train_asr_conformer_14m",
            "conformer",
            {"width": 176, "hidden": 704, "blocks": 18},
        ),
        (
            "recipes/mini/nemo/conf/conformer",
            "nemo_conformer",
            {"width": 48, "hidden": 192, "blocks": 4},
        ),
        (
            "recipes/mini/nemo/conf/fastconformer",
            "fast_conformer",
            {"width": 48, "hidden": 192, "blocks": 4, "factor": 4, "channels": 48},
        ),
    ],
)
def test_the_peers_of_our_recipes_are_points(name: str, point: str, sizes: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / f"{name}.yaml").read_text("utf-8"))
    if "encoder_conf" in config:
        found = ADOPTED[f"espnet.{config['encoder']}"](config["encoder_conf"], name)
    else:
        block = {**config["model"]["encoder"]}
        kind = block.pop("_target_").rpartition(".")[2]
        found = ADOPTED[f"nemo.{kind}"](block, name)
    assert found.genotype.hash == points.point(point, **sizes).hash


def test_what_differs_in_training_is_noted() -> None:
    conf = {
        **CONFORMER,
        "num_blocks": 2,
        "positional_dropout_rate": 0.2,
        "layer_drop_rate": 0.1,
        "stochastic_depth_rate": [0.0, 0.2],
    }
    found = ADOPTED["espnet.conformer"](conf, "encoder")
    assert found.options["drop_path"] == 0.1
    assert [note.partition(":")[0] for note in found.notes] == [
        "positional_dropout_rate 0.2",
        "stochastic_depth_rate",
        "layer_drop_rate 0.1",
    ]


# -- NeMo ------------------------------------------------------------------------------------------

FAST = {
    "feat_in": 80,
    "n_layers": 16,
    "d_model": 176,
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 256,
    "conv_kernel_size": 9,
    "feat_out": -1,
    "causal_downsampling": False,
    "reduction": None,
    "reduction_position": None,
    "reduction_factor": 1,
    "att_context_size": [-1, -1],
    "conv_context_size": None,
    "stochastic_depth_drop_prob": 0.2,
    "stochastic_depth_mode": "linear",
}


def test_nemos_fast_conformer_is_read() -> None:
    found = ADOPTED["nemo.ConformerEncoder"](FAST, "encoder")
    assert found.genotype.architecture == points.fast_conformer()
    assert found.options == {
        "output_size": 176,
        "norm_eps": 1e-5,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "drop_path": 0.1,
    }
    assert [note.partition(":")[0] for note in found.notes] == [
        "dropout_emb 0.1",
        "stochastic_depth_drop_prob",
    ]
    window = {"att_context_size": [[128, 128]], "self_attention_model": "rel_pos_local_attn"}
    found = ADOPTED["nemo.ConformerEncoder"](FAST | window, "encoder")
    assert found.genotype.architecture == points.fast_conformer(window=128)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"subsampling": "vggnet"}, "subsampling"),
        ({"subsampling": "stacking"}, "subsampling"),
        ({"subsampling_factor": 2}, "subsampling_factor"),
        ({"subsampling_conv_channels": 0}, "subsampling_conv_channels"),
        ({"causal_downsampling": True}, "causal_downsampling"),
        ({"reduction": "pooling", "reduction_factor": 2}, "reduction"),
        ({"att_context_size": [70, 13]}, "att_context_size"),
        ({"att_context_size": [[8, 8], [16, 16]]}, "att_context_size"),
        ({"att_context_size": [0, 0]}, "att_context_size"),
        ({"att_context_style": "chunked_limited"}, "att_context_style"),
        ({"self_attention_model": "rel_pos_local_attn"}, "att_context_size"),
        ({"global_tokens": 1}, "global_tokens"),
        ({"untie_biases": False}, "untie_biases"),
        ({"conv_norm_type": "group_norm8"}, "conv_norm_type"),
        ({"conv_context_size": "causal"}, "conv_context_size"),
        ({"conv_context_style": "dcc"}, "conv_context_style"),
        ({"feat_out": 256}, "feat_out"),
        ({"n_heads": 3}, "stages[0].modules[1].heads"),
    ],
)
def test_what_nemo_has_and_the_space_not(change: dict[str, Any], name: str) -> None:
    (line,) = refused("nemo.ConformerEncoder", {**FAST, **change})
    assert line.partition(":")[0] == name


# -- weights ---------------------------------------------------------------------------------------


def test_weights_that_do_not_fit() -> None:
    conf = {"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 1}
    found = ADOPTED["espnet.transformer"](conf, "encoder")
    block = "encoders.0."
    state = {
        "embed.conv.0.weight": torch.ones(8, 1, 3, 3),
        "embed.conv.0.bias": torch.ones(8),
        "embed.conv.2.weight": torch.ones(8, 8, 3, 3),
        "embed.conv.2.bias": torch.ones(8),
        "embed.out.0.weight": torch.ones(8, 8 * 2),
        "embed.out.0.bias": torch.ones(8),
        **{f"{block}self_attn.linear_{n}.weight": torch.ones(8, 8) for n in ("q", "k", "v", "out")},
        **{f"{block}self_attn.linear_{n}.bias": torch.ones(8) for n in ("q", "k", "v", "out")},
        f"{block}feed_forward.w_1.weight": torch.ones(12, 8),
        f"{block}feed_forward.w_1.bias": torch.ones(12),
        f"{block}feed_forward.w_2.weight": torch.ones(8, 12),
        f"{block}feed_forward.w_2.bias": torch.ones(8),
        **{f"{block}norm{n}.{kind}": torch.ones(8) for n in "12" for kind in ("weight", "bias")},
        "after_norm.weight": torch.ones(8),
        "after_norm.bias": torch.ones(8),
    }
    assert found.weights(state)["blocks.0.layers.0.inputs.weight"].shape == (24, 8)
    del state["after_norm.bias"]
    state["after_norm.scale"] = torch.ones(8)
    state["embed.out.0.weight"] = torch.ones(8, 17)
    with pytest.raises(CheckpointError) as caught:
        found.weights(state)
    assert caught.value.problems == (
        "embed.out.0.weight: has shape (8, 17), which cannot be of this layer",
        "after_norm.bias: is missing",
        "after_norm.scale: is unknown to the encoder of the config",
    )
