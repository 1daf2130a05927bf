"""The options (``encoder_conf``) of ESPnet's encoders, with the defaults of version 202511."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nas_encoder.common.fields import choice, flag, integer, option, share, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.front_parts import Conv2dFront
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    GatedMlp,
    Parallel,
    SelfAttention,
)
from nas_encoder.spaces.blocks.toolkits.options import EncoderOptions, ignored, odd, only
from nas_encoder.spaces.blocks.toolkits.weights import ESPNET, Layout

_FRONTS = {"conv2d": 4, "conv2d8": 8}
_NORM_EPS = 1e-12
_POSITIONS = {"rel_pos": "relative", "abs_pos": "absolute"}
_ATTENTION = {"rel_pos": "rel_selfattn", "abs_pos": "selfattn"}
_LEGACY = (
    "the old relative positions make an utterance's output depend on the length of its batch; "
    "train with 'latest'"
)
_LINEAR = "feed-forward modules are linear layers"
_MACARON = ("feed_forward_macaron", "norm_ff_macaron")
_LAST = ("feed_forward", "norm_ff")


def _rates(value: Any, path: str, problems: Problems) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple_of(share, 1, 1000)(value, path, problems)
    return share(value, path, problems)


@dataclass(frozen=True)
class _Encoder(EncoderOptions):
    output_size: int = option(256, integer(1))
    attention_heads: int = option(4, integer(1))
    num_blocks: int = option(12, integer(1))
    dropout_rate: float = option(0.1, share)
    positional_dropout_rate: float = option(0.1, share)
    attention_dropout_rate: float = option(0.0, share)
    input_layer: str = option(
        "conv2d", only(*_FRONTS, why="no front end of the space is like it"), null=False
    )
    qk_norm: bool = option(False, only(False, why="queries and keys have no norm"))
    padding_idx: int = ignored(-1)
    use_flash_attn: bool = ignored(True)

    @property
    def positions(self) -> str:
        """``relative`` or ``absolute``."""
        return "absolute"

    def attention(self) -> SelfAttention:
        """Return the attention module."""
        return SelfAttention(self.attention_heads, 0, self._attention_positions())

    def _attention_positions(self) -> str:
        return "relative" if self.positions == "relative" else "none"

    def _whole(
        self, modules: Sequence[Part], final: bool, before: bool = True
    ) -> BlockArchitecture:
        width = self.output_size
        norm = "before" if before else "after"
        stage = Stage(width, 1, self.num_blocks, tuple(modules), norm, final)
        front = Conv2dFront(_FRONTS[self.input_layer], width, padded=False)
        at_input = "absolute" if self.positions == "absolute" else "none"
        return BlockArchitecture(front, True, at_input, (stage,), before)

    def placed(self, slots: Sequence[tuple[str, str]]) -> Layout:
        """Return where the weights are, if the modules of a block are called so."""
        names = ESPNET if self.input_layer == "conv2d" else replace(ESPNET, output="embed.out")
        return Layout(names, slots)

    def network(self) -> dict[str, Any]:
        """Return the options of our network."""
        return {
            "output_size": self.output_size,
            "norm_eps": _NORM_EPS,
            "dropout": self.dropout_rate,
            "attention_dropout": self.attention_dropout_rate,
        }

    def notes(self) -> list[str]:
        """Return what differs, in training only."""
        if self.positional_dropout_rate == self.dropout_rate:
            return []
        return [
            f"positional_dropout_rate {self.positional_dropout_rate}: the input of the first block "
            f"has dropout_rate {self.dropout_rate}"
        ]


@dataclass(frozen=True)
class _Relative(_Encoder):
    """An encoder that may have relative positions."""

    rel_pos_type: str = option("latest", choice("kind of relative positions", ("latest", "legacy")))
    pos_enc_layer_type: str = option(
        "rel_pos", only(*_POSITIONS, why="there are no other positions")
    )
    zero_triu: bool = option(False, only(False, why="scores of positions are not set to zero"))
    max_pos_emb_len: int = ignored(5000)

    @property
    def positions(self) -> str:
        """``relative`` or ``absolute``."""
        return _POSITIONS[self.pos_enc_layer_type]

    def check_attention(self, name: str, found: Problems) -> None:
        """Check the kind of attention, an option of this name, against the positions."""
        kind, wanted = getattr(self, name), _ATTENTION[self.pos_enc_layer_type]
        if kind != wanted:
            rule = f"must be {wanted} with pos_enc_layer_type {self.pos_enc_layer_type}"
            found.conflict(name, f"{rule}, got {kind}", "pos_enc_layer_type")
        if self.positions == "relative" and self.rel_pos_type != "latest":
            rule = f"must be latest, got {self.rel_pos_type}: {_LEGACY}"
            found.conflict("rel_pos_type", rule, "pos_enc_layer_type")


_ATTENTION_RULE = only("rel_selfattn", "selfattn", why="there is no other attention")


@dataclass(frozen=True)
class _WithTaps(EncoderOptions):
    interctc_layer_idx: Any = ignored(())
    interctc_use_conditioning: bool = option(
        False, only(False, why="its layer is not carried over")
    )
    layer_drop_rate: float = option(0.0, share)

    def notes(self) -> list[str]:
        """Return what differs, in training only."""
        rate = self.layer_drop_rate
        lost = [f"layer_drop_rate {rate}: dropped; drop_path drops modules instead"]
        return [*super().notes(), *(lost if rate else [])]


@dataclass(frozen=True)
class Transformer(_WithTaps, _Encoder):
    """``encoder: transformer``."""

    title = "espnet_transformer"
    num_blocks: int = option(6, integer(1))
    linear_units: int = option(2048, integer(1))
    pos_enc_layer_type: str = option("abs_pos", only("abs_pos", why="there are no other positions"))
    normalize_before: bool = option(True, flag)
    concat_after: bool = option(False, only(False, why="modules are added, not concatenated"))
    positionwise_layer_type: str = option("linear", only("linear", why=_LINEAR))
    positionwise_conv_kernel_size: int = ignored(1)

    def architecture(self) -> BlockArchitecture:
        """Return the encoder's architecture."""
        hidden = self.linear_units / self.output_size
        modules = (self.attention(), FeedForward(hidden, activation="relu"))
        return self._whole(modules, False, self.normalize_before)

    def layout(self) -> Layout:
        """Return where its weights are."""
        return self.placed([("self_attn", "norm1"), ("feed_forward", "norm2")])


@dataclass(frozen=True)
class _Dropped(EncoderOptions):
    stochastic_depth_rate: Any = option(0.0, _rates)

    def network(self) -> dict[str, Any]:
        """Return the options of our network."""
        rates = self.stochastic_depth_rate
        mean = sum(rates) / len(rates) if isinstance(rates, tuple) else rates
        return super().network() | ({"drop_path": mean} if mean else {})

    def notes(self) -> list[str]:
        """Return what differs, in training only."""
        rate = self.network().get("drop_path", 0.0)
        kept = [f"stochastic_depth_rate: drop_path {rate:g} drops modules instead of blocks"]
        return [*super().notes(), *(kept if rate else [])]


@dataclass(frozen=True)
class Conformer(_WithTaps, _Dropped, _Relative):
    """``encoder: conformer``."""

    title = "espnet_conformer"
    num_blocks: int = option(6, integer(1))
    linear_units: int = option(2048, integer(1))
    rel_pos_type: str = option("legacy", choice("kind of relative positions", ("latest", "legacy")))
    selfattention_layer_type: str = option("rel_selfattn", _ATTENTION_RULE)
    normalize_before: bool = option(True, flag)
    concat_after: bool = option(False, only(False, why="modules are added, not concatenated"))
    positionwise_layer_type: str = option("linear", only("linear", why=_LINEAR))
    positionwise_conv_kernel_size: int = ignored(3)
    activation_type: str = option("swish", only("swish", "relu", why="there are no others"))
    macaron_style: bool = option(False, flag)
    use_cnn_module: bool = option(True, flag)
    cnn_module_kernel: int = option(31, odd)
    ctc_trim: bool = option(False, only(False, why="no frames are left out"))

    def conflicts(self, found: Problems) -> None:
        """Check the attention, and the activation of the convolution."""
        self.check_attention("selfattention_layer_type", found)
        if self.use_cnn_module and self.activation_type != "swish":
            rule = f"must be swish, as in the convolution, got {self.activation_type}"
            found.conflict("activation_type", rule, "use_cnn_module")

    def architecture(self) -> BlockArchitecture:
        """Return the encoder's architecture."""
        half = 0.5 if self.macaron_style else 1.0
        mlp = FeedForward(self.linear_units / self.output_size, half, self.activation_type)
        first = [mlp] if self.macaron_style else []
        middle = [Convolution(self.cnn_module_kernel)] if self.use_cnn_module else []
        modules = [*first, self.attention(), *middle, mlp]
        return self._whole(modules, self.use_cnn_module, self.normalize_before)

    def layout(self) -> Layout:
        """Return where its weights are."""
        slots = {
            _MACARON: self.macaron_style,
            ("self_attn", "norm_mha"): True,
            ("conv_module", "norm_conv"): self.use_cnn_module,
            _LAST: True,
        }
        return self.placed([slot for slot, used in slots.items() if used])


@dataclass(frozen=True)
class _Gated(_Relative):
    """An encoder with cgMLP."""

    attention_layer_type: str = option("rel_selfattn", _ATTENTION_RULE)
    cgmlp_linear_units: int = option(2048, integer(2))
    cgmlp_conv_kernel: int = option(31, odd)
    use_linear_after_conv: bool = option(
        False, only(False, why="the gate of a cgMLP is a convolution alone")
    )
    gate_activation: str = option("identity", only("identity", why="gates have no activation"))

    def parallel(self, merge_kernel: int) -> Parallel:
        """Return attention beside cgMLP."""
        return Parallel(
            self.attention_heads,
            0,
            self._attention_positions(),
            self.cgmlp_linear_units / self.output_size,
            self.cgmlp_conv_kernel,
            merge_kernel,
        )

    def conflicts(self, found: Problems) -> None:
        """Check the attention."""
        self.check_attention("attention_layer_type", found)
        if self.cgmlp_linear_units % 2:
            found.conflict("cgmlp_linear_units", f"must be even, got {self.cgmlp_linear_units}")


@dataclass(frozen=True)
class Branchformer(_Dropped, _Gated):
    """``encoder: branchformer``."""

    title = "espnet_branchformer"
    use_attn: bool = option(True, flag)
    use_cgmlp: bool = option(True, flag)
    merge_method: str = option(
        "concat", choice("way to merge", ("concat", "learned_ave", "fixed_ave"))
    )
    cgmlp_weight: Any = ignored(0.5)
    attn_branch_drop_rate: Any = ignored(0.0)

    def conflicts(self, found: Problems) -> None:
        """Check the branches, and how they are merged."""
        super().conflicts(found)
        if not self.use_attn and not self.use_cgmlp:
            found.conflict("use_attn", "must be true if use_cgmlp is false", "use_cgmlp")
        elif self.use_attn and self.use_cgmlp and self.merge_method != "concat":
            rule = f"must be concat, got {self.merge_method}: branches are not averaged"
            found.conflict("merge_method", rule)

    def architecture(self) -> BlockArchitecture:
        """Return the encoder's architecture."""
        module: Part = self.parallel(0)
        if not self.use_cgmlp:
            module = self.attention()
        elif not self.use_attn:
            module = GatedMlp(self.cgmlp_linear_units / self.output_size, self.cgmlp_conv_kernel)
        return self._whole([module], True)

    def layout(self) -> Layout:
        """Return where its weights are."""
        slot = ("", "")
        if not self.use_cgmlp:
            slot = ("attn", "norm_mha")
        elif not self.use_attn:
            slot = ("cgmlp", "norm_mlp")
        return self.placed([slot])


@dataclass(frozen=True)
class EBranchformer(_WithTaps, _Gated):
    """``encoder: e_branchformer``."""

    title = "espnet_e_branchformer"
    use_ffn: bool = option(False, flag)
    macaron_ffn: bool = option(False, flag)
    ffn_activation_type: str = option("swish", only("swish", "relu", why="there are no others"))
    linear_units: int = option(2048, integer(1))
    positionwise_layer_type: str = option("linear", only("linear", None, why=_LINEAR), null=True)
    merge_conv_kernel: int = option(3, odd)
    gradient_checkpoint_layers: Any = ignored(())

    def architecture(self) -> BlockArchitecture:
        """Return the encoder's architecture."""
        macaron = self.use_ffn and self.macaron_ffn
        hidden = self.linear_units / self.output_size
        mlp = FeedForward(hidden, 0.5 if macaron else 1.0, self.ffn_activation_type)
        modules = [
            *([mlp] if macaron else []),
            self.parallel(self.merge_conv_kernel),
            *([mlp] if self.use_ffn else []),
        ]
        return self._whole(modules, True)

    def layout(self) -> Layout:
        """Return where its weights are."""
        slots = {
            _MACARON: self.use_ffn and self.macaron_ffn,
            ("", ""): True,
            _LAST: self.use_ffn,
        }
        return self.placed([slot for slot, used in slots.items() if used])

    def network(self) -> dict[str, Any]:
        """Return the options of our network."""
        kept = {"checkpointing": True} if self.gradient_checkpoint_layers else {}
        return super().network() | kept

    def notes(self) -> list[str]:
        """Return what differs, in training only."""
        normed = ["interctc_layer_idx: the intermediate outputs go through the last norm"]
        return [*super().notes(), *(normed if self.interctc_layer_idx else [])]
