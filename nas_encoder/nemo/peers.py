"""NeMo's own encoders, to compare with: see :mod:`nas_encoder.peers`.

B batch, T frames, F features of a frame, T' output frames, D output features.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.common.problems import one_line
from nas_encoder.errors import ConfigError, MissingDependencyError
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
# What fastconformer_ctc_bpe_streaming.yaml says besides; the first three make the lookahead what
# ``att_context_size`` says.
_LIMITED: Mapping[str, Any] = {
    "att_context_style": "chunked_limited",
    "causal_downsampling": True,
    "conv_context_size": "causal",
}
_STREAMING: Mapping[str, Any] = {**_LIMITED, "conv_norm_type": "layer_norm"}


class AnyEncoder(nn.Module):
    """An encoder of NeMo of which nothing is known but its interface."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode x (B, T, F), lengths (B,): (B, T', D) and (B,)."""
        output, output_lengths = self.encoder(audio_signal=x.transpose(1, 2), length=lengths)
        return output.transpose(1, 2), output_lengths


class NemoPeer(Peer):
    """NeMo's ``ConformerEncoder``."""

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Swap time and features on the way in and out."""
        output, output_lengths = self.encoder(audio_signal=x.transpose(1, 2), length=lengths)
        return output.transpose(1, 2), output_lengths


class CacheAwarePeer(NemoPeer):
    """NeMo's ``ConformerEncoder`` with chunks of attention and all else causal.

    Its masks in training are those of its streaming (Noroozi et al. 2024, "Stateful Conformer with
    cache-based inference").
    """

    def lookahead(self) -> int:
        """Return R * S: what the first frame of a chunk sees, of ``att_context_size: [L, R]``.

        The causal front end gives output frame t nothing behind input frame S * t.
        """
        return int(self.encoder.att_context_size[1]) * self.subsampling_factor  # type: ignore[index]

    def chunk(self, frames: int = 0) -> int:
        """Return the input frames of NeMo's chunks, R * S + S; there are no other ones."""
        return int(self.encoder.streaming_cfg.shift_size[1])  # type: ignore[union-attr, index]

    @torch.no_grad()
    def stream(self, x: Tensor, frames: int = 0) -> Iterator[Tensor]:
        """Encode (1, T, F) in NeMo's chunks: R * S + 1 frames, then R * S + S each time."""
        encoder: Any = self.encoder
        conf = encoder.streaming_cfg
        caches = encoder.get_initial_cache_state(1, x.dtype, x.device)
        start, frames = 0, x.size(1)
        while start < frames:
            rest = int(start > 0)
            end = start + conf.chunk_size[rest]
            before = min(start, conf.pre_encode_cache_size[rest])
            chunk = x[:, start - before : end].transpose(1, 2)
            if (missing := conf.pre_encode_cache_size[rest] - before) > 0:
                chunk = nn.functional.pad(chunk, (missing, 0))
            output, lengths, *caches = encoder.cache_aware_stream_step(
                chunk,
                torch.tensor([chunk.size(2)], device=x.device),
                *caches,
                keep_all_outputs=end >= frames,
                drop_extra_pre_encoded=conf.drop_extra_pre_encoded if rest else 0,
            )
            yield output[:, :, : int(lengths[0])].transpose(1, 2)
            start += conf.shift_size[rest]


def conformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build a Conformer; options as in NeMo's ``model.encoder``, see :func:`build`."""
    return build("conformer", options, input_size)


def fast_conformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build a FastConformer (8x unless another ``subsampling_factor`` is given)."""
    return build("fast_conformer", options, input_size)


def cache_aware_fast_conformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build a FastConformer that streams; the option ``att_context_size`` is [L, R] output frames.

    Raises:
        ConfigError: As :func:`build`; or an option would make the lookahead another.
        MissingDependencyError: NeMo is not installed.
    """
    where, context = "nemo_cache_aware_fast_conformer", options.get("att_context_size")
    problems = [
        f"{name}: must be left at {value!r}, which makes the lookahead that of 'att_context_size'"
        for name, value in _LIMITED.items()
        if options.get(name, value) != value
    ]
    if not (
        isinstance(context, (list, tuple))
        and len(context) == 2
        and all(isinstance(size, int) and size >= 0 for size in context)
    ):
        problems.append(
            "att_context_size: must be two numbers, the output frames seen on the left and on the "
            f"right, got {context!r}"
        )
    if problems:
        raise ConfigError(where, problems)
    built = build("fast_conformer", {**_STREAMING, **options}, input_size)
    factor = int(built.subsampling_factor)  # type: ignore[arg-type]
    # The first output frame needs nothing but the first frame.
    return CacheAwarePeer(built.encoder, input_size, int(options["d_model"]), factor, 1)  # type: ignore[arg-type]


def any_encoder(target: str, options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build an encoder by its class path, as NeMo does: only what it allows is instantiated.

    Args:
        target: As in ``model.encoder._target_``.
        options: As in ``model.encoder``.
        input_size: F.

    Raises:
        ConfigError: There is no such class, NeMo does not allow it, it is no encoder, or an option
            is unknown, missing or refused.
        MissingDependencyError: NeMo is not installed.
    """
    try:
        from nemo.core.classes.common import safe_instantiate
    except ModuleNotFoundError as error:
        if error.name != "nemo":
            raise
        raise MissingDependencyError("nemo_toolkit", "nemo", f"the encoder '{target}'") from error
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    config = OmegaConf.create({**options, "_target_": target, "feat_in": input_size})
    try:
        found: Any = safe_instantiate(config)
    except (HydraException, AssertionError, TypeError, ValueError, AttributeError) as error:
        rule = f"cannot be built with these options: {one_line(error, 2000)}"
        raise ConfigError(target, [rule]) from error
    if not isinstance(found, nn.Module) or {"audio_signal", "length"} - set(
        inspect.signature(found.forward).parameters
    ):
        raise ConfigError(target, ["is no encoder: it takes no 'audio_signal' and 'length'"])
    return AnyEncoder(found)


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
