"""NeMo's own encoders, to compare with: see :mod:`nas_encoder.peers`.

B batch, T frames, F features of a frame, T' output frames, D output features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nas_encoder.errors import MissingDependencyError
from nas_encoder.peers.peer import Peer, build_with

SIZES = ("d_model", "n_layers", "n_heads")
# The encoder sections of NeMo's example configs, besides sizes.
_BOTH: Mapping[str, Any] = {
    "ff_expansion_factor": 4,
    "self_attention_model": "rel_pos",
    "xscaling": True,
    "untie_biases": True,
    "conv_norm_type": "batch_norm",
    "dropout": 0.1,
    "dropout_pre_encoder": 0.1,
    "dropout_emb": 0.0,
    "dropout_att": 0.1,
}
SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "conformer": {
        "subsampling": "striding",
        "subsampling_factor": 4,
        "subsampling_conv_channels": -1,  # d_model
        "conv_kernel_size": 31,
        **_BOTH,
    },
    "fast_conformer": {
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 256,
        "conv_kernel_size": 9,
        **_BOTH,
    },
}


class NemoPeer(Peer):
    """NeMo's ``ConformerEncoder``."""

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Swap time and features on the way in and out."""
        output, output_lengths = self.encoder(audio_signal=x.transpose(1, 2), length=lengths)
        return output.transpose(1, 2), output_lengths


def conformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build a Conformer; options as in NeMo's ``model.encoder``, see :func:`build`."""
    return build("conformer", options, input_size)


def fast_conformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build a FastConformer (8x unless another ``subsampling_factor`` is given)."""
    return build("fast_conformer", options, input_size)


def build(kind: str, options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build ``ConformerEncoder`` with the settings of NeMo's configs.

    Args:
        kind: Of :data:`SHIPPED`.
        options: Its sizes, and other options than the configs'.
        input_size: F.

    Raises:
        ConfigError: An option is unknown, missing or refused.
        MissingDependencyError: NeMo is not installed.
    """
    try:
        from nemo.collections.asr.modules.conformer_encoder import ConformerEncoder
    except ModuleNotFoundError as error:
        if error.name != "nemo":
            raise
        raise MissingDependencyError(
            "nemo_toolkit", "nemo", f"the encoder 'nemo_{kind}'"
        ) from error
    settings = {**SHIPPED[kind], **options, "feat_in": input_size}
    encoder = build_with(f"nemo_{kind}", ConformerEncoder, settings, SIZES)
    factor = int(settings["subsampling_factor"])
    return NemoPeer(encoder, input_size, int(settings["d_model"]), factor, factor)
