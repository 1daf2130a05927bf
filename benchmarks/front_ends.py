"""Our convolutional front ends against the toolkits' own, side by side in one process, on the CPU.

For each front end and number of channels: the forward pass of 10 s of features, and a training
step (forward, and backward to all weights) of four utterances of 10 to 4 s; the median of --repeats
alternating measurements, and ours as a share of theirs. ``--json`` prints one object.

    python benchmarks/front_ends.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import measure
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.front import build_front
from nas_encoder.spaces.blocks.front_parts import Conv2dFront, DepthwiseFront
from nas_encoder.spaces.blocks.part import Part

BINS, WIDTH, FRAMES = 80, 176, 1000
CHANNELS = (16, 64, 256)
Encode = Callable[[Tensor, Tensor], Tensor]


def espnet(factor: int, channels: int) -> tuple[nn.Module, Encode]:
    """Return ESPnet's module, whose width is its number of channels, and a call."""
    from espnet.nets.pytorch_backend.transformer import subsampling

    kind = {4: subsampling.Conv2dSubsampling, 8: subsampling.Conv2dSubsampling8}[factor]
    module = kind(BINS, channels, 0.0, nn.Identity())

    def encode(x: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(x.size(1))[None, :] < lengths[:, None]
        y: Tensor = module(x, mask[:, None])[0]
        return y

    return module, encode


def nemo(kind: str, factor: int, channels: int) -> tuple[nn.Module, Encode]:
    """Return NeMo's module and a call."""
    from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling

    module = ConvSubsampling(kind, factor, BINS, WIDTH, channels, activation=nn.ReLU(True))
    return module, lambda x, lengths: module(x, lengths)[0]


def ours(part: Part, width: int) -> tuple[nn.Module, Encode]:
    """Return our module and a call; an encoder gives no lengths where nothing is padded."""
    module = build_front(part, BINS, width, BlocksConfig())
    return module, lambda x, lengths: module(x, None if len(x) == 1 else lengths)[0]


def pairs(channels: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield a name, ours and theirs."""
    for factor in (4, 8):
        bare = Conv2dFront(factor, channels, padded=False)
        yield f"espnet conv2d {factor}x", ours(bare, channels), espnet(factor, channels)
        parts = {"striding": Conv2dFront, "dw_striding": DepthwiseFront}
        for kind, part in parts.items():
            own = ours(part(factor, channels), WIDTH)
            yield f"nemo {kind} {factor}x", own, nemo(kind, factor, channels)


def step(module: nn.Module, encode: Encode, x: Tensor, lengths: Tensor) -> None:
    """Run a training step without the optimizer."""
    module.zero_grad()
    encode(x, lengths).square().mean().backward()


def compare(name: str, channels: int, sides: dict[str, Any], repeats: int) -> dict[str, object]:
    """Return the medians of both sides, and ours as a share of theirs."""
    one, batch = torch.randn(1, FRAMES, BINS), torch.randn(4, FRAMES, BINS)
    lengths = torch.tensor([1000, 817, 633, 400])
    row: dict[str, object] = {"front_end": name, "channels": channels}
    for module, _ in sides.values():
        module.eval()
    with torch.no_grad():
        calls = {side: lambda e=encode: e(one, lengths[:1]) for side, (_, encode) in sides.items()}
        found = {"forward": measure(calls, 3 * repeats)}
    for module, _ in sides.values():
        module.train()
    calls = {side: lambda p=pair: step(*p, batch, lengths) for side, pair in sides.items()}
    found["step"] = measure(calls, repeats)
    for what, times in found.items():
        for side in sides:
            row[f"{what}_{side}_ms"] = round(1e3 * times[side].median, 2)
        row[f"{what}_share"] = round(times["ours"].median / times["theirs"].median, 2)
    return row


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [
        compare(name, channels, {"ours": own, "theirs": theirs}, args.repeats)
        for channels in args.channels
        for name, own, theirs in pairs(channels)
    ]
    if args.json:
        print(json.dumps({**environment(), "threads": args.threads, "rows": rows}))
        return 0
    print("  ".join(f"{key}: {value}" for key, value in environment().items()))
    print(f"{'':<22}channels   forward ms: ours theirs share    step ms: ours theirs share")
    for row in rows:
        name, channels, *numbers = row.values()
        print(f"{name:<22}{channels:>8}" + "".join(f"{number:>12}" for number in numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
