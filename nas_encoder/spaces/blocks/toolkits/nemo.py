"""The options of NeMo's ``ConformerEncoder`` (3.0): its Conformer and its FastConformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nas_encoder.common.fields import choice, flag, integer, number, option, share
from nas_encoder.common.problems import Problems, show
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.front_parts import Conv2dFront, DepthwiseFront
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import Convolution, FeedForward, SelfAttention
from nas_encoder.spaces.blocks.toolkits.options import EncoderOptions, ignored, odd, only
from nas_encoder.spaces.blocks.toolkits.weights import NEMO, Layout

_NORMS = {"batch_norm": "batch", "layer_norm": "layer"}
_STREAMS = "models that stream are not converted"
_NO_WINDOW = (-1, -1)


def _contexts(value: Any, path: str, problems: Problems) -> Any:
    """Allow null, [w, w] and a list with one such pair; return the pair."""
    pair = _NO_WINDOW if value is None else value
    if isinstance(pair, (list, tuple)) and len(pair) == 1 and isinstance(pair[0], (list, tuple)):
        pair = pair[0]
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] != pair[1]:
        rule = "a window has the same frames on both sides, and there is one"
    elif pair[0] == 0:
        rule = "a window of one frame is no attention"
    elif not isinstance(pair[0], int) or pair[0] < -1:
        rule = "a window has at least one frame"
    else:
        return tuple(pair)
    problems.add(path, f"must be [-1, -1] or [w, w], got {show(value)}: {rule}")
    return None


@dataclass(frozen=True)
class Conformer(EncoderOptions):
    """``_target_: nemo.collections.asr.modules.ConformerEncoder``."""

    title = "nemo_conformer"
    feat_in: int = option(80, integer(1))
    n_layers: int = option(16, integer(1))
    d_model: int = option(176, integer(1))
    feat_out: int = option(-1, integer(-1), null=True)
    causal_downsampling: bool = option(
        False, only(False, why="front ends see both sides of a frame")
    )
    subsampling: str = option(
        "striding",
        only("striding", "dw_striding", why="no other front end of NeMo's is in the space"),
        null=False,
    )
    subsampling_factor: int = option(4, only(4, 8, why="front ends reduce the rate so"))
    subsampling_conv_chunking_factor: int = ignored(1)
    subsampling_conv_channels: int = option(-1, integer(-1))
    reduction: str | None = ignored(None)
    reduction_position: int | None = ignored(None)
    reduction_factor: int = option(1, integer(1), null=True)
    ff_expansion_factor: float = option(4, number(0, 64, above=True))
    self_attention_model: str = option(
        "rel_pos", choice("kind of attention", ("rel_pos", "rel_pos_local_attn", "abs_pos"))
    )
    n_heads: int = option(4, integer(1))
    att_context_size: Any = option(_NO_WINDOW, _contexts)
    att_context_probs: Any = ignored(None)
    att_chunk_context_size: Any = option(None, only(None, why=_STREAMS))
    att_context_style: str = option("regular", only("regular", why=_STREAMS))
    xscaling: bool = option(True, flag)
    untie_biases: bool = option(True, only(True, why="no weights are shared between blocks"))
    pos_emb_max_len: int = ignored(5000)
    conv_kernel_size: int = option(31, odd)
    conv_norm_type: str = option("batch_norm", only(*_NORMS, why="there are no other norms"))
    conv_context_size: Any = ignored(None)
    conv_context_style: str = option("regular", only("regular", why=_STREAMS))
    use_bias: bool = option(True, flag)
    dropout: float = option(0.1, share)
    dropout_pre_encoder: float = option(0.1, share)
    dropout_emb: float = option(0.1, share)
    dropout_att: float = option(0.0, share)
    stochastic_depth_drop_prob: float = option(0.0, share)
    stochastic_depth_mode: str = option("linear", choice("mode", ("linear", "uniform")))
    stochastic_depth_start_layer: int = ignored(1)
    global_tokens: int = option(0, only(0, why="attention has no global tokens"))
    global_tokens_spacing: int = ignored(1)
    global_attn_separate: bool = ignored(False)
    use_pytorch_sdpa: bool = ignored(False)
    use_pytorch_sdpa_backends: Any = ignored(None)
    sync_max_audio_length: bool = ignored(True)

    def conflicts(self, found: Problems) -> None:
        """Check the convolution's context, the window and the width of the output."""
        side = (self.conv_kernel_size - 1) // 2
        if self.conv_context_size not in (None, [side, side], (side, side)):
            rule = f"must be null or [{side}, {side}], got {show(self.conv_context_size)}"
            found.conflict("conv_context_size", f"{rule}: kernels are centred", "conv_kernel_size")
        if self.reduction and (self.reduction_factor or 1) > 1:
            rule = f"must be null, got {show(self.reduction)}: it is no stage of the space"
            found.conflict("reduction", rule, "reduction_factor")
        if self.self_attention_model == "rel_pos_local_attn" and self.window == 0:
            rule = "must be [w, w] with self_attention_model rel_pos_local_attn"
            found.conflict("att_context_size", rule, "self_attention_model")
        if self.feat_out is not None and self.feat_out > 0 and self.feat_out != self.d_model:
            rule = f"must be d_model {self.d_model}, got {self.feat_out}: a linear layer follows"
            found.conflict("feat_out", f"{rule}, where ours has ReLU too", "d_model")
        if self.subsampling_conv_channels == 0:
            found.conflict("subsampling_conv_channels", "must be -1 or at least 1, got 0")

    @property
    def window(self) -> int:
        """Frames seen on either side; 0 for all."""
        found: int = self.att_context_size[0]
        return max(found, 0)

    def architecture(self) -> BlockArchitecture:
        """Return the encoder's architecture."""
        channels = self.subsampling_conv_channels
        channels = self.d_model if channels == -1 else channels
        front: Part = Conv2dFront(self.subsampling_factor, channels)
        if self.subsampling == "dw_striding":
            front = DepthwiseFront(self.subsampling_factor, channels)
        half = FeedForward(float(self.ff_expansion_factor), 0.5)
        absolute = self.self_attention_model == "abs_pos"
        positions = "none" if absolute else "relative"
        modules = (
            half,
            SelfAttention(self.n_heads, self.window, positions),
            Convolution(self.conv_kernel_size, norm=_NORMS[self.conv_norm_type]),
            half,
        )
        stage = Stage(self.d_model, 1, self.n_layers, modules)
        at_input = "absolute" if absolute else "none"
        return BlockArchitecture(front, self.xscaling, at_input, (stage,))

    def layout(self) -> Layout:
        """Return where its weights are."""
        slots = [
            ("feed_forward1", "norm_feed_forward1"),
            ("self_attn", "norm_self_att"),
            ("conv", "norm_conv"),
            ("feed_forward2", "norm_feed_forward2"),
        ]
        return Layout(NEMO, slots, self.use_bias)

    def network(self) -> dict[str, Any]:
        """Return the options of our network."""
        rate = self.stochastic_depth_drop_prob
        if self.stochastic_depth_mode == "linear":
            rate /= 2  # the mean of the blocks'
        return {
            "output_size": self.d_model,
            "norm_eps": 1e-5,
            "dropout": self.dropout,
            "attention_dropout": self.dropout_att,
            **({"drop_path": rate} if rate else {}),
        }

    def notes(self) -> list[str]:
        """Return what differs, in training only."""
        found = []
        if self.dropout_pre_encoder != self.dropout:
            found.append(
                f"dropout_pre_encoder {self.dropout_pre_encoder}: the input of the first block has "
                f"dropout {self.dropout}"
            )
        if self.dropout_emb:
            found.append(f"dropout_emb {self.dropout_emb}: positions have no dropout")
        if self.stochastic_depth_drop_prob:
            rate = self.network()["drop_path"]
            found.append(f"stochastic_depth_drop_prob: drop_path {rate:g} drops modules instead")
        if not self.use_bias:
            found.append("use_bias false: our layers have biases, which begin at 0")
        return found
