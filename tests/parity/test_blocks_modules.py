"""Residual modules with copied weights are ESPnet's, NeMo's and our DFSMN-SAN's, in float64."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_encoder.baselines.dfsmn_san import DFSMNSANConfig, MemoryBlock
from nas_encoder.baselines.dfsmn_san import SelfAttention as PlainAttention
from nas_encoder.spaces.blocks import positions
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.modules import build_module
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    GatedMlp,
    Memory,
    Parallel,
    SelfAttention,
)

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.nemo,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
]

WIDTH, HEADS, TIME = 16, 4, 23
ESPNET = BlocksConfig(norm_eps=1e-12)
NEMO = BlocksConfig()


@pytest.fixture(autouse=True)
def in_double() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def ours(part: Part, config: BlocksConfig = ESPNET, norm_before: bool = False) -> Any:
    return build_module(part, WIDTH, config, norm_before).eval()


def random(module: Any) -> Any:
    """Draw all parameters and running statistics, so that none has its neutral first value."""
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_(std=0.4)
        for name, tensor in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                tensor.uniform_(0.5, 1.5)
    return module.eval()


def copy(module: nn.Module, other: nn.Module, *renamed: tuple[str, str]) -> None:
    """Load the weights of a toolkit's module; names by parts, pointwise layers as linear ones."""
    found: dict[str, Tensor] = {}
    own = module.state_dict()
    for name, tensor in other.state_dict().items():
        for old, new in renamed:
            name = name.replace(old, new)  # noqa: PLW2901
        # A pointwise convolution is a linear layer.
        found[name] = tensor.view(own[name].shape) if name in own else tensor
    for kind in ("weight", "bias"):
        prefixes = {name[: name.index("linear_q")] for name in found if "linear_q" in name}
        for prefix in prefixes:
            parts = [found.pop(f"{prefix}linear_{part}.{kind}") for part in "qkv"]
            found[f"{prefix}inputs.{kind}"] = torch.cat(parts)
    module.load_state_dict(found)


ATTENTION = (
    ("linear_out", "output"),
    ("linear_pos", "position"),
    ("pos_bias_u", "content_bias"),
    ("pos_bias_v", "position_bias"),
)
CONVOLUTION = (
    ("pointwise_conv1", "expand"),
    ("depthwise_conv", "depthwise"),
    ("batch_norm", "inner_norm"),
    ("pointwise_conv2", "project"),
)
GATED_MLP = (
    ("channel_proj1.0", "expand"),
    ("csgu.norm", "gate_norm"),
    ("csgu.conv", "gate"),
    ("channel_proj2", "project"),
)


def batch(padded: bool = True) -> tuple[Tensor, Tensor, Frames]:
    lengths = torch.tensor([TIME, 11, 2] if padded else [TIME] * 3)
    x = torch.randn(3, TIME, WIDTH)
    mask = torch.arange(TIME) < lengths[:, None]
    return x, mask, Frames(mask if padded else None, positions.relative(x))


def agree(y: Tensor, expected: Tensor, mask: Tensor) -> None:
    torch.testing.assert_close(y[mask], expected[mask], rtol=0, atol=1e-9)


@pytest.mark.parametrize("activation", ["swish", "relu"])
def test_feed_forward(activation: str) -> None:
    from espnet.nets.pytorch_backend.conformer.swish import Swish
    from espnet.nets.pytorch_backend.transformer.positionwise_feed_forward import (
        PositionwiseFeedForward,
    )

    function = Swish() if activation == "swish" else nn.ReLU()
    theirs = random(PositionwiseFeedForward(WIDTH, 40, 0.1, function))
    module = ours(FeedForward(2.5, activation=activation))
    copy(module, theirs, ("w_1", "expand"), ("w_2", "project"))
    x, mask, frames = batch()
    agree(module(x, frames), theirs(x), mask)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_attention(relative: bool, learning: bool) -> None:
    from espnet.nets.pytorch_backend.transformer.attention import (
        MultiHeadedAttention,
        RelPositionMultiHeadedAttention,
    )
    from espnet.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding

    kind = RelPositionMultiHeadedAttention if relative else MultiHeadedAttention
    theirs = random(kind(HEADS, WIDTH, 0.1))
    module = ours(SelfAttention(HEADS, positions="relative" if relative else "none"))
    copy(module, theirs, *ATTENTION)
    x, mask, frames = batch()
    _, sinusoids = RelPositionalEncoding(WIDTH, 0.0)(x)
    given = (sinusoids, mask[:, None]) if relative else (mask[:, None],)
    with torch.set_grad_enabled(learning):
        agree(module(x, frames), theirs(x, x, x, *given), mask)


@pytest.mark.parametrize("kernel", [1, 7, 31])
def test_convolution(kernel: int) -> None:
    from espnet.nets.pytorch_backend.conformer.convolution import ConvolutionModule
    from espnet.nets.pytorch_backend.conformer.swish import Swish

    theirs = random(ConvolutionModule(WIDTH, kernel, Swish()))
    module = ours(Convolution(kernel))
    copy(module, theirs, ("norm", "inner_norm"), *CONVOLUTION)
    x, mask, frames = batch(padded=False)  # ESPnet's looks into the padding
    agree(module(x, frames), theirs(x), mask)
    module.train()
    theirs.train()
    agree(module(x, frames), theirs(x), mask)
    for own, other in (("running_mean",) * 2, ("running_var",) * 2):
        moved = getattr(module.inner_norm, own), getattr(theirs.norm, other)
        torch.testing.assert_close(*moved, rtol=0, atol=1e-9)


def test_gated_mlp() -> None:
    from espnet2.asr.layers.cgmlp import ConvolutionalGatingMLP

    theirs = random(ConvolutionalGatingMLP(WIDTH, 48, 7, 0.1, False, "identity"))
    module = ours(GatedMlp(3.0, 7))
    copy(module, theirs, *GATED_MLP)
    x, mask, frames = batch(padded=False)
    agree(module(x, frames), theirs(x, None), mask)


@pytest.mark.parametrize("merge", [0, 5])
def test_parallel_branches(merge: int) -> None:
    from espnet.nets.pytorch_backend.transformer.attention import RelPositionMultiHeadedAttention
    from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoderLayer
    from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoderLayer
    from espnet2.asr.layers.cgmlp import ConvolutionalGatingMLP

    attention = RelPositionMultiHeadedAttention(HEADS, WIDTH, 0.1)
    mlp = ConvolutionalGatingMLP(WIDTH, 48, 7, 0.1, False, "identity")
    if merge:
        layer = EBranchformerEncoderLayer(WIDTH, attention, mlp, None, None, 0.1, merge)
    else:
        layer = BranchformerEncoderLayer(WIDTH, attention, mlp, 0.1, "concat")
    theirs = random(layer)
    part = Parallel(HEADS, expansion=3.0, kernel=7, merge_kernel=merge)
    block = nn.ModuleDict(
        {
            "part": ours(part, ESPNET, True),
            "norm_final": nn.LayerNorm(WIDTH, 1e-12),
        }
    )
    names = (("attn.", "part.attention."), ("cgmlp.", "part.mlp."), ("merge_proj", "part.project"))
    norms = (("norm_mha", "part.attention.norm"), ("norm_mlp", "part.mlp.norm"))
    fusion = (("depthwise_conv_fusion", "part.merge"),)
    copy(block, theirs, *GATED_MLP, *ATTENTION, *names, *norms, *fusion)
    x, mask, frames = batch(padded=False)
    assert frames.relative is not None
    (expected, _), _ = theirs((x, frames.relative[None]), mask[:, None])
    agree(block["norm_final"](x + block["part"](x, frames)), expected, mask)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_conformer_layer(norm: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about what NeMo uses on import
        found = importlib.import_module("nemo.collections.asr.parts.submodules.conformer_modules")

    theirs = random(
        found.ConformerLayer(
            WIDTH, 32, n_heads=HEADS, conv_kernel_size=5, conv_norm_type=f"{norm}_norm"
        )
    )
    order = ("feed_forward1", "self_att", "conv", "feed_forward2")
    half, attention = FeedForward(2.0, 0.5), SelfAttention(HEADS)
    parts = (half, attention, Convolution(5, norm=norm), half)
    block = nn.ModuleDict(
        {name: ours(part, NEMO, True) for name, part in zip(order, parts, strict=True)}
    )
    block["norm_out"] = nn.LayerNorm(WIDTH)
    names = [(f"norm_{name}", f"{name}.norm") for name in order]
    layers = (("linear1", "expand"), ("linear2", "project"), ("self_attn", "self_att"))
    copy(block, theirs, *names, *layers, *ATTENTION, *CONVOLUTION)
    x, mask, frames = batch()  # NeMo's layers mask padding, too
    assert frames.relative is not None
    unseen = ~(mask[:, None] & mask[:, :, None])
    expected = theirs(x, att_mask=unseen, pos_emb=frames.relative[None], pad_mask=~mask)
    for part, module in zip(parts, list(block.values())[:-1], strict=True):
        x = x + getattr(part, "step", 1.0) * module(x, frames)  # type: ignore[operator]
    agree(block["norm_out"](x), expected, mask)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize(("back", "ahead"), [(4, 2), (0, 3), (5, 0)])
def test_memory(back: int, ahead: int, stride: int) -> None:
    memory = {"look_back": back, "look_ahead": ahead}
    strides = {"look_back_stride": stride, "look_ahead_stride": stride}
    config = DFSMNSANConfig(output_size=WIDTH, hidden_size=40, **memory, **strides)
    theirs = random(MemoryBlock(config, 0))
    module = ours(Memory(back, ahead, stride, 2.5), NEMO, True)
    state = theirs.state_dict()
    taps = [state.pop(name) for name in ("past", "future") if name in state]
    state = {name.replace("hidden", "expand"): tensor for name, tensor in state.items()}
    module.load_state_dict({**state, "taps": torch.cat(taps, 2)})
    x, mask, frames = batch()
    agree(x + module(x, frames), theirs(x, ~mask), mask)


def test_attention_of_dfsmn_san() -> None:
    theirs = random(PlainAttention(DFSMNSANConfig(output_size=WIDTH, attention_heads=HEADS)))
    module = ours(SelfAttention(HEADS, positions="none"), NEMO, True)
    module.load_state_dict(theirs.state_dict())
    x, mask, frames = batch()
    agree(x + module(x, frames), theirs(x, ~mask), mask)
