"""ESPnet's own encoders, to compare with: see :mod:`nas_encoder.peers`.

B batch, T frames, F features of a frame, T' output frames, D output features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
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
    # Of egs2/aishell's train_asr_streaming_conformer.yaml; its blocks are 40, 16 and 16 frames.
    "contextual_block_conformer": {
        "input_layer": "conv2d",
        "normalize_before": True,
        "macaron_style": True,
        "activation_type": "swish",
        "use_cnn_module": True,
        "cnn_module_kernel": 15,
        "init_average": True,
        "ctx_pos_enc": True,
        **_DROPOUT,
        "attention_dropout_rate": 0.0,
    },
}
BLOCKS = ("block_size", "hop_size", "look_ahead")


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


class ContextualBlockPeer(EspnetPeer):
    """``ContextualBlockConformerEncoder`` (Tsunoo et al. 2021), zeros before each utterance.

    A block of ``block_size`` output frames gives the ``hop_size`` frames before its last
    ``look_ahead``; what is before them is history. Only the first block gives its history too, so
    its frames wait for the whole block, far longer than all later ones. As many frames of zeros
    as the history is long, whose outputs are dropped, make it like the others. So they are put
    before the utterance in training as in streaming.

    Args:
        encoder: ESPnet's module.
        input_size: F.
        output_size: D.
        subsampling_factor: S.
        min_length: The fewest frames of an utterance.
    """

    @property
    def history(self) -> int:
        """Output frames of a block before those that it gives."""
        own: Any = self.encoder
        return int(own.block_size - own.hop_size - own.look_ahead)

    def _begun(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0, self.history * self.subsampling_factor, 0))

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Put zeros before (B, T, F), and leave out what they give."""
        before = self.history
        output, lengths = super().encode(self._begun(x), lengths + before * self.subsampling_factor)
        return output[:, before:], lengths - before

    def lookahead(self) -> int:
        """Return what the first of the frames that a block gives sees, to the block's last one.

        That is ``hop_size - 1 + look_ahead`` output frames, and the frames under the last one's
        convolutions. With 4x, ESPnet's streaming gives them 9 input frames later: it waits for the
        next block's first frame, and for more of the input than the convolutions need.
        """
        own: Any = self.encoder
        ahead = int(own.hop_size) - 1 + int(own.look_ahead)
        return ahead * self.subsampling_factor + self.min_length - 1

    def chunk(self, frames: int = 0) -> int:
        """Return the input frames of as many hops as ``frames`` holds, of one at least."""
        hop = int(self.encoder.hop_size) * self.subsampling_factor  # type: ignore[arg-type]
        return hop * max(1, frames // hop)

    @torch.no_grad()
    def stream(self, x: Tensor, frames: int = 0) -> Iterator[Tensor]:
        """Encode (1, T, F) in chunks of as many frames as one or more blocks give."""
        x, states, size = self._begun(x), None, self.chunk(frames)
        left = self.history
        for start in range(0, x.size(1), size):
            chunk = x[:, start : start + size]
            lengths = torch.tensor([chunk.size(1)], device=x.device)
            is_final = start + size >= x.size(1)
            y, _, states = self.encoder(chunk, lengths, states, is_final, infer_mode=True)
            yield y[:, left:]
            left = max(0, left - y.size(1))


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


def contextual_block_conformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build :class:`ContextualBlockPeer`; options as in ``encoder_conf``, see :func:`build`.

    Raises:
        ConfigError: As :func:`build`; or the blocks are no blocks.
        MissingDependencyError: ESPnet is not installed.
    """
    sizes = [options.get(name) for name in BLOCKS]
    whole = [size for size in sizes if isinstance(size, int)]
    if len(whole) == 3 and not (whole[1] >= 1 and 0 <= whole[2] <= whole[0] - whole[1]):
        rule = "hop_size must be at least 1 and, with look_ahead (0 or more), at most block_size"
        raise ConfigError("espnet_contextual_block_conformer", [f"{rule}, got {sizes}"])
    name, needed = "ContextualBlockConformerEncoder", (*SIZES, *BLOCKS)
    own: Any = build("contextual_block_conformer", name, options, input_size, needed)
    return ContextualBlockPeer(
        own.encoder, input_size, own.output_size, own.subsampling_factor, own.min_length
    )


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
    linear = front.out if isinstance(front.out, nn.Linear) else front.out[0]
    narrow = nn.Linear(channels * (linear.in_features // width), linear.out_features)
    if linear is front.out:
        front.out = narrow
    else:
        front.out[0] = narrow
