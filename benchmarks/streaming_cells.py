"""CPU seconds per second of audio of a stream of an encoder: its own caches against windows.

Without caches of its own an encoder encodes each chunk again with all the input frames that it
depends on (``nas_encoder/network/windowed.py``), as cells and chains did before they had any. Both
are measured in one process, on one thread, in the second half of a stream; their ratio hardly
depends on the machine's load.

    python benchmarks/streaming_cells.py --genotype asrnet_b
"""

from __future__ import annotations

import argparse
import time
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from nas_encoder import build_encoder
from nas_encoder.network.tapped import TappedEncoder

FRAMES = 100  # a second


@torch.no_grad()
def stream(network: Any, x: Tensor, size: int, windows: bool) -> tuple[float, Tensor]:
    """Return the CPU seconds per second of audio, and the output (1, T', D).

    Args:
        network: In evaluation mode.
        x: (1, T, F).
        size: Frames of a chunk.
        windows: Whether to encode windows again.
    """
    for name in ("initial_caches", "stream"):
        network.__dict__.pop(name, None)
        if windows:
            setattr(network, name, MethodType(getattr(TappedEncoder, name), network))
    state, pieces, began = network.initial_state(1), [], 0.0
    chunks = x.split(size, 1)
    half = len(chunks) // 2
    for number, chunk in enumerate(chunks):
        if number == half:
            began = time.process_time()
        y, state = network.step(chunk, state)
        pieces.append(y)
    seconds = sum(chunk.size(1) for chunk in chunks[half:]) / FRAMES
    return (time.process_time() - began) / seconds, torch.cat(pieces, 1)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genotype", default="asrnet_b")
    parser.add_argument("--channels", type=int, help="by default those of the space")
    parser.add_argument("--layers", type=int, help="likewise")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the stream")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network: Any = build_encoder(
        args.genotype, input_size=40, channels=args.channels, layers=args.layers
    ).eval()
    x = torch.randn(1, round(FRAMES * args.seconds), 40)
    began = time.process_time()
    with torch.no_grad():
        network(x, torch.tensor([x.size(1)]))
    whole = (time.process_time() - began) / args.seconds
    parameters = sum(own.numel() for own in network.parameters())
    print(f"{args.genotype}, {parameters / 1e6:.1f} million parameters, lookahead ", end="")
    print(f"{1000 * network.lookahead() / FRAMES:.0f} ms; the whole at once: {whole:.3f}")
    print("chunk     caches   windows   ratio   (CPU seconds per second of audio)")
    for size in (4, 16, 64):
        own, first = stream(network, x, size, False)
        again, second = stream(network, x, size, True)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
        print(f"{1000 * size // FRAMES:4d} ms {own:9.3f} {again:9.3f} {again / own:7.1f}")


if __name__ == "__main__":
    main()
