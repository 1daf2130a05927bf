"""Our residual modules against the toolkits' own, side by side in one process, on the CPU.

For each module, width and number of frames: the forward pass of one utterance, and a training step
(forward, and backward to input and weights, dropout on) of a padded batch; the median of
--repeats alternating measurements of CPU time, and ours as a share of theirs. The toolkits' modules
have no norms, so ours are built without. ``--json`` prints one object.

    python benchmarks/residual_modules.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from nas_encoder.baselines.dfsmn_san import DFSMNSANConfig, MemoryBlock
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import measure
from nas_encoder.spaces.blocks import positions
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.modules import build_module
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    GatedMlp,
    Memory,
    Parallel,
    Part,
    SelfAttention,
)

SIZES = ((64, 100), (64, 250), (144, 250), (256, 250))  # width, frames
BATCH = 8
HEADS = 4
RATE = 0.1  # of dropout, our default
Pair = tuple[nn.Module, Callable[[Tensor, Frames], Tensor]]


def ours(part: Part, width: int) -> Pair:
    """Return our module and a call."""
    module = build_module(part, width, BlocksConfig(), False)
    return module, module


def attention(width: int, toolkit: str, relative: bool) -> Pair:
    """Return a toolkit's attention and a call."""
    if toolkit == "nemo":
        from nemo.collections.asr.parts.submodules.multi_head_attention import (
            RelPositionMultiHeadAttention,
        )

        module = RelPositionMultiHeadAttention(HEADS, width, RATE, None, None)
    else:
        from espnet.nets.pytorch_backend.transformer.attention import (
            MultiHeadedAttention,
            RelPositionMultiHeadedAttention,
        )

        kind = RelPositionMultiHeadedAttention if relative else MultiHeadedAttention
        module = kind(HEADS, width, RATE)

    def call(x: Tensor, frames: Frames) -> Tensor:
        mask = None
        if frames.mask is not None:
            mask = frames.mask[:, None]
            mask = ~(mask & mask.transpose(1, 2)) if toolkit == "nemo" else mask
        place = {} if frames.relative is None else {"pos_emb": frames.relative[None]}
        y: Tensor = module(x, x, x, mask=mask, **(place if relative else {}))
        return y

    return module, call


def convolution(width: int, toolkit: str, kernel: int) -> Pair:
    """Return a toolkit's convolution module and a call."""
    if toolkit == "nemo":
        from nemo.collections.asr.parts.submodules.conformer_modules import ConformerConvolution

        module = ConformerConvolution(width, kernel)
        return module, lambda x, frames: module(
            x, pad_mask=None if frames.mask is None else ~frames.mask
        )
    from espnet.nets.pytorch_backend.conformer.convolution import ConvolutionModule

    module = ConvolutionModule(width, kernel, nn.SiLU())
    return module, lambda x, frames: module(x)


def feed_forward(width: int) -> Pair:
    """Return ESPnet's feed-forward module and a call."""
    from espnet.nets.pytorch_backend.transformer.positionwise_feed_forward import (
        PositionwiseFeedForward,
    )

    module = PositionwiseFeedForward(width, 4 * width, RATE, nn.SiLU())
    return module, lambda x, frames: module(x)


def gated_mlp(width: int) -> Pair:
    """Return ESPnet's cgMLP and a call."""
    from espnet2.asr.layers.cgmlp import ConvolutionalGatingMLP

    module = ConvolutionalGatingMLP(width, 6 * width, 31, RATE, False, "identity")
    return module, lambda x, frames: module(x, None)


def parallel(width: int) -> Pair:
    """Return ESPnet's E-Branchformer layer without feed-forward modules, and a call."""
    from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoderLayer

    inner = attention(width, "espnet", True)[0], gated_mlp(width)[0]
    module = EBranchformerEncoderLayer(width, *inner, None, None, RATE, 31)

    def call(x: Tensor, frames: Frames) -> Tensor:
        assert frames.relative is not None
        mask = None if frames.mask is None else frames.mask[:, None]
        y: Tensor = module((x, frames.relative[None]), mask)[0][0]
        return y

    return module, call


def memory(width: int, stride: int) -> Pair:
    """Return the memory block of our DFSMN-SAN, which has a norm and its skip, and a call."""
    strides = {"look_back_stride": stride, "look_ahead_stride": stride}
    module = MemoryBlock(DFSMNSANConfig(output_size=width, hidden_size=4 * width, **strides), 0)
    return module, lambda x, frames: module(x, None if frames.mask is None else ~frames.mask)


def pairs(width: int) -> Iterator[tuple[str, Pair, Pair]]:
    """Yield a name, ours and theirs."""
    yield "espnet feed-forward", ours(FeedForward(4.0), width), feed_forward(width)
    for toolkit in ("espnet", "nemo"):
        own = ours(SelfAttention(HEADS), width)
        yield f"{toolkit} attention", own, attention(width, toolkit, True)
    bare = ours(SelfAttention(HEADS, positions="none"), width)
    yield "espnet attention, no positions", bare, attention(width, "espnet", False)
    near = ours(SelfAttention(HEADS, 32), width)
    yield "espnet attention, ours window 32", near, attention(width, "espnet", True)
    for kernel in (9, 15, 31):
        for toolkit in ("espnet", "nemo"):
            own = ours(Convolution(kernel), width)
            yield f"{toolkit} convolution {kernel}", own, convolution(width, toolkit, kernel)
    yield "espnet cgMLP 31", ours(GatedMlp(6.0, 31), width), gated_mlp(width)
    yield "espnet E-Branchformer", ours_with_norms(width), parallel(width)
    for stride in (1, 2):
        module = build_module(Memory(10, 10, stride, 4.0), width, BlocksConfig(), True)
        yield f"DFSMN-SAN memory, stride {stride}", added(module), memory(width, stride)


def added(module: nn.Module) -> Pair:
    """Return a module and a call that adds its result to the stream."""
    return module, lambda x, frames: x + module(x, frames)


def ours_with_norms(width: int) -> Pair:
    """Return ours with the norms of an E-Branchformer layer, and a call."""
    part = Parallel(HEADS, expansion=6.0, kernel=31, merge_kernel=31)
    layers = nn.ModuleList([build_module(part, width, BlocksConfig(), True), nn.LayerNorm(width)])
    return layers, lambda x, frames: layers[1](x + layers[0](x, frames))


def step(pair: Pair, x: Tensor, frames: Frames) -> None:
    """Run a training step without the optimizer."""
    module, call = pair
    module.zero_grad()
    call(x.clone().requires_grad_(), frames).square().mean().backward()


def compare(
    name: str, width: int, frames: int, sides: dict[str, Pair], repeats: int
) -> dict[str, object]:
    """Return the medians of both sides, and ours as a share of theirs."""
    one, batch = torch.randn(1, frames, width), torch.randn(BATCH, frames, width)
    mask = torch.arange(frames) < torch.linspace(frames, 0.6 * frames, BATCH)[:, None]
    alone, padded = Frames(None, positions.relative(one)), Frames(mask, positions.relative(batch))
    row: dict[str, object] = {"module": name, "width": width, "frames": frames}
    for module, _ in sides.values():
        module.eval()
    with torch.no_grad():
        calls = {side: lambda c=call: c(one, alone) for side, (_, call) in sides.items()}
        found = {"forward": measure(calls, 3 * repeats, clock=time.process_time)}
    for module, _ in sides.values():
        module.train()
    calls = {side: lambda p=pair: step(p, batch, padded) for side, pair in sides.items()}
    found["step"] = measure(calls, repeats, clock=time.process_time)
    for what, times in found.items():
        for side in sides:
            row[f"{what}_{side}_ms"] = round(1e3 * times[side].median, 3)
        row[f"{what}_share"] = round(times["ours"].median / times["theirs"].median, 2)
    return row


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [
        compare(name, width, frames, {"ours": own, "theirs": theirs}, args.repeats)
        for width, frames in SIZES
        for name, own, theirs in pairs(width)
    ]
    if args.json:
        print(json.dumps({**environment(), "threads": args.threads, "rows": rows}))
        return 0
    print("  ".join(f"{key}: {value}" for key, value in environment().items()))
    print(f"{'':<34}width  frames    forward ms: ours theirs share   step ms: ours theirs share")
    for row in rows:
        name, width, frames, *numbers = row.values()
        cells = "".join(f"{number:>10}" for number in numbers)
        print(f"{name:<34}{width:>5}{frames:>8}{cells}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
