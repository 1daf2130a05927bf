"""ESPnet's own encoders, to compare with: see :mod:`nas_encoder.peers`.

B batch, T frames, F features of a frame, T' output frames, D output features.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from nas_encoder.errors import ConfigError, MissingDependencyError
from nas_encoder.peers.peer import Peer, build_with

SIZES = ("output_size", "attention_heads", "linear_units", "num_blocks")
FRONT = "front_channels"
# The fewest frames and the frames per output frame of ESPnet's input layers.
INPUT_LAYERS = {"conv2d1": (5, 1), "conv2d2": (7, 2), "conv2d": (7, 4), "conv2d6": (11, 6)}
# What ESPnet's recipes for LibriSpeech and AISHELL set besides sizes.
_DROPOUT = {"dropout_rate": 0.1, "positional_dropout_rate": 0.1, "attention_dropout_rate": 0.1}
_RELATIVE = {"pos_enc_layer_type": "rel_pos", "rel_pos_type": "latest"}
SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "transformer": {"input_layer": "conv2d", "normalize_before": True, **_DROPOUT},
    "conformer": {
        "input_layer": "conv2d",
        "normalize_before": True,
        "macaron_style": True,
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
        "cnn_module_kernel": 31,
        **_RELATIVE,
        **_DROPOUT,
    },
    "e_branchformer": {
        "input_layer": "conv2d",
        "attention_layer_type": "rel_selfattn",
        "cgmlp_conv_kernel": 31,
        "use_linear_after_conv": False,
        "gate_activation": "identity",
        "use_ffn": True,
        "macaron_ffn": True,
        "merge_conv_kernel": 31,
        **_RELATIVE,
        **_DROPOUT,
    },
}


class AnyEncoder(nn.Module):
    """An encoder of ESPnet of which nothing is known but its interface."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode x (B, T, F), lengths (B,): (B, T', D) and (B,)."""
        output, output_lengths, _ = self.encoder(x, lengths)
        return output, output_lengths


class EspnetPeer(Peer):
    """An encoder of ESPnet's ASR task."""

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Leave out the states that ESPnet's encoders return third."""
        output, output_lengths, _ = self.encoder(x, lengths)
        return output, output_lengths


def transformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build ``TransformerEncoder``; options as in ESPnet's ``encoder_conf``, see :func:`build`."""
    return build("transformer", "TransformerEncoder", options, input_size, SIZES)


def conformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build ``ConformerEncoder``; options as in ESPnet's ``encoder_conf``, see :func:`build`."""
    return build("conformer", "ConformerEncoder", options, input_size, SIZES)


def e_branchformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build ``EBranchformerEncoder``; options as in ``encoder_conf``, see :func:`build`."""
    sizes = (*SIZES, "cgmlp_linear_units")
    return build("e_branchformer", "EBranchformerEncoder", options, input_size, sizes)


def any_encoder(name: str, options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build an encoder by its name in ESPnet's ASR task, without defaults of recipes.

    Args:
        name: As in ``encoder:`` of ESPnet's configurations.
        options: As in ``encoder_conf:``.
        input_size: F.

    Raises:
        ConfigError: There is no such encoder, or an option is unknown, missing or refused.
        MissingDependencyError: ESPnet is not installed.
    """
    choices: Mapping[str, Any] = _module("espnet2.tasks.asr", name).encoder_choices.classes
    if name not in choices:
        known = ", ".join(sorted(choices))
        raise ConfigError("encoder of ESPnet", [f"must be one of {known}, got {name!r}"])
    settings = {**options, "input_size": input_size}
    return AnyEncoder(build_with(f"espnet:{name}", choices[name], settings, ()))


def _module(path: str, encoder: str) -> Any:
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name not in ("espnet2", "espnet2.asr"):
            raise
        raise MissingDependencyError("espnet", "espnet", f"the encoder '{encoder}'") from error


def build(
    kind: str, name: str, options: Mapping[str, Any], input_size: int, sizes: tuple[str, ...]
) -> nn.Module:
    """Build an encoder with the settings of ESPnet's recipes.

    Args:
        kind: Its name in ESPnet.
        name: Its class.
        options: Its sizes, and other options than the recipes'. ``front_channels`` is ours:
            channels of the convolutions in front, which are as many as ``output_size`` in ESPnet.
        input_size: F.
        sizes: Options that must be given.

    Raises:
        ConfigError: An option is unknown, missing or refused.
        MissingDependencyError: ESPnet is not installed.
    """
    module = _module(f"espnet2.asr.encoder.{kind}_encoder", f"espnet_{kind}")
    where = f"espnet_{kind}"
    settings = {**SHIPPED[kind], **options}
    layer = settings["input_layer"]
    if layer not in INPUT_LAYERS:
        known = ", ".join(INPUT_LAYERS)
        raise ConfigError(where, [f"input_layer: must be one of {known}, got {layer!r}"])
    settings["input_size"] = input_size
    encoder = build_with(where, getattr(module, name), settings, sizes, (FRONT,))
    channels = settings.get(FRONT)
    if channels is not None:
        _narrow(where, encoder, channels)
    least, factor = INPUT_LAYERS[layer]
    return EspnetPeer(encoder, input_size, settings["output_size"], factor, least)


def _narrow(where: str, encoder: Any, channels: object) -> None:
    """Replace the convolutions in front by narrower ones of the same kernels and strides."""
    if not isinstance(channels, int) or channels < 1:
        raise ConfigError(where, [f"{FRONT}: must be a positive integer, got {channels!r}"])
    front, made, width = encoder.embed, 1, 0
    for place, layer in enumerate(front.conv):
        if isinstance(layer, nn.Conv2d):
            width = layer.out_channels
            kernel, stride = layer.kernel_size[0], layer.stride[0]  # square ones
            front.conv[place] = nn.Conv2d(made, channels, kernel, stride)
            made = channels
    linear = front.out[0]
    bins = linear.in_features // width
    front.out[0] = nn.Linear(channels * bins, linear.out_features)
